"""The access log: a line of JSON for each answer."""

from __future__ import annotations

import datetime
import logging
import secrets
import sys
from time import monotonic
from typing import Any

import msgspec

from deepseek_serving.http.message import Message

logger = logging.getLogger("deepseek.access")


class AccessLog:
    """Writes to standard error. Headers, queries and bodies, where secrets are, are never written."""

    def __init__(self) -> None:
        logger.propagate = False
        if not logger.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(message)s"))
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)

    def identify(self, message: Message) -> bytes:
        """The request's name: its header ``x-request-id``, or a new one."""
        given = message.header(b"x-request-id")
        return given[:128] if given else secrets.token_hex(8).encode()

    def write(self, message: Message, name: bytes, peer: Any, status: int, length: int) -> None:
        """One line."""
        path = message.target.partition(b"?")[0].decode("latin-1")
        self.line(name.decode("latin-1"), peer, message.method, path, status, length, monotonic() - message.arrived)

    def line(self, name: str, peer: Any, method: str, path: str, status: object, length: int, seconds: float) -> None:
        """One line, of either protocol."""
        row = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"), "id": name,
            "client": peer[0] if isinstance(peer, tuple) else str(peer), "method": method, "path": path,
            "status": status, "bytes": length, "ms": round(seconds * 1000, 3),
        }  # fmt: skip
        logger.info("%s", msgspec.json.encode(row).decode())
