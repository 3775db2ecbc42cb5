"""A small client over HTTP for the commands that talk to a server."""

from __future__ import annotations

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
    """

    def __init__(self, url: str, key: str = "", ca: Path | None = None) -> None:
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(url)
        except ValueError as exc:
            raise DeepSeekError(f"`{url}` is no server's URL", hint="write http://host:port") from exc
        self.url = url.rstrip("/")
        self._key = key
        self._context = trusting(ca) if ca else None

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[bytes, Any]:
        """The body and the headers of an answer. Raises DeepSeekError."""
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 -- http or https, see above
        try:
            with urllib.request.urlopen(request, timeout=300, context=self._context) as answer:  # noqa: S310
                return answer.read(), answer.headers
        except urllib.error.HTTPError as exc:
            raise DeepSeekError(f"{path}: {_told(exc)} (status {exc.code})") from exc
        except (urllib.error.URLError, OSError) as exc:
            reason = getattr(exc, "reason", exc)
            hint = "is the server running there? deepseek serve ..."
            raise UnavailableError(f"{self.url} does not answer: {reason}", hint=hint) from exc

    def json(self, path: str, body: bytes | None = None) -> Any:
        """The JSON of an answer. Raises DeepSeekError."""
        content, _ = self.ask(path, body)
        try:
            return json.loads(content)
        except ValueError as exc:
            raise DeepSeekError(
                f"{self.url}{path} answers with what is no JSON", hint="is it a DeepSeek server?"
            ) from exc


def trusting(ca: Path | None) -> ssl.SSLContext:
    """What checks a server's certificate. Raises DeepSeekError.

    Args:
        ca: file of the authority that the certificate is of; None: the system's.
    """
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except OSError as exc:
        raise DeepSeekError(f"`{ca}` is no file of an authority: {exc.strerror or exc}", hint="PEM is wanted") from exc


def _told(exc: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(exc.read())["error"])
    except (ValueError, KeyError, TypeError):
        return exc.reason
