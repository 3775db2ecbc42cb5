"""A connection: bytes to requests, one at a time, and what is written back.

Written on `asyncio.BufferedProtocol`, so that a large body is read straight into the memory that its tensors will use.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import httptools
import numpy as np

from deepseek_serving.http.message import Headers, Message, head

if TYPE_CHECKING:
    from deepseek_serving.http.front import Front

#: Bodies that are not complete with their first read and have at least this many bytes to come are read directly.
_DIRECT = 16 << 10
#: Requests that a client may send ahead before it is read no further.
_AHEAD = 16
#: Tensors begin where a processor likes it.
_ALIGNMENT = 64


class Connection(asyncio.BufferedProtocol):
    """One client's connection.

    Args:
        front: what all connections share.
    """

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser: Any = httptools.HttpRequestParser(self)
        self._message = Message()
        self._chunks: list[bytes] = []
        self._length = 0
        #: Bytes that were read of a request whose head is not complete.
        self._head = 0
        self._reading_body = False
        self._expected: int | None = None
        self._direct: memoryview | None = None
        self._filled = 0
        self._ahead: deque[Message] = deque()
        #: Nothing more is read; nothing more is written.
        self._deaf = self._closing = False
        #: What is being answered, and how to stop it when the client goes.
        self.busy: Message | None = None
        self.abandon: Any = None
        #: When something last happened, and since when a request is incomplete.
        self.active = monotonic()
        self.began: float | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._front.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = self._closing = True
        self._front.closed(self)
        self.writable.set()
        if self.abandon is not None:
            self.abandon()
            self.abandon = None
        self._ahead.clear()

    def pause_writing(self) -> None:
        self.writable.clear()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.writable.set()
        if len(self._ahead) <= _AHEAD:
            self._transport.resume_reading()
        if self.busy is None and self._ahead:
            self._serve(self._ahead.popleft())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._front.scratch if self._direct is None else self._direct[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._direct is None:
            self._feed(self._front.scratch[:nbytes])
            return
        self._filled += nbytes
        if self._filled == len(self._direct):
            body, self._direct = self._direct, None
            # The parser still waits for the body; the next request is for a new one.
            self._parser = httptools.HttpRequestParser(self)
            self._complete(body, own=True)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._message = Message()
        self._length = 0

    def on_url(self, url: bytes) -> None:
        # In parts, when it comes in several reads.
        self._message.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._message.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        message, parser = self._message, self._parser
        message.method = parser.get_method().decode("latin-1")
        message.keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        if self._head > self._front.limits.head:
            self._look_at_head(message)
        self._head, self._reading_body, self._expected = 0, True, None
        for name, value in message.headers:
            if name == b"content-length":
                self._expected = int(value) if value.isdigit() else 0
                if self._expected > self._front.limits.body:
                    self._too_large()
            elif name == b"expect" and value.lower() == b"100-continue" and not self._deaf:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._length += len(body)
        if self._length > self._front.limits.body:
            self._too_large()
        elif not self._deaf:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        chunks, self._chunks = self._chunks, []
        self._complete(chunks[0] if len(chunks) == 1 else b"".join(chunks), own=False)

    # The road of a request.

    def _feed(self, data: memoryview) -> None:
        if self._deaf:
            return
        self.active = monotonic()
        if self.began is None:
            self.began = self.active
        if not self._reading_body:
            self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as what it also is, a request of HTTP/1.1; what follows on the connection is not read.
            self._deaf = True
        except httptools.HttpParserError as exc:
            self.refuse(400, f"this is not HTTP/1.1: {exc}")
        if self._reading_body:
            if self._expected is not None and self._expected - self._length >= _DIRECT and not self._deaf:
                self._read_directly(self._expected)
        elif self._head > self._front.limits.head:
            self._too_long()

    def _read_directly(self, expected: int) -> None:
        """Let the rest of a body be written to where it will stay, its tensors aligned."""
        memory = np.empty(expected + _ALIGNMENT, np.uint8)
        header = self._message.header(b"inference-header-content-length")
        tensors = int(header) if header is not None and header.isdigit() else 0
        start = -(memory.ctypes.data + tensors) % _ALIGNMENT
        self._direct = memory.data[start : start + expected]
        self._filled = 0
        for chunk in self._chunks:
            self._direct[self._filled : self._filled + len(chunk)] = chunk
            self._filled += len(chunk)
        self._chunks = []

    def _complete(self, body: bytes | memoryview, *, own: bool) -> None:
        message = self._message
        message.body, message.own = body, own
        self._reading_body, self.began = False, None
        self.active = message.arrived = monotonic()
        if self._deaf:
            return
        if self.busy is None and self.writable.is_set():
            self._serve(message)
        else:
            self._ahead.append(message)
            if len(self._ahead) > _AHEAD:
                self._transport.pause_reading()

    def _serve(self, message: Message) -> None:
        self.busy = message
        self._front.serve(self, message)

    # The road of an answer.

    def respond(
        self, status: int, kind: bytes, parts: list[bytes | memoryview], more: Headers | tuple[()] = ()
    ) -> None:
        """Answer the request that is being served."""
        message = self.busy
        if message is None or self._closing:
            return
        close = not message.keep_alive or self._front.draining
        length = 0
        for part in parts:
            length += len(part)
        if self._front.access is not None:
            more = [*more, self._logged(message, status, length)]
        top = head(status, length, kind, more, close=close)
        if message.method == "HEAD":
            self._transport.write(top)
        elif length < _DIRECT:
            self._transport.write(b"".join((top, *parts)))
        else:
            self._transport.writelines([top, *parts])
        self.finish(close=close)

    def write(self, data: bytes) -> None:
        """A part of an answer whose head is written."""
        if not self._closing:
            self._transport.write(data)

    def finish(self, *, close: bool) -> None:
        """The request is answered: go on with the next, or end."""
        self.busy = self.abandon = None
        if close:
            self._end()
        elif self._ahead and self.writable.is_set():
            message = self._ahead.popleft()
            if len(self._ahead) == _AHEAD:
                self._transport.resume_reading()
            # Not here and now: answers that are at hand would pile up as calls within calls.
            self.busy = message
            asyncio.get_running_loop().call_soon(self._resume, message)

    def refuse(self, status: int, why: str) -> None:
        """Answer what is no request that could be served, and end the connection."""
        if self._closing:
            return
        body = self._front.error_body(why)
        self._transport.write(head(status, len(body), b"application/json", close=True) + body)
        self._end()

    def close(self) -> None:
        """End the connection where nobody waits for an answer."""
        if self.busy is None and not self._ahead and not self._closing:
            self._end()

    def abort(self) -> None:
        """End the connection at once."""
        self._deaf = self._closing = True
        self._transport.abort()

    @property
    def peer(self) -> Any:
        """The client's address."""
        return self._transport.get_extra_info("peername")

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self._transport.get_extra_info("ssl_object") is not None

    def _logged(self, message: Message, status: int, length: int) -> tuple[bytes, bytes]:
        """Write a line of the access log; the header that names the request."""
        access = self._front.access
        name = access.identify(message) if access else b""
        if access:
            access.write(message, name, self.peer, status, length)
        return b"x-request-id", name

    def _resume(self, message: Message) -> None:
        if not self._closing:
            self._front.serve(self, message)

    def _look_at_head(self, message: Message) -> None:
        """Refuse a head over the limit; much of what was read may be the body."""
        size = len(message.target) + sum(len(name) + len(value) + 4 for name, value in message.headers)
        if size > self._front.limits.head:
            self._too_long()

    def _too_long(self) -> None:
        self.refuse(431, f"the head of the request is larger than {self._front.limits.head} bytes")

    def _too_large(self) -> None:
        self._chunks = []
        self.refuse(413, f"the body is larger than {self._front.limits.body} bytes")

    def _end(self) -> None:
        """Let what is written reach the client, and no more."""
        self._deaf = self._closing = True
        self._transport.close()
