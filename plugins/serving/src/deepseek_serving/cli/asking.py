"""A small client over HTTP for the commands that talk to a server."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deepseek.plugin import DeepSeekError, UnavailableError


class Client:
    """Asks a server.

    Args:
        url: the server's (``http://host:port``).
        key: an API key; empty: none.
        ca: file of the authority that the server's certificate is of; None: the system's.
        cert, cert_key: files of one's own certificate and its key, for servers that want one; None: none.

    Attributes:
        url, key: as given.
        tls: what checks the server's certificate, and shows one's own; None: the connection is not encrypted.
    """

    def __init__(
        self, url: str, key: str = "", ca: Path | None = None, cert: Path | None = None, cert_key: Path | None = None
    ) -> None:
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(url)
        except ValueError as exc:
            raise DeepSeekError(f"`{url}` is no server's URL", hint="write http://host:port") from exc
        self.url = url.rstrip("/")
        self.key = key.strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise DeepSeekError("the API key is none: it holds what no header can", hint="give it as it was printed")
        wanted = ca or cert or parts.scheme == "https"
        self.tls = _trusting(ca, cert, cert_key) if wanted else None
        self._opener = urllib.request.build_opener(_Staying(), urllib.request.HTTPSHandler(context=self.tls))

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[bytes, Any]:
        """The body and the headers of an answer. Raises DeepSeekError."""
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 -- http or https, see above
        try:
            with self._opener.open(request, timeout=300) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as exc:
            raise DeepSeekError(f"{path}: {_told(exc)} (status {exc.code})") from exc
        except (urllib.error.URLError, OSError, http.client.HTTPException) as exc:
            reason = getattr(exc, "reason", exc)
            hint = "is the server running there? deepseek serve ..."
            if isinstance(reason, ssl.SSLCertVerificationError):
                hint = "name the authority that its certificate is of: --ca FILE"
            raise UnavailableError(f"{self.url} does not answer: {reason}", hint=hint) from exc

    def json(self, path: str, body: bytes | None = None, *, field: str) -> dict[str, Any]:
        """The JSON of an answer, an object with a field of this name. Raises DeepSeekError."""
        content, _ = self.ask(path, body)
        try:
            answer = json.loads(content)
            answer[field]
        except (ValueError, KeyError, TypeError, IndexError) as exc:
            what = f"{self.url}{path} answers with what is no JSON with `{field}`"
            raise DeepSeekError(what, hint="is it a DeepSeek server?") from exc
        found: dict[str, Any] = answer
        return found


class _Staying(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: the key is for this server alone."""

    def redirect_request(self, *args: Any) -> None:
        """No request follows; the answer that asks for one is an error."""


def _trusting(ca: Path | None, cert: Path | None, cert_key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except OSError as exc:
        raise DeepSeekError(f"`{ca}` is no file of an authority: {exc.strerror or exc}", hint="PEM is wanted") from exc
    if cert:
        try:
            context.load_cert_chain(cert, cert_key)
        except OSError as exc:
            what = f"`{cert}` is no certificate with its key: {exc.strerror or exc}"
            raise DeepSeekError(what, hint="PEM is wanted; the key may be in --cert-key") from exc
    return context


def _told(exc: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(exc.read())["error"])
    except (ValueError, KeyError, TypeError):
        return exc.reason
