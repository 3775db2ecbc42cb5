"""The heads of requests and of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

#: Header names and values, names in lower case.
Headers = list[tuple[bytes, bytes]]
#: What ends a head.
END = b"\r\n\r\n"
#: Where the binary tensors of a request or an answer begin in its body: the header of the protocol's extension.
TENSORS = b"inference-header-content-length"

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
        chunked: how its transfer is encoded; None: it is not.
        tensors: where the binary tensors begin in the body, if there are any.
        waits: whether the client waits to be told to send the body.
        serve: answers requests of this head; takes the connection, the head, the body, and whether the body's memory
            is the request's own.
    """

    __slots__ = (
        "chunked",
        "chunks",
        "headers",
        "keep_alive",
        "length",
        "method",
        "serve",
        "target",
        "tensors",
        "waits",
    )

    def __init__(
        self, method: str, target: bytes, headers: Headers, *, keep_alive: bool, chunks: bool = True
    ) -> None:  # fmt: skip
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive, self.chunks = keep_alive, chunks
        length, expect = self.header(b"content-length"), self.header(b"expect")
        self.length = _number(length)
        self.chunked = self.header(b"transfer-encoding")
        self.tensors = _number(self.header(TENSORS)) or 0
        self.waits = expect is not None and expect.lower() == b"100-continue"
        self.serve: Callable[[Any, Head, bytes | memoryview, bool], None] = _unseen

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


def _unseen(connection: Any, head: Head, body: bytes | memoryview, own: bool) -> None:
    raise NotImplementedError("nobody has looked at this head")


def _number(value: bytes | None) -> int | None:
    """A header that is a number of bytes; None: it is not."""
    if value is None or not value.isdigit():
        return None
    return int(value) if len(value) < 19 else 1 << 62


#: The head of what is no request.
NO_HEAD = Head("", b"", [], keep_alive=False)


@lru_cache(4096)
def _usual(length: int, kind: bytes, tensors: bytes | None = None) -> bytes:
    more = b"" if tensors is None else b"%b: %b\r\n" % (TENSORS, tensors)
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n" % (kind, length, more)


def head(
    status: int, length: int | None, kind: bytes, more: Sequence[tuple[bytes, bytes]] = (), *, close: bool = False
) -> bytes:
    """The head of an answer; of one without a length where that is not known yet."""
    if status == 200 and not close and length is not None:
        # As most are.
        if not more:
            return _usual(length, kind)
        if len(more) == 1 and more[0][0] is TENSORS:
            return _usual(length, kind, more[0][1])
    lines = [_STATUS[status], b"content-type: ", kind, b"\r\n"]
    if length is not None:
        lines.append(b"content-length: %d\r\n" % length)
    for name, value in more:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(lines)
