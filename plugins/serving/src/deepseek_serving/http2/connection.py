"""A connection of a client: its streams, what it may send, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import cast

from deepseek_serving.bodies import Claim
from deepseek_serving.errors import NotReadyError
from deepseek_serving.http2 import frames
from deepseek_serving.http2.frames import Http2Error
from deepseek_serving.http2.front import Front
from deepseek_serving.http2.headers import HeaderReader
from deepseek_serving.http2.incoming import Incoming
from deepseek_serving.http2.outgoing import Outgoing
from deepseek_serving.http2.streams import WINDOW, Piece, Stream
from deepseek_serving.writing import set_up

#: Streams that a client may have open, and bytes that it may send on all of them before it is told to go on.
STREAMS, _WINDOW = 1024, 16 << 20


class Connection(Incoming, Outgoing):
    """One client's connection.

    Args:
        front: what all connections share.

    Attributes:
        streams: the open ones, by their numbers.
        peer: the client's address.
    """

    def __init__(self, front: Front) -> None:
        Incoming.__init__(self, front.scratch)
        Outgoing.__init__(self)
        self.streams: dict[int, Stream] = {}
        self.peer = ""
        self._front = front
        self._reader = HeaderReader(2 * front.limits.head, front.look)
        self._last = 0
        self._leave, self._taken = _WINDOW, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._plain = set_up(transport)
        name = transport.get_extra_info("peername")
        self.peer = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
        self._front.opened(self)

    def process(self, view: memoryview) -> None:
        self._gathering = True
        super().process(view)
        self._gathering = False
        if self._out:
            self.flush()

    def pause_writing(self) -> None:
        self.writable = False
        claim = self.claims[0] = Claim(self._front.memory)
        try:
            claim.add(max(self.writing, self._transport.get_write_buffer_size()))
        except NotReadyError:
            self.abort()
        self.look_again()

    def resume_writing(self) -> None:
        self.writable = True
        self.claims = {number: claim for number, claim in self.claims.items() if number in self.streams}
        self.active = monotonic()
        self.look_again()
        self.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = self._closing = True
        self.writable = False
        for stream in list(self.streams.values()):
            self._drop(stream)
        self.claims.clear()
        self._front.closed(self)

    def headers(self, number: int, block: bytes, *, end: bool) -> None:
        if number <= self._last and number % 2:
            self._trailers(number, block, end=end)
            return
        if number % 2 == 0:
            raise Http2Error(frames.PROTOCOL_ERROR, f"a client has no stream {number}")
        seen = self._reader.read(block)
        self._last = number
        if len(self.streams) >= STREAMS or self._front.draining:
            self.emit(frames.reset(number, frames.REFUSED_STREAM))
            return
        stream = Stream(self, number, self.first, self.active)
        self.streams[number] = stream
        stream.receiver = self._front.begin(stream, seen)
        if stream.over:
            stream.settle()
            return
        if end:
            stream.open = False
            stream.receiver.data((), end=True)

    def _trailers(self, number: int, block: bytes, *, end: bool) -> None:
        """Headers of a stream that is known: they are read for what they do to later ones."""
        self._reader.plain(block)
        stream = self.streams.get(number)
        if stream is None:
            return
        if not (end and stream.open):
            raise Http2Error(frames.PROTOCOL_ERROR, "headers within a request")
        stream.open = False
        if not stream.over:
            stream.receiver.data((), end=True)

    def data(self, number: int, pieces: Sequence[Piece], size: int, *, end: bool) -> None:
        if number == 0 or number > self._last:
            raise Http2Error(frames.PROTOCOL_ERROR, f"data on stream {number}, which was not begun")
        self._leave -= size
        if self._leave < 0:
            raise Http2Error(frames.FLOW_CONTROL_ERROR, "more than the connection's window")
        self._taken += size
        if self._taken > _WINDOW // 2:
            self.emit(frames.window_update(0, self._taken))
            self._leave, self._taken = self._leave + self._taken, 0
        stream = self.streams.get(number)
        if stream is None:
            # It was reset, or answered before it was complete: the client has not heard of it yet.
            return
        if not stream.open:
            raise Http2Error(frames.STREAM_CLOSED, f"data on stream {number} after its end")
        stream.leave -= size
        stream.taken += size
        if stream.leave < 0:
            raise Http2Error(frames.FLOW_CONTROL_ERROR, "more than the stream's window")
        if end:
            stream.open = False
        if not stream.over:
            stream.receiver.data(pieces, end=end)
        if not end and not stream.held and stream.taken > WINDOW // 2:
            self.credit(stream)

    def control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._widened(stream, frames.number(payload))
        elif kind == frames.RST_STREAM:
            frames.number(payload)
            self._reset(stream)
        elif kind == frames.SETTINGS:
            self._set(flags, stream, payload)
        elif kind == frames.PING:
            if len(payload) != 8 or stream:
                raise Http2Error(frames.FRAME_SIZE_ERROR, "a PING of a broken size")
            if not flags & frames.ACK:
                self.emit(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.PUSH_PROMISE:
            raise Http2Error(frames.PROTOCOL_ERROR, "a client does not push")

    def _widened(self, number: int, more: int) -> None:
        if number > self._last or not more:
            raise Http2Error(frames.PROTOCOL_ERROR, f"a window of stream {number} that grows by {more}")
        if number == 0 or number in self.streams:
            self.widen(self.streams.get(number), more)

    def _reset(self, number: int) -> None:
        if number == 0 or number > self._last:
            raise Http2Error(frames.PROTOCOL_ERROR, f"the end of stream {number}, which was not begun")
        stream = self.streams.get(number)
        if stream is None:
            return
        self.tire()
        self._drop(stream)

    def look_again(self) -> None:
        """Read, or do not read, what comes: answers to frames of a client that does not read would pile up."""
        if self._deaf:
            return
        if self.writable and not self._resting:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _set(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Http2Error(frames.PROTOCOL_ERROR, "settings of a stream")
        if flags & frames.ACK:
            return
        self.tire()
        self.configure(frames.read_settings(payload), list(self.streams.values()))
        self.emit(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def credit(self, stream: Stream) -> None:
        """Let the client send on a stream what it has sent before."""
        if stream.taken:
            self.emit(frames.window_update(stream.number, stream.taken))
            stream.leave, stream.taken = stream.leave + stream.taken, 0

    def ended(self, stream: Stream) -> None:
        stream.over = True
        if stream.open:
            # There is no use in what it still sends.
            self.emit(frames.reset(stream.number, frames.NO_ERROR))
        self.streams.pop(stream.number, None)
        if self.writable:
            # Otherwise some of it is still here.
            self.claims.pop(stream.number, None)
        stream.settle()
        if self._front.draining and not self.streams:
            self.close()

    def _drop(self, stream: Stream) -> None:
        """A request that nobody waits for any more."""
        self.streams.pop(stream.number, None)
        self.claims.pop(stream.number, None)
        self.forget(stream)
        over, stream.over = stream.over, True
        stream.open = False
        if not over:
            stream.receiver.gone()
            stream.settle()

    def greet(self) -> None:
        self.emit(frames.greeting(STREAMS, WINDOW, _WINDOW, int(self._front.limits.head)))

    def fail(self, error: Http2Error) -> None:
        if self._expected:
            self.emit(frames.OF_HTTP1)
        else:
            self.emit(frames.go_away(self._last, error.code, str(error)))
        self._end()

    def close(self) -> None:
        """End the connection when its requests are answered, and take no more."""
        if self._closing:
            return
        self.emit(frames.go_away(self._last, frames.NO_ERROR))
        if not self.streams:
            self._end()

    def abort(self) -> None:
        """End the connection at once."""
        self._deaf = self._closing = True
        self._transport.abort()

    def _end(self) -> None:
        """Let what is written reach the client, and no more."""
        self.flush()
        self._deaf = self._closing = True
        self._transport.close()
