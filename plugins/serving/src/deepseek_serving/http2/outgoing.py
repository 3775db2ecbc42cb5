"""The writing half of a connection: frames as the client's windows and its reading allow."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

from deepseek_serving.bodies import Claim
from deepseek_serving.encrypted import leaving
from deepseek_serving.http2 import frames
from deepseek_serving.http2.frames import Http2Error
from deepseek_serving.writing import write_now, write_parts

if TYPE_CHECKING:
    from deepseek_serving.http2.streams import Piece, Stream

#: Answers of more bytes are not joined before they are written.
_LARGE = 32 << 10
#: Bytes that a stream may send before others have their turn.
_TURN = 1 << 20


class Outgoing(ABC):
    """The writing half.

    Attributes:
        blocked: streams that have something to send, the one whose turn is next first.
        window: how many bytes the client takes, on all streams together.
        frame: bytes of a frame that the client takes.
        first: the window that a new stream begins with.
        writable: whether what is written leaves.
        writing: bytes that are being written.
        claims: what counts as long as it waits: answers, by the numbers of their streams, and (0) what was written.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        #: The socket; None where what is written has to be encrypted.
        self._plain: int | None = None
        self._out: list[Piece] = []
        #: What is written now is sent when the read that it answers has been dealt with.
        self._gathering = self._pumping = False
        self._closing = False
        self.blocked: dict[int, Stream] = {}
        self.claims: dict[int, Claim] = {}
        self.writing = 0
        #: Streams that wait for a window of their own.
        self._starved: dict[int, Stream] = {}
        self.window = self.first = frames.FIRST_WINDOW
        self.frame = frames.FIRST_FRAME
        self.writable = True
        #: The client's windows and what was to be sent when it was last looked at, and since when.
        self._left: tuple[int, int] | None = None
        self._moved = 0.0

    def emit(self, *pieces: Piece) -> None:
        """Send frames, with all others of this turn."""
        out = self._out
        if not (out or self._gathering):
            asyncio.get_running_loop().call_soon(self.flush)
        out.extend(pieces)

    def flush(self) -> None:
        """Let all that was sent leave."""
        out, self._out = self._out, []
        if not out or self._transport is None or self._transport.is_closing():
            return
        self.writing = sum(map(len, out))
        if self.writing > _LARGE:
            write_parts(self._transport, self._plain, out)
            self.writing = 0
            return
        write_now(self._transport, self._plain, b"".join(out))

    def pump(self) -> None:
        """Send what the windows allow, some of each stream in turn."""
        if self._pumping:
            # Who was told that all is sent sends more: it has its turn.
            return
        self._pumping = True
        try:
            while self.writable and self.window > 0 and self.blocked:
                number, stream = next(iter(self.blocked.items()))
                del self.blocked[number]
                if stream.window <= 0:
                    # Looked at again when the client widens it, not each time that another stream's turn comes.
                    self._starved[number] = stream
                    continue
                self._send_some(stream, min(stream.queued, stream.window, self.window, _TURN))
                if stream.queued:
                    self.blocked[number] = stream
                else:
                    self._sent(stream)
        finally:
            self._pumping = False

    def _send_some(self, stream: Stream, size: int) -> None:
        """Send so many bytes of what a stream has to send, in frames."""
        self.window -= size
        stream.window -= size
        stream.queued -= size
        queue = stream.queue
        out: list[Piece] = []
        while size:
            left = min(size, self.frame)
            size -= left
            out.append(frames.top(left, frames.DATA, 0, stream.number))
            while left:
                piece = queue[0]
                if len(piece) > left:
                    out.append(piece[:left])
                    queue[0] = piece[left:]
                    break
                out.append(queue.popleft())
                left -= len(piece)
        self.emit(*out)
        # A client that does not read is known by what piles up.
        self.flush()

    def _sent(self, stream: Stream) -> None:
        """All that a stream had to send has been sent."""
        if stream.closing is None:
            stream.receiver.drained()
        else:
            self.finish(stream, stream.closing)

    def finish(self, stream: Stream, block: bytes) -> None:
        """End an answer with a header block; all before it has been sent."""
        self.emit(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream.number, block))
        self.ended(stream)

    def forget(self, stream: Stream) -> None:
        """Send no more of a stream."""
        self.blocked.pop(stream.number, None)
        self._starved.pop(stream.number, None)

    @abstractmethod
    def ended(self, stream: Stream) -> None:
        """The answer on a stream is complete."""

    @property
    def unsent(self) -> bool:
        """Whether what was written has not left yet."""
        return bool(self._out) or leaving(self._transport)

    def stuck(self, now: float, patience: float) -> bool:
        """Whether something is to be sent, and the client has read nothing for so many seconds."""
        waits = self._transport.get_write_buffer_size()
        if (self.window, waits) != self._left or not (waits or self.blocked or self._starved):
            self._left, self._moved = (self.window, waits), now
        return now - self._moved > patience

    def configure(self, settings: list[tuple[int, int]], streams: list[Stream]) -> None:
        """Go by what the client says that it takes. Raises Http2Error."""
        first = self.first
        for name, value in settings:
            if name == frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise Http2Error(frames.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")
                first = value
            elif name == frames.MAX_FRAME_SIZE:
                if not frames.FIRST_FRAME <= value <= frames.LARGEST_FRAME:
                    raise Http2Error(frames.PROTOCOL_ERROR, f"frames of {value} bytes")
                self.frame = min(value, frames.FRAME)
        change, self.first = first - self.first, first
        if change:
            for stream in streams:
                self._widen_stream(stream, change)
            self.pump()

    def widen(self, stream: Stream | None, more: int) -> None:
        """The client takes so many bytes more, on a stream or (None) on all together. Raises Http2Error."""
        if stream is not None:
            self._widen_stream(stream, more)
        else:
            self.window += more
            if self.window > frames.LARGEST_WINDOW:
                raise Http2Error(frames.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")
        self.pump()

    def _widen_stream(self, stream: Stream, more: int) -> None:
        stream.window += more
        if stream.window > frames.LARGEST_WINDOW:
            raise Http2Error(frames.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")
        if stream.window > 0 and self._starved.pop(stream.number, None) is not None:
            self.blocked[stream.number] = stream
