"""The reading half of a connection: bytes to frames, and header blocks put together."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import monotonic

from deepseek_serving.http2 import frames
from deepseek_serving.http2.frames import FRAME, LARGEST_WINDOW, TOP, Http2Error
from deepseek_serving.rates import Bucket

#: Bytes of a header block that is read, and of a frame of any other kind, DATA excepted.
_BLOCK, _OTHER = 96 << 10, 1 << 14
#: Requests that a client may take back, and settings that it may change, at once and in a second, before it has to
#: wait, and for how many seconds. Source: CVE-2023-44487.
_PATIENCE, _PATIENCE_PER_SECOND, _REST = 2048, 1000, 0.1
#: Frames that a header block may come in.
_PARTS = 16
# On the road of requests: names of this module, which are found sooner.
_TOP, _top, _DATA, _HEADERS = TOP.size, TOP.unpack_from, frames.DATA, frames.HEADERS
_END_STREAM, _END_HEADERS, _PADDED = frames.END_STREAM, frames.END_HEADERS, frames.PADDED
#: Flags of headers that are not all there, or have more before or after them.
_UNUSUAL = frames.END_HEADERS | frames.PADDED | frames.WITH_PRIORITY


class Incoming(asyncio.BufferedProtocol, ABC):
    """The reading half.

    Args:
        scratch: where is read to; shared by all connections, each of which is done with it before the next is asked.

    Attributes:
        active: when something last came, in `time.monotonic()` seconds.
        began: since when a frame is incomplete; None: none is.
    """

    def __init__(self, scratch: bytearray) -> None:
        self._scratch = scratch
        self._view = memoryview(scratch)
        self._expected = frames.PREFACE
        #: Bytes of a frame that is not complete, and how many it takes.
        self._rest = bytearray()
        self._need = len(frames.PREFACE)
        #: A DATA frame that is under way: bytes to come, its stream, whether it is the last.
        self._coming, self._coming_to, self._coming_last = 0, 0, False
        #: The header block that is under way: its stream and flags, and its parts.
        self._block: list[bytes] = []
        self._block_of, self._block_flags = 0, 0
        #: Whether the client's settings have come; whether it matters what frame is next; whether nothing more is read.
        self._greeted, self._strict, self._deaf = False, True, False
        #: Nothing is read for a while.
        self._resting = False
        self._patience = Bucket(_PATIENCE_PER_SECOND, _PATIENCE)
        self.active = monotonic()
        self.began: float | None = None

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self._deaf:
            return
        self.active = monotonic()
        view = self._view[:nbytes]
        if self._rest:
            self._rest += view
            # How a client begins is looked at byte by byte: one of another protocol is told at once.
            if (len(self._rest) < self._need and not self._expected) or self._resting:
                return
            view, self._rest = memoryview(self._rest), bytearray()
        self.process(view)

    def tire(self) -> None:
        """Count what costs the server much and the client little: a client that does much of it is read slower."""
        if self._patience.take() and not self._resting:
            self._resting = True
            self.look_again()
            asyncio.get_running_loop().call_later(_REST, self._rested)

    def _rested(self) -> None:
        self._resting = False
        view, self._rest = memoryview(self._rest), bytearray()
        if not self._deaf:
            self.process(view)
            self.look_again()

    def process(self, view: memoryview) -> None:
        """Take what was read."""
        try:
            at = self._read(view)
        except Http2Error as error:
            self.fail(error)
            return
        self.began = None
        if at < len(view) and not self._deaf:
            self._rest = bytearray(view[at:])
            self.began = self.active

    def _read(self, view: memoryview) -> int:
        """Take the frames that are whole; how many bytes they were."""
        at, end = self._begin(view) if self._expected else 0, len(view)
        while not (self._deaf or self._expected or self._resting):
            if self._coming:
                at = self._go_on(view, at, end)
            if end - at < _TOP or self._coming:
                self._need = _TOP
                break
            high, low, kind, flags, stream = _top(view, at)
            length, stream = high << 16 | low, stream & LARGEST_WINDOW
            if length > _OTHER or self._strict:
                self._check(kind, length, stream)
            begin = at + _TOP
            at = begin + length
            body = kind == _DATA and not flags & _PADDED
            if at > end and not body:
                self._need = _TOP + length
                return begin - _TOP
            if at > end:
                # Of a large body no part is kept twice.
                self._coming, self._coming_to, self._coming_last = length, stream, bool(flags & _END_STREAM)
                at = begin
            elif body:
                at = self._several(view, begin, at, end, stream, bool(flags & _END_STREAM))
            elif kind == _HEADERS and flags & _UNUSUAL == _END_HEADERS:
                self.headers(stream, bytes(view[begin:at]), end=bool(flags & _END_STREAM))
            else:
                self._frame(kind, flags, stream, bytes(view[begin:at]))
        return at

    def _go_on(self, view: memoryview, at: int, end: int) -> int:
        """Take more of the DATA frame that is under way; where that ends."""
        size = min(self._coming, end - at)
        self._coming -= size
        last = self._coming_last and not self._coming
        self.data(self._coming_to, (view[at : at + size],), size, end=last)
        return at + size

    def _several(self, view: memoryview, begin: int, stop: int, end: int, stream: int, last: bool) -> int:
        """Take a DATA frame, and those after it: a large body comes in many. Where they end."""
        pieces, size = [view[begin:stop]], stop - begin
        while not last and end - stop >= _TOP:
            high, low, kind, flags, other = _top(view, stop)
            length = high << 16 | low
            other &= LARGEST_WINDOW
            after = stop + _TOP + length
            if kind != _DATA or other != stream or flags & _PADDED or after > end or length > FRAME:
                break
            pieces.append(view[stop + _TOP : after])
            size += length
            stop, last = after, bool(flags & _END_STREAM)
        self.data(stream, pieces, size, end=last)
        return stop

    def _begin(self, view: memoryview) -> int:
        """Take the bytes that a client has to begin with; how many they were, 0 while they are not all there."""
        expected = self._expected
        if bytes(view[: len(expected)]) != expected[: len(view)]:
            raise Http2Error(frames.PROTOCOL_ERROR, "this is not HTTP/2")
        if len(view) < len(expected):
            self._need = len(expected)
            return 0
        self._expected = b""
        self.greet()
        return len(expected)

    def _check(self, kind: int, length: int, stream: int) -> None:
        if length > {frames.DATA: FRAME, _HEADERS: _BLOCK, frames.CONTINUATION: _BLOCK}.get(kind, _OTHER):
            raise Http2Error(frames.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if self._block_of and (kind != frames.CONTINUATION or stream != self._block_of):
            raise Http2Error(frames.PROTOCOL_ERROR, "a frame within a header block")
        if not self._greeted and kind != frames.SETTINGS:
            raise Http2Error(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._greeted = True
        self._strict = self._block_of != 0

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Take a frame that is whole. Raises Http2Error."""
        if kind == frames.HEADERS:
            also = 5 if flags & frames.WITH_PRIORITY else 0
            block = frames.unpadded(flags, payload, also=also) if also or flags & frames.PADDED else payload
            if flags & frames.END_HEADERS:
                self.headers(stream, block, end=bool(flags & frames.END_STREAM))
            else:
                self._block, self._block_of, self._block_flags = [block], stream, flags
                self._strict = True
        elif kind == frames.CONTINUATION:
            self._continue(flags, stream, payload)
        elif kind == frames.DATA:
            content = frames.unpadded(flags, payload)
            self.data(stream, [content], len(payload), end=bool(flags & frames.END_STREAM))
        else:
            self.control(kind, flags, stream, payload)

    def _continue(self, flags: int, stream: int, payload: bytes) -> None:
        if not self._block_of:
            raise Http2Error(frames.PROTOCOL_ERROR, "a continuation of nothing")
        self._block.append(payload)
        if len(self._block) > _PARTS or sum(map(len, self._block)) > _BLOCK:
            raise Http2Error(frames.ENHANCE_YOUR_CALM, "a header block without an end")
        if flags & frames.END_HEADERS:
            block, self._block, self._block_of = b"".join(self._block), [], 0
            self.headers(stream, block, end=bool(self._block_flags & frames.END_STREAM))

    @abstractmethod
    def look_again(self) -> None:
        """Read what comes, or do not."""

    @abstractmethod
    def greet(self) -> None:
        """The client speaks HTTP/2: say what it may do."""

    @abstractmethod
    def headers(self, number: int, block: bytes, *, end: bool) -> None:
        """A stream's headers, or the trailers of one. Raises Http2Error."""

    @abstractmethod
    def data(self, number: int, pieces: Sequence[bytes | memoryview], size: int, *, end: bool) -> None:
        """Bytes of a stream; `size`: by how many the windows shrink. Raises Http2Error."""

    @abstractmethod
    def control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame of any other kind. Raises Http2Error."""

    @abstractmethod
    def fail(self, error: Http2Error) -> None:
        """End the connection, and say why."""
