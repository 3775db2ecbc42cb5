"""A connection of a client: the writing half, and its end."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from deepseek_serving.bodies import Claim
from deepseek_serving.encrypted import leaving
from deepseek_serving.errors import NotReadyError
from deepseek_serving.http.incoming import DIRECT, Asked, Incoming
from deepseek_serving.http.message import NO_HEAD, Headers, head
from deepseek_serving.writing import linger, set_up, write_now, write_parts

if TYPE_CHECKING:
    from deepseek_serving.access import AccessLog
    from deepseek_serving.http.front import Front


class Connection(Incoming):
    """One client's connection, on which one request is answered after another."""

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        #: The socket; None where what is written has to be encrypted.
        self._plain: int | None = None
        #: What is to be said when everything before it is answered.
        self._refusal: tuple[int, str] | None = None
        #: Whether a part of the answer is written; bytes of one that is written now, and those that waited at a look.
        self.partly, self._large, self._left = False, 0, 0
        self._claim: Claim | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._plain = set_up(transport)
        self._front.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = self._closing = True
        self._parts.release()
        self._claim = None
        # The parser and this hold one another, and what was read would count until garbage is collected.
        self._direct = self._parser = self._head = None
        self._front.closed(self)
        if self.busy is not None and not self.partly and self._front.access is not None:
            self._front.access.answered(self, self.busy, 499, 0)
        self.writable.set()
        if self.abandon is not None:
            self.abandon()
            self.abandon = None
        self._ahead.clear()

    def pause_writing(self) -> None:
        self.stuck = True
        self.writable.clear()
        self.pause()
        # The client takes its time. As long as some of an answer waits for it, all of that is held, and counts.
        self._claim = Claim(self._front.memory)
        try:
            self._claim.add(max(self._large, self._transport.get_write_buffer_size()))
        except NotReadyError:
            self.abort()

    def resume_writing(self) -> None:
        self.stuck = False
        self._claim = None
        self.writable.set()
        self.active = monotonic()
        if self.busy is None and self._ahead:
            self._take(*self._ahead.popleft())
        self._read_on()

    def respond(
        self, status: int, kind: bytes, parts: list[bytes | memoryview], more: Headers | tuple[()] = ()
    ) -> None:
        """Answer the request that is being served."""
        asked = self.busy
        if asked is None or self._closing:
            return
        front = self._front
        close = front.draining or not asked.keep_alive
        length = sum(map(len, parts))
        if front.access is not None:
            more = [*more, front.access.answered(self, asked, status, length)]
        if status >= 400:
            front.refusals.http(status)
        top = head(status, length, kind, more, close=close)
        if asked.method == "HEAD":
            self._send(top)
        elif length < DIRECT:
            self._send(b"".join((top, *parts)))
        else:
            self._send_large([top, *parts])
        self.finish(close=close)

    def _send(self, data: bytes) -> None:
        write_now(self._transport, self._plain, data)

    def _send_large(self, parts: list[bytes | memoryview]) -> None:
        self._large = sum(map(len, parts))
        write_parts(self._transport, self._plain, parts)
        self._large = 0

    @property
    def paused(self) -> bool:
        """Whether the client is not read."""
        return self._paused

    def pause(self) -> None:
        """Read no more for now: there is enough to do."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        """Read again, when nothing waits and the client reads."""
        if self._paused and not (self._ahead or self.stuck or self._deaf):
            self._paused = False
            if self.began is not None:
                # What has come so far waited for us, not we for it.
                self.began = monotonic()
            self._transport.resume_reading()

    def aside(self, data: bytes) -> None:
        """Write what is no answer."""
        self._transport.write(data)

    def write(self, data: bytes) -> None:
        """A part of an answer whose head is written."""
        self.partly = True
        if not self._closing:
            self._transport.write(data)

    def finish(self, *, close: bool) -> None:
        """The request is answered: go on with the next, or end."""
        partly = self.partly
        self.busy = self.abandon = None
        self.partly = False
        self.active = monotonic()
        if close:
            self._end()
        elif self._ahead and not self.stuck:
            asked = self._ahead.popleft()
            self._read_on()
            # Not here and now: answers that are at hand would pile up as calls within calls.
            self.busy = asked[0]
            asyncio.get_running_loop().call_soon(self._resume, asked)
        elif self._refusal is not None:
            self.refuse(*self._refusal)
        elif self.began is not None:
            self.invite()
        if partly:
            self._written()

    def _written(self) -> None:
        """An answer that was written in parts is complete: to be noted by who keeps a hold of the connection."""

    def refuse(self, status: int, why: str) -> None:
        """Answer what is no request that could be served, and end the connection."""
        if self._closing:
            return
        if self.busy is not None or self._ahead:
            # After what came before it: answers have no names but their order.
            self._deaf, self._refusal = True, (status, why)
            return
        self._parts.release()
        self._front.refusals.http(status)
        body = self._front.error_body(why)
        more = [(b"www-authenticate", b"Bearer")] if status == 401 else [(b"retry-after", b"1")] * (status == 503)
        if self._front.access is not None:
            more.append(self._front.access.answered(self, self._head or NO_HEAD, status, len(body)))
        self._transport.write(head(status, len(body), b"application/json", more, close=True) + body)
        self._linger()

    def _linger(self) -> None:
        """End the connection so that the client reads what was written; what it still sends is dropped."""
        self._deaf = self._closing = True
        self.began = None
        if self._paused:
            self._transport.resume_reading()
        linger(self._transport, self._plain)

    def close(self) -> None:
        """End the connection where nobody waits for an answer."""
        if not (self.unfinished or self._closing):
            self._end()

    @property
    def unfinished(self) -> bool:
        """Whether a request is being sent or answered, or an answer is on its way."""
        return self.busy is not None or bool(self._ahead) or self.began is not None or leaving(self._transport)

    def give_up(self) -> None:
        """Answer 503 where nothing of the answer is written yet: it will not come any more."""
        abandon, self.abandon = self.abandon, None
        if self.busy is not None and not self.partly:
            self.respond(503, b"application/json", [self._front.error_body("the server is ending")])
        if abandon is not None:
            abandon()

    def leave(self) -> None:
        """The server ends, and with it the connection."""
        self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self._deaf = self._closing = True
        self._transport.abort()

    @property
    def draining(self) -> bool:
        """Whether the server is ending."""
        return self._front.draining

    @property
    def unread(self) -> bool:
        """Whether what was written has not left, and nobody is writing more: it is for the client to read it."""
        return self.stuck or (self.busy is None and self._transport.get_write_buffer_size() > 0)

    def look(self) -> None:
        """Note whether a client that reads slowly has read anything."""
        left = self._transport.get_write_buffer_size()
        if left != self._left:
            self._left, self.active = left, monotonic()

    @property
    def access(self) -> AccessLog | None:
        """The access log."""
        return self._front.access

    @property
    def peer(self) -> Any:
        """The client's address."""
        return self._transport.get_extra_info("peername")

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self._transport.get_extra_info("ssl_object") is not None

    def _resume(self, asked: Asked) -> None:
        if not self._closing:
            self.busy = None
            self._take(*asked)

    def _end(self) -> None:
        """Let what is written reach the client, and no more."""
        self._deaf = self._closing = True
        self._transport.close()
