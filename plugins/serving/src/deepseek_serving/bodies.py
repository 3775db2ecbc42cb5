"""Bodies of requests and answers: memory for them, and how they are compressed."""

from __future__ import annotations

import zlib

import numpy as np

from deepseek.plugin import InputError
from deepseek_serving.errors import TooLargeError

_ALIGNMENT = 64
#: zlib's window sizes: gzip, and deflate with its header.
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


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
