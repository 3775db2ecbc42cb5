"""The heads of requests and of answers, and bodies that are compressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import numpy as np

from deepseek.plugin import InputError
from deepseek_serving.errors import TooLargeError

#: Header names and values, names in lower case.
Headers = list[tuple[bytes, bytes]]

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_STATUS[499] = b"HTTP/1.1 499 Client Closed Request\r\n"
_ALIGNMENT = 64
#: zlib's window sizes: gzip, and deflate with its header.
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


class Head:
    """The head of a request. Clients send the same one again and again, so what follows from it is found once.

    Attributes:
        method: ``POST``, ...
        target: path and query as they were sent.
        headers: in their order.
        keep_alive: whether the connection is to stay.
        length: bytes of the body; None: it comes in chunks, or there is none.
        waits: whether the client waits to be told to send the body.
        road: what the road that answers it knows of it; None: it is none of the road's.
        wrong: why it is not served; empty: it is.
    """

    __slots__ = ("headers", "keep_alive", "length", "method", "road", "target", "waits", "wrong")

    def __init__(self, method: str, target: bytes, headers: Headers, *, keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive
        length, expect = self.header(b"content-length"), self.header(b"expect")
        self.length = int(length) if length is not None and length.isdigit() else None
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


def head(
    status: int, length: int, kind: bytes, more: Iterable[tuple[bytes, bytes]] = (), *, close: bool = False
) -> bytes:
    """The head of an answer."""
    lines = [_STATUS[status], b"content-type: ", kind, b"\r\ncontent-length: ", b"%d" % length, b"\r\n"]
    for name, value in more:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(lines)


def aligned(length: int, tensors: int) -> memoryview:
    """Memory for a body of `length` bytes, whose tensors begin after so many: where a processor likes it."""
    memory = np.empty(length + _ALIGNMENT, np.uint8)
    start = -(memory.ctypes.data + tensors) % _ALIGNMENT
    return memory.data[start : start + length]


def unpacked(body: bytes | memoryview, encoding: bytes, limit: int) -> bytes:
    """A body without its Content-Encoding.

    Raises:
        InputError: an encoding that is not known, or a body that is not what it claims.
        TooLargeError: it unfolds to more than `limit` bytes.
    """
    window = _WINDOWS.get(encoding.strip().lower())
    if window is None:
        raise InputError(f"the Content-Encoding `{encoding.decode('latin-1')}` is not known", hint="gzip or deflate")
    unpack = zlib.decompressobj(window)
    try:
        content = unpack.decompress(body, limit + 1)
    except zlib.error as exc:
        raise InputError(f"the body is not {encoding.decode('latin-1')}: {exc}") from exc
    if len(content) > limit:
        raise TooLargeError(f"the body unfolds to more than {limit} bytes")
    if not unpack.eof:
        raise InputError(f"the body is cut short: its {encoding.decode('latin-1')} does not end")
    return content


def packed(parts: list[bytes | memoryview], accepted: bytes) -> tuple[bytes, bytes] | None:
    """A body compressed as the client accepts it, and the name of the encoding; None: as it is."""
    asked = [item.replace(b" ", b"").partition(b";") for item in accepted.lower().split(b",")]
    names = [name for name, _, weight in asked if weight not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")]
    for name in (b"gzip", b"deflate"):
        if name in names:
            pack = zlib.compressobj(1, zlib.DEFLATED, _WINDOWS[name])
            return b"".join([*map(pack.compress, parts), pack.flush()]), name
    return None
