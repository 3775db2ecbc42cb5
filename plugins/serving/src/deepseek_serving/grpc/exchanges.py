"""The kinds of calls on our own carrier: any, inference, and streams of inference."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from deepseek.plugin import InputError
from deepseek_serving.bodies import SMALL, Claim
from deepseek_serving.calls import Call
from deepseek_serving.errors import GoneError, NotReadyError, grpc_status
from deepseek_serving.grpc import status
from deepseek_serving.grpc.conversation import Conversation
from deepseek_serving.grpc.exchange import PREFIX, Exchange, Opening
from deepseek_serving.grpc.wire import Piece
from deepseek_serving.http2.streams import Stream

if TYPE_CHECKING:
    from deepseek_serving.grpc.native import NativeCarrier


#: Bytes of a stream's responses that may wait before no more is asked, and before one that comes in chunks is given up.
_BEHIND, _LOST = 1 << 20, 8 << 20


class Unary(Exchange):
    """One request, one response: any call but inference."""

    _request: Piece | None = None
    _own = False
    _work: asyncio.Task[None] | None = None

    def message(self, message: Piece, *, own: bool) -> None:
        if self._request is not None:
            raise InputError("the call takes one message, not several")
        self._request, self._own = message, own

    def ended(self) -> None:
        if self._request is None:
            raise InputError("the call takes a message, and none came")
        request, self._request = self._request, None
        self.ask(request)

    def ask(self, request: Piece) -> None:
        """Take the request. Raises DeepSeekError."""
        self._work = asyncio.get_running_loop().create_task(self._call(request))

    async def _call(self, request: Piece) -> None:
        try:
            self.answer([await self._carrier.service.call(self._opening.name, request, self.asking())])
        except Exception as error:
            self.fail(error)

    def answer(self, parts: list[Piece]) -> None:
        """Answer with a response in parts. Raises NotReadyError."""
        self.untimed()
        length = sum(map(len, parts))
        parts.insert(0, PREFIX.pack(0, length))
        stream = self._stream
        stream.answer(status.head(self._span), parts, length + PREFIX.size, status.DONE)
        if stream.queued >= SMALL:
            # The client takes its time. As long as some of an answer waits for it, all of that is held, and counts.
            claim = stream.connection.claims[stream.number] = Claim(self._carrier.memory)
            try:
                claim.add(length)
            except NotReadyError:
                self._begun = True
                stream.cut()
                raise
        self.log("OK", length)

    def gone(self) -> None:
        super().gone()
        if self._work is not None:
            self._work.cancel()


class Infer(Unary):
    """Inference: the short road."""

    _asked: Call | None = None

    def ask(self, request: Piece) -> None:
        service, arrived, asking = self._carrier.service, self._stream.connection.active, self.asking()
        model, question = service.question(request, asking, own=self._own)
        trace = service.server.trace(asking.headers, self._named)
        outputs = model.execute(question, arrived) if trace is None else None
        if outputs is not None:
            try:
                self.answer(service.response(model, question, outputs))
            except Exception as error:
                raise model.spoiled(error) from None
            return
        self._asked = call = Call(model, question, self._done, arrived)
        if trace is not None:
            trace(call)
        # The call has the deadline, too.
        self.untimed()
        model.submit(call, self._carrier.loop)

    def _named(self, span: bytes) -> None:
        self._span = span

    def _done(self, call: Call) -> None:
        # The two hold one another.
        self._asked = None
        error = call.error
        if isinstance(error, GoneError):
            self.log(grpc_status(error), 0)
        elif error is not None:
            self.fail(error)
        else:
            try:
                self.answer(self._carrier.service.response(call.model, call.question, call.outputs or {}))
            except Exception as exc:
                self.fail(exc)
                # It would keep the answer, and the call keeps it.
                call.error = exc.with_traceback(None)

    def gone(self) -> None:
        super().gone()
        if self._asked is not None:
            self._asked.cancel()


class StreamInfer(Exchange):
    """A stream of requests, and one of responses."""

    #: How the answer ends.
    _bye = status.DONE
    _claim: Claim | None = None

    def __init__(self, carrier: NativeCarrier, stream: Stream, opening: Opening) -> None:
        carrier.service.server.gatekeeper.caller(opening.headers)
        super().__init__(carrier, stream, opening)
        self._talk = Conversation(
            carrier.service, self.asking(), self._put, carrier.loop, lambda: stream.queued > _LOST
        )  # fmt: skip

    def message(self, message: Piece, *, own: bool) -> None:
        self._talk.ask(message)
        self._stream.hold(self._talk.busy)

    def ended(self) -> None:
        # Also where the server has begun to end: there was no more to come.
        self._bye = status.DONE
        self._talk.finish()

    def drained(self) -> None:
        self._claim = None
        self._talk.full(False)
        self._stream.hold(self._talk.busy)

    def late(self) -> None:
        # A stream may stay open as long as it likes, a message in it may not.
        if self._body is not None and monotonic() - self._since > self._carrier.limits.read_timeout:
            super().late()

    def finish(self) -> None:
        if self._stream.open:
            # The client had more to say.
            self._bye = status.failed(NotReadyError("the server is ending"), begun=True)
        self._talk.finish()

    def gone(self) -> None:
        super().gone()
        self._claim = None
        self._talk.cancel()

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        self._claim = None
        self._talk.cancel()

    def _put(self, response: bytes | None) -> None:
        stream = self._stream
        if not self._begun:
            self._begun = True
            stream.head(status.HEAD)
        if response is None:
            self.untimed()
            stream.end(self._bye)
            return
        stream.send(PREFIX.pack(0, len(response)), response)
        if stream.queued > _BEHIND:
            self._talk.full(True)
        if stream.queued >= SMALL:
            # What the client does not read counts until it has read all that waits.
            self._claim = self._claim or Claim(self._carrier.memory)
            try:
                self._claim.add(len(response))
            except NotReadyError as error:
                stream.cut()
                self.fail(error)


#: What answers the calls; every other is `Unary`.
KINDS: dict[str, Any] = {"ModelInfer": Infer, "ModelStreamInfer": StreamInfer}
