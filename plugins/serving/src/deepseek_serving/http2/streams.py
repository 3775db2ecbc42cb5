"""One exchange on a connection: what its receiver is told, and what waits to be sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepseek_serving.http2 import frames

if TYPE_CHECKING:
    from deepseek_serving.http2.connection import Connection

Piece = bytes | memoryview
#: What a client may send of a request before it is told to go on, in bytes.
WINDOW = 1 << 20
# On the road of answers: names of this module, which are found sooner.
_top, _DATA, _HEADERS = frames.TOP.pack, frames.DATA, frames.HEADERS
_END_STREAM, _END_HEADERS = frames.END_STREAM, frames.END_HEADERS


class Receiver(ABC):
    """Takes what a client sends on a stream."""

    @abstractmethod
    def data(self, pieces: Sequence[Piece], *, end: bool) -> None:
        """Parts of the request's body, which are to be copied if they are kept; `end`: nothing follows it."""

    @abstractmethod
    def late(self) -> None:
        """The stream is open, long after it began: an end where a part of the request is still to come."""

    @abstractmethod
    def gone(self) -> None:
        """The client has taken the request back, or has gone."""

    def drained(self) -> None:  # noqa: B027 -- most send one answer and need not know
        """All that was to be sent has been."""

    def finish(self) -> None:  # noqa: B027 -- most end by themselves
        """The server is ending: take no more, and end when what was taken is answered."""

    def give_up(self) -> None:  # noqa: B027 -- most have their answer
        """The server ends now: say so."""


class Stream:
    """One request and its answer.

    Args:
        connection: where it came.
        number: its own on the connection.
        window: how many bytes the client takes on it.
        began: when it came, in `time.monotonic()` seconds.

    Attributes:
        receiver: takes what the client sends.
        leave: how much the client may still send, in bytes.
        open: whether the client may send more.
        queue: what waits for the client's leave to be sent.
        queued: bytes of it.
        closing: the header block that ends the answer, when all before it is sent.
        over: the answer is complete, or will never be.
        held: the client is not told to go on sending.
    """

    receiver: Receiver
    queue: deque[memoryview]
    # What most streams never change.
    leave, taken = WINDOW, 0
    open, over, held = True, False, False
    queued = 0
    closing: bytes | None = None

    def __init__(self, connection: Connection, number: int, window: int, began: float) -> None:
        self.connection = connection
        self.number = number
        self.window = window
        self.began = began

    def head(self, block: bytes) -> None:
        """Begin the answer with its headers."""
        if not self.over:
            self.connection.emit(frames.frame(frames.HEADERS, frames.END_HEADERS, self.number, block))

    def send(self, *parts: Piece) -> None:
        """Send bytes of the answer, as the client takes them."""
        if self.over or self.closing is not None:
            return
        if not self.queued:
            self.queue = deque()
        before = self.queued
        for part in parts:
            if part:
                self.queue.append(memoryview(part).cast("B"))
                self.queued += len(self.queue[-1])
        if self.queued and not before:
            # Else it waits for its turn already.
            self.connection.blocked[self.number] = self
        self.connection.pump()

    def end(self, block: bytes) -> None:
        """End the answer with a header block: after a head, trailers; else its only headers."""
        if self.over or self.closing is not None:
            return
        if self.queued:
            self.closing = block
        else:
            self.connection.finish(self, block)

    def answer(self, head: bytes, parts: list[Piece], length: int, tail: bytes) -> None:
        """Send a whole answer: headers, `length` bytes in parts, trailers."""
        connection = self.connection
        if self.over:
            return
        fits = length <= self.window and length <= connection.window and length <= connection.frame
        if not fits or connection.blocked or not connection.writable:
            self.head(head)
            self.send(*parts)
            self.end(tail)
            return
        connection.window -= length
        number = self.number
        connection.emit(
            _top(0, len(head), _HEADERS, _END_HEADERS, number), head,
            _top(length >> 16, length & 0xFFFF, _DATA, 0, number), *parts,
            _top(0, len(tail), _HEADERS, _END_HEADERS | _END_STREAM, number), tail,
        )  # fmt: skip
        connection.ended(self)

    def cut(self) -> None:
        """Drop what waits to be sent; the answer may still be ended, otherwise than it was to be."""
        self.connection.forget(self)
        self.queue.clear()
        self.queued, self.closing = 0, None

    def break_off(self, code: int) -> None:
        """End the exchange without an answer."""
        if not self.over:
            self.over = True
            self.connection.emit(frames.reset(self.number, code))
            self.connection.streams.pop(self.number, None)
            self.settle()

    def settle(self) -> None:
        """Let go of the receiver, which holds the stream: bodies are freed now, not when garbage is collected."""
        self.__dict__.pop("receiver", None)

    def hold(self, held: bool) -> None:
        """Let the client send no more than it was told it may, or let it go on."""
        self.held = held
        if not held and self.open and not self.over:
            self.connection.credit(self)
