"""The heads of requests and of answers."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

#: Header names and values, names in lower case.
Headers = list[tuple[bytes, bytes]]

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_STATUS[499] = b"HTTP/1.1 499 Client Closed Request\r\n"


class Head:
    """The head of a request. Clients send the same one again and again, so what follows from it is found once.

    Attributes:
        method: ``POST``, ...
        target: path and query as they were sent.
        headers: in their order.
        keep_alive: whether the connection is to stay.
        chunks: whether the client takes answers in chunks: from HTTP/1.1 on.
        length: bytes of the body; None: it comes in chunks, or there is none.
        tensors: where the binary tensors begin in the body, if there are any.
        waits: whether the client waits to be told to send the body.
        road: what the road that answers it knows of it; None: it is none of the road's.
        wrong: why it is not served; empty: it is.
    """

    __slots__ = ("chunks", "headers", "keep_alive", "length", "method", "road", "target", "tensors", "waits", "wrong")

    def __init__(
        self, method: str, target: bytes, headers: Headers, *, keep_alive: bool, chunks: bool = True
    ) -> None:  # fmt: skip
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive, self.chunks = keep_alive, chunks
        length, expect = self.header(b"content-length"), self.header(b"expect")
        self.length = _number(length)
        self.tensors = _number(self.header(b"inference-header-content-length")) or 0
        self.waits = expect is not None and expect.lower() == b"100-continue"
        self.road: Any = None
        self.wrong = ""

    def header(self, name: bytes) -> bytes | None:
        """The first header of a name (lower case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def size(self) -> int:
        """Bytes of it, about."""
        return len(self.target) + sum(len(name) + len(value) + 4 for name, value in self.headers)


def _number(value: bytes | None) -> int | None:
    """A header that is a number of bytes; None: it is not."""
    if value is None or not value.isdigit():
        return None
    return int(value) if len(value) < 19 else 1 << 62


def head(
    status: int, length: int, kind: bytes, more: Iterable[tuple[bytes, bytes]] = (), *, close: bool = False
) -> bytes:
    """The head of an answer."""
    if status == 200 and not more and not close:
        # As most are.
        return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, length)
    lines = [_STATUS[status], b"content-type: ", kind, b"\r\ncontent-length: ", b"%d" % length, b"\r\n"]
    for name, value in more:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(lines)
