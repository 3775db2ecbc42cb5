"""Encryption: the same certificate for both protocols."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from deepseek.plugin import ConfigError
from deepseek_serving.settings import TlsSettings


class Tls:
    """The server's certificate, and whose certificates clients must show.

    Args:
        settings: where the files are.

    Raises:
        ConfigError: a file can't be read, or is not what it should be.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.context("http/1.1")

    def context(self, protocol: str) -> ssl.SSLContext:
        """What encrypts connections of a protocol, by its name in TLS (ALPN). Raises ConfigError."""
        if protocol in self._contexts:
            return self._contexts[protocol]
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([protocol])
        for path in filter(None, (settings.certificate, settings.key, settings.client_ca)):
            _read(path)
        try:
            context.load_cert_chain(settings.certificate, settings.key)
            if settings.client_ca:
                context.load_verify_locations(settings.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as exc:
            hint = "look at `server.tls`: PEM files, the key without a password"
            raise ConfigError(f"the TLS files can't be used: {exc}", hint=hint) from exc
        self._contexts[protocol] = context
        return context

    def grpc_credentials(self) -> Any:
        """The same for grpc."""
        import grpc

        settings = self._settings
        ca = _read(settings.client_ca) if settings.client_ca else None
        pair = (_read(settings.key), _read(settings.certificate))
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"the TLS file {path} can't be read: {exc.strerror}", hint="look at `server.tls`") from exc
