"""The access log: a line of JSON for each answer."""

from __future__ import annotations

import datetime
import logging
import secrets
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from deepseek_serving.http.connection import Connection
    from deepseek_serving.http.message import Head


logger = logging.getLogger("deepseek.access")


def new_name() -> str:
    """For a request that has none."""
    return secrets.token_hex(8)


class AccessLog:
    """Writes to standard error. Headers, queries and bodies, where secrets are, are never written."""

    def __init__(self) -> None:
        logger.propagate = False
        if not logger.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(message)s"))
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)

    def answered(self, connection: Connection, asked: Head, status: int, length: int) -> tuple[bytes, bytes]:
        """One line for an answer over HTTP; the header that gives the request its name: its own, or a new one."""
        header = self.named(asked)
        self.ended(connection, asked, header[1], status, length)
        return header

    def named(self, asked: Head) -> tuple[bytes, bytes]:
        """The header that gives a request its name: its own, or a new one."""
        given = asked.header(b"x-request-id")
        return b"x-request-id", given[:128] if given else new_name().encode()

    def ended(self, connection: Connection, asked: Head, name: bytes, status: int, length: int) -> None:
        """One line for an answer over HTTP that is complete, or will never be."""
        path = asked.target.partition(b"?")[0].decode("latin-1")
        took = monotonic() - connection.arrived
        self.line(name.decode("latin-1"), connection.peer, asked.method, path, status, length, took)

    def line(self, name: str, peer: Any, method: str, path: str, status: object, length: int, seconds: float) -> None:
        """One line, of either protocol."""
        row = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"), "id": name,
            "client": peer[0] if isinstance(peer, tuple) else str(peer), "method": method, "path": path,
            "status": status, "bytes": length, "ms": round(seconds * 1000, 3),
        }  # fmt: skip
        logger.info("%s", msgspec.json.encode(row).decode())
