"""Bodies of requests and answers: memory for them, and how they are compressed."""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any

import numpy as np

from deepseek.plugin import InputError
from deepseek_serving.errors import NotReadyError, TooLargeError

_ALIGNMENT = 64
#: Bodies of fewer bytes are not counted.
SMALL = 16 << 10
#: Members that a body of gzip may have, and bytes of it that are unpacked at a time.
_MEMBERS, _BLOCK = 4096, 64 << 10
#: zlib's window sizes: gzip, and deflate with its header.
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


class Memory:
    """Memory for bodies, of all connections together, and its bound.

    Args:
        limit: bytes.

    Attributes:
        held: bytes that are in use, about.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        #: What was given back, by whichever thread was the last to use it.
        self._given: deque[int] = deque()

    def take(self, length: int) -> None:
        """Count bytes that are kept. Raises NotReadyError when there are too many."""
        while self._given:
            self.held -= self._given.popleft()
        if self.held + length > self.limit:
            raise NotReadyError(f"requests of {self.limit} are being read or answered already", retry_after=1)
        self.held += length

    def give(self, length: int) -> None:
        """They are kept no longer."""
        self._given.append(length)

    def body(self, length: int, tensors: int) -> tuple[memoryview, Claim]:
        """Memory for a body of `length` bytes, whose tensors begin after so many: where a processor likes it.

        What comes of it is counted by the claim, as long as anything of the memory is in use.
        """
        memory = _Counted(length + _ALIGNMENT, np.uint8)
        memory.claim = claim = Claim(self)
        start = -(memory.ctypes.data + tensors) % _ALIGNMENT
        return memory.data[start : start + length], claim

    def keep(self, content: bytes, tensors: int = 0) -> bytes | memoryview:
        """A body that is there already, counted if it is large. Raises NotReadyError."""
        if len(content) < SMALL:
            return content
        kept, claim = self.body(len(content), tensors)
        claim.add(len(content))
        kept[:] = content
        return kept


class Claim:
    """Bytes that count until nobody holds this any more."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._count = 0

    def add(self, length: int) -> None:
        """Count more. Raises NotReadyError."""
        self._memory.take(length)
        self._count += length

    def __del__(self) -> None:
        self._memory.give(self._count)


class Direct:
    """A body that is read to where it stays.

    Args:
        memory: where it counts as it comes.
        length: its bytes.
        tensors: where its tensors begin.

    Attributes:
        content: all of it, when it is whole.
    """

    def __init__(self, memory: Memory, length: int, tensors: int) -> None:
        self.content, self._claim = memory.body(length, tensors)
        self._filled = 0

    @property
    def rest(self) -> memoryview:
        """Where what is still to come is written to."""
        return self.content[self._filled :]

    def came(self, length: int) -> bool:
        """So many bytes were written; whether it is whole. Raises NotReadyError."""
        self._filled += length
        self._claim.add(length)
        return self._filled == len(self.content)


class _Counted(np.ndarray[Any, Any]):
    """Memory that holds its claim. The owner itself, no view of it: NumPy's views of views hold the owner alone."""

    claim: Claim


class Parts:
    """A body that comes in parts.

    Args:
        memory: where they count as long as they are kept.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        # Not a list of them: a client may send them byte by byte.
        self._kept = bytearray()

    def add(self, part: bytes) -> None:
        """Keep one. Raises NotReadyError."""
        self._memory.take(len(part))
        self._kept += part

    def release(self) -> bytes:
        """All of them, which are kept no longer."""
        kept = bytes(self._kept)
        if kept:
            self._memory.give(len(kept))
            self._kept = bytearray()
        return kept


def unpacked(body: bytes | memoryview, encoding: bytes, limit: int) -> bytes:
    """A body without its Content-Encoding.

    Raises:
        InputError: an encoding that is not known, or a body that is not what it claims.
        TooLargeError: it unfolds to more than `limit` bytes.
    """
    window = _WINDOWS.get(encoding.strip().lower())
    if window is None:
        raise InputError(f"the Content-Encoding `{encoding.decode('latin-1')}` is not known", hint="gzip or deflate")
    kind, view, parts = encoding.decode("latin-1"), memoryview(body), list[bytes]()
    at, left = 0, limit + 1
    # Several, one after another, as files of gzip may be put together. Source: RFC 1952, section 2.2.
    for _ in range(_MEMBERS if window == _WINDOWS[b"gzip"] else 1):
        unpack = zlib.decompressobj(window)
        while not unpack.eof:
            # Not all of it at once: what follows a member is copied when the member ends.
            block = view[at : at + _BLOCK]
            if not block:
                raise InputError(f"the body is cut short: its {kind} does not end")
            try:
                parts.append(unpack.decompress(block, left))
            except zlib.error as exc:
                raise InputError(f"the body is not {kind}: {exc}") from exc
            at += len(block)
            left -= len(parts[-1])
            if left <= 0:
                raise TooLargeError(f"the body unfolds to more than {limit}")
        at -= len(unpack.unused_data)
        if at == len(view):
            return parts[0] if len(parts) == 1 else b"".join(parts)
    hint = f"gzip may have {_MEMBERS} members, deflate has one"
    raise InputError(f"{len(view) - at} bytes follow the end of the {kind}", hint=hint)


def packed(parts: list[bytes | memoryview], accepted: bytes) -> tuple[bytes, bytes] | None:
    """A body compressed as the client accepts it, and the name of the encoding; None: as it is."""
    asked = [item.replace(b" ", b"").partition(b";") for item in accepted.lower().split(b",")]
    names = [name for name, _, weight in asked if weight not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")]
    for name in (b"gzip", b"deflate"):
        if name in names:
            pack = zlib.compressobj(1, zlib.DEFLATED, _WINDOWS[name])
            return b"".join([*map(pack.compress, parts), pack.flush()]), name
    return None
