"""One call on our own carrier: its headers, and its messages put together."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING

import msgspec

from deepseek.plugin import DeadlineError, DeepSeekError, InputError
from deepseek_serving.bodies import SMALL, Direct, unpacked
from deepseek_serving.errors import NotReadyError, TooLargeError, grpc_status
from deepseek_serving.grpc import status
from deepseek_serving.grpc.service import Asking
from deepseek_serving.grpc.wire import Piece
from deepseek_serving.http2.headers import Headers
from deepseek_serving.http2.streams import Receiver, Stream

if TYPE_CHECKING:
    from deepseek_serving.grpc.native import NativeCarrier

logger = logging.getLogger("deepseek.serving")

#: What stands before a message: whether it is compressed, and its length.
PREFIX = Struct(">BI")
#: Messages that are whole when they are seen, and larger, are put where tensors are aligned.
_DIRECT = SMALL


class Opening(msgspec.Struct, frozen=True):
    """What the headers of a call say.

    Attributes:
        headers: all of them.
        name: the call's.
        kind: the exchange that answers it; None: it is refused as `refusal` says.
        timeout: seconds; None: no deadline.
        packing: how compressed messages are packed.
        refusal: a header block.
    """

    headers: Headers
    name: str = ""
    kind: type[Exchange] | None = None
    timeout: float | None = None
    packing: bytes = b""
    refusal: bytes = b""


class Exchange(Receiver):
    """One call: puts its messages together.

    Args:
        carrier: whose call it is.
        stream: where it came.
        opening: what its headers say.
    """

    def __init__(self, carrier: NativeCarrier, stream: Stream, opening: Opening) -> None:
        self._carrier, self._stream, self._opening = carrier, stream, opening
        if opening.timeout is not None:
            self._timer = carrier.loop.call_later(opening.timeout, self._expired)

    # What most calls never change.
    _prefix = b""
    _body: Direct | None = None
    #: Whether the answer's headers are sent.
    _begun = False
    _packed = False
    #: The header ``traceparent`` of the answer.
    _span = b""
    #: When a message began that is not complete.
    _since = 0.0
    _timer: asyncio.TimerHandle | None = None

    def data(self, pieces: Sequence[Piece], *, end: bool) -> None:
        try:
            if end and len(pieces) == 1 and self._body is None and not self._prefix and self._alone(pieces[0]):
                return
            for piece in pieces:
                self._take(piece)
            if end and not self._stream.over:
                if self._body is not None or self._prefix:
                    raise InputError("the call ended in the middle of a message")
                self.ended()
        except Exception as error:
            self.fail(error)

    def _alone(self, piece: Piece) -> bool:
        """Take the one message of a call, as most are: whole, small, and not compressed."""
        size = len(piece) - PREFIX.size
        if not 0 <= size < _DIRECT or PREFIX.unpack_from(piece) != (0, size) or size > self._carrier.limits.body:
            return False
        self.message(bytes(piece[PREFIX.size :]), own=False)
        self.ended()
        return True

    def _take(self, piece: Piece) -> None:
        at, size = 0, len(piece)
        while at < size and not self._stream.over:
            body = self._body
            if body is None:
                if self._prefix or size - at < PREFIX.size:
                    some = piece[at : at + PREFIX.size - len(self._prefix)]
                    self._prefix += bytes(some)
                    at += len(some)
                    if len(self._prefix) < PREFIX.size:
                        return
                    packed, length = PREFIX.unpack(self._prefix)
                    self._prefix = b""
                else:
                    packed, length = PREFIX.unpack_from(piece, at)
                    at += PREFIX.size
                self._check(packed, length)
                if length <= size - at and length < _DIRECT:
                    self._message(bytes(piece[at : at + length]), own=False)
                    at += length
                    continue
                # Tensors are last in a message and their sizes even: its end decides where they are aligned.
                self._body = body = Direct(self._carrier.service.server.memory, length, length)
                self._since = self._stream.connection.active
            rest = body.rest
            some = piece[at : at + len(rest)]
            rest[: len(some)] = some
            at += len(some)
            if body.came(len(some)):
                self._body = None
                self._message(body.content, own=True)

    def _check(self, packed: int, length: int) -> None:
        limit = self._carrier.limits.body
        if length > limit:
            raise TooLargeError(f"the message has {length} bytes, more than {limit}")
        if packed > 1:
            raise InputError("this is no message of gRPC: it begins with neither 0 nor 1")
        self._packed = packed == 1

    def _message(self, message: Piece, *, own: bool) -> None:
        if self._packed:
            packing = self._opening.packing
            if not packing or packing == b"identity":
                raise InputError("a message is compressed, and `grpc-encoding` does not say how")
            content = unpacked(message, packing, self._carrier.limits.body)
            message = self._carrier.service.server.memory.keep(content, len(content))
            own = message is not content
        self.message(message, own=own)

    @abstractmethod
    def message(self, message: Piece, *, own: bool) -> None:
        """A message has come. Raises DeepSeekError."""

    @abstractmethod
    def ended(self) -> None:
        """No message follows. Raises DeepSeekError."""

    def fail(self, error: BaseException) -> None:
        """End the call with an error."""
        if not isinstance(error, DeepSeekError):
            logger.error("a call over gRPC failed", exc_info=error)
        self._carrier.service.server.refusals.grpc(error)
        self.log(grpc_status(error), 0)
        self.untimed()
        self._body = None
        self._stream.end(status.failed(error, begun=self._begun, span=self._span))

    def gone(self) -> None:
        self.untimed()
        # What holds this may be there for a while.
        self._body = None

    def give_up(self) -> None:
        self.fail(NotReadyError("the server is ending"))
        self.gone()

    def untimed(self) -> None:
        """The call's deadline is looked after elsewhere, or does not matter any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        self._timer = None
        self.fail(DeadlineError("the deadline passed before there was an answer"))
        self.gone()

    def log(self, status: str, length: int) -> None:
        """Write the call down, if that is wanted."""
        service = self._carrier.service
        if service.server.access is not None:
            service.log(self.asking(), self._opening.name, status, length, self._stream.began)

    def late(self) -> None:
        self.fail(DeadlineError(f"the request was not complete after {self._carrier.limits.read_timeout}"))

    def asking(self) -> Asking:
        """Who calls."""
        opening = self._opening
        deadline = None if opening.timeout is None else self._stream.began + opening.timeout
        return Asking(opening.headers, self._stream.connection.peer, deadline)
