"""A request as it came over a connection, and the head of an answer."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from http import HTTPStatus

from deepseek.plugin import InputError
from deepseek_serving.errors import TooLargeError

#: Header names and values, names in lower case.
Headers = list[tuple[bytes, bytes]]

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_STATUS[499] = b"HTTP/1.1 499 Client Closed Request\r\n"
#: zlib's window sizes: gzip, and deflate with its header.
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


class Message:
    """A request.

    Attributes:
        method: ``POST``, ...
        target: path and query as they were sent.
        headers: in their order.
        body: the whole of it.
        own: whether the body's memory is the request's own, to be used by its tensors.
        keep_alive: whether the connection is to stay.
        arrived: when it was complete, in `time.monotonic()` seconds.
    """

    __slots__ = ("arrived", "body", "headers", "keep_alive", "method", "own", "target")

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.headers: Headers = []
        self.body: bytes | memoryview = b""
        self.own = False
        self.keep_alive = True
        self.arrived = 0.0

    def header(self, name: bytes) -> bytes | None:
        """The first header of a name (lower case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


def head(
    status: int, length: int, kind: bytes, more: Iterable[tuple[bytes, bytes]] = (), *, close: bool = False
) -> bytes:
    """The head of an answer."""
    lines = [_STATUS[status], b"content-type: ", kind, b"\r\ncontent-length: ", b"%d" % length, b"\r\n"]
    for name, value in more:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(lines)


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
    names = [item.partition(b";")[0].strip() for item in accepted.lower().split(b",") if b"q=0" not in item.split()]
    for name in (b"gzip", b"deflate"):
        if name in names:
            pack = zlib.compressobj(1, zlib.DEFLATED, _WINDOWS[name])
            return b"".join([*map(pack.compress, parts), pack.flush()]), name
    return None
