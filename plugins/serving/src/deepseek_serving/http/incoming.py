"""The reading half of a connection: bytes to requests.

Written on `asyncio.BufferedProtocol`, so that a large body is read straight into the memory that its tensors will use.
A head is parsed once: when the same bytes come again, on this connection or another, what was found is used.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import httptools

from deepseek_serving.bodies import SMALL, Direct, Parts
from deepseek_serving.errors import NotReadyError
from deepseek_serving.http.message import END, Head, Headers

if TYPE_CHECKING:
    from deepseek_serving.http.front import Front

#: Bodies that are not complete with their first read and have at least this many bytes to come are read directly.
DIRECT = SMALL
#: Requests that a client may send ahead before it is read no further.
AHEAD = 16

#: A request's head, its body, and whether the body's memory is the request's own, to be used by its tensors.
Asked = tuple[Head, "bytes | memoryview", bool]


class Incoming(asyncio.BufferedProtocol, ABC):
    """The reading half of a connection.

    Args:
        front: what all connections share.

    Attributes:
        busy: the head of what is being answered; None: nothing is.
        abandon: stops the answering, when the client goes.
        arrived: when the request that is being answered was complete.
        active: when something last happened.
        began: since when a request is incomplete; None: none is.
        stuck, writable: whether the client does not read what is written, and the event of its reading again.
    """

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser: Any = None
        self._target = b""
        self._headers: Headers = []
        self._head: Head | None = None
        self._parts = Parts(front.memory)
        #: Bytes of the body, of what was read of a request whose head is not complete, and of trailers.
        self._length = self._unread = self._trailers = 0
        self._direct: Direct | None = None
        self._ahead: deque[Asked] = deque()
        #: Nothing more is read; nothing more is written.
        self._deaf = self._closing = self._paused = self.stuck = False
        self.busy: Head | None = None
        self.abandon: Any = None
        self.active = self.arrived = monotonic()
        self.began: float | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    # What the transport calls.

    def get_buffer(self, sizehint: int) -> bytearray | memoryview:
        return self._front.scratch if self._direct is None else self._direct.rest

    def buffer_updated(self, nbytes: int) -> None:
        if self._deaf:
            return
        self.active = monotonic()
        if self._direct is not None:
            self._came(self._direct, nbytes)
        elif self.began is not None or not self._recognize(nbytes):
            self._parse(self._front.scratch[:nbytes])

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._target, self._headers, self._head, self._length = b"", [], None, 0
        # Also the second of two that came at once: until it is complete, the parser alone reads on.
        self.began = self.active

    def on_url(self, url: bytes) -> None:
        # In parts, when it comes in several reads.
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is None:
            self._headers.append((name.lower(), value))
        else:  # Trailers, which are none of the head, where keys are.
            self._trailers += len(name) + len(value)
            if self._trailers > self._front.limits.head:
                self.refuse(*self._front.too_long)

    def on_headers_complete(self) -> None:
        parser = self._parser
        chunks = parser.get_http_version() == "1.1"
        # Older clients would have to be told that a connection stays.
        keep_alive = chunks and parser.should_keep_alive() and not parser.should_upgrade()
        method = parser.get_method().decode("latin-1")
        self._head = found = Head(method, self._target, self._headers, keep_alive=keep_alive, chunks=chunks)
        self._front.look(found)
        self._unread = self._trailers = 0
        objection = self._front.objection(found)
        if objection is not None:
            self.refuse(*objection)
        elif self.busy is None and not self._deaf:
            self.invite()

    def invite(self) -> None:
        """Tell a client that waits for it to send the body of its request."""
        if self._head is not None and self._head.waits and not self._length:
            self.aside(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._length += len(body)
        if self._length > self._front.limits.body:
            self.refuse(413, f"the body is larger than {self._front.limits.body}")
        elif not self._deaf:
            try:
                self._parts.add(body)
            except NotReadyError as error:
                self.refuse(503, error.what)

    def on_message_complete(self) -> None:
        content = self._parts.release()
        try:
            body = self._front.memory.keep(content, self._head.tensors if self._head else 0)
            self._complete(body, own=body is not content)
        except NotReadyError as error:
            self.refuse(503, error.what)

    # The road of a request.

    def _recognize(self, count: int) -> bool:
        """Take one whole request, or one whose body is still to come, whose head has come before."""
        front = self._front
        scratch = front.scratch
        end = scratch.find(END, 0, count) + 4
        found = front.heads.get(bytes(scratch[:end])) if end > 3 else None
        if found is None:
            return False
        length = found.length or 0
        if count - end == length and length < DIRECT:
            self._take(found, bytes(scratch[end:count]), False)
            return True
        if count - end > length or length < DIRECT:
            # Something follows it, or it is a small one in pieces: the parser takes them apart.
            return False
        if not front.knows(found):
            # The parser's callbacks say so.
            return False
        # Whole or not: large ones lie where their tensors are aligned, and are counted.
        self._head = found
        self.began = self.active
        self._read_directly(length, memoryview(scratch)[end:count])
        return True

    def _parse(self, data: bytearray) -> None:
        fresh = self.began is None
        if fresh:
            # Lines that are empty may come before a request. Source: RFC 9112, section 2.2.
            data = data.lstrip(b"\r\n")
            if not data:
                return
            self.began, self._head = self.active, None
            if self._parser is None:
                self._parser = httptools.HttpRequestParser(self)
        if self._head is None or fresh:
            self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as what it also is, a request of HTTP/1.1; what follows on the connection is not read.
            self._deaf = True
        except httptools.HttpParserError as exc:
            self.refuse(400, f"this is not HTTP/1.1: {exc}")
        found = self._head
        if fresh and found is not None and not self._deaf:
            self._front.remember(data, found, self._length)
        if self.began is not None and not self._deaf:
            self._go_on(found)

    def _go_on(self, found: Head | None) -> None:
        """The request is not complete: whether more of it is read, and how."""
        if found is None:
            if self._unread > self._front.limits.head:
                self.refuse(*self._front.too_long)
        elif (found.length or 0) - self._length >= DIRECT:
            # The parser would wait for the body; the next request is for a new one.
            self._parser = None
            self._read_directly(found.length or 0)

    def _read_directly(self, expected: int, first: bytes | memoryview = b"") -> None:
        """Let the rest of a body be written to where it will stay, its tensors aligned."""
        self._direct = direct = Direct(self._front.memory, expected, self._head.tensors if self._head else 0)
        for part in filter(len, (self._parts.release(), first)):
            direct.rest[: len(part)] = part
            self._came(direct, len(part))

    def _came(self, direct: Direct, length: int) -> None:
        """So many bytes of a body were read directly."""
        try:
            whole = direct.came(length)
        except NotReadyError as error:
            self._direct = None
            self.refuse(503, error.what)
            return
        if whole:
            self._direct = None
            self._complete(direct.content, own=True)

    def _complete(self, body: bytes | memoryview, *, own: bool) -> None:
        found, self.began = self._head, None
        if found is not None and not self._deaf:
            self._take(found, body, own)

    def _take(self, found: Head, body: bytes | memoryview, own: bool) -> None:
        """Serve a request, or keep it until those before it are answered and read."""
        if self.busy is None and not self.stuck:
            self.busy = found
            self.arrived = self.active
            found.serve(self, found, body, own)
            return
        self._ahead.append((found, body, own))
        if len(self._ahead) > AHEAD or len(body) > DIRECT:
            self.pause()

    # What the writing half does.

    @abstractmethod
    def aside(self, data: bytes) -> None:
        """Write what is no answer."""

    @abstractmethod
    def pause(self) -> None:
        """Read no more for now: there is enough to do."""

    @abstractmethod
    def refuse(self, status: int, why: str) -> None:
        """Answer what is no request that could be served, and end the connection."""
