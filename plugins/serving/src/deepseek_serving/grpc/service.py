"""What the service does, whatever carries it: requests to questions, outputs to responses, streams of both."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec
from google.protobuf.message import DecodeError

from deepseek.plugin import DeepSeekError, InputError
from deepseek_serving.calls import StreamCall
from deepseek_serving.errors import SlowReaderError, TooLargeError, grpc_status, text
from deepseek_serving.gatekeeper import ANYBODY
from deepseek_serving.grpc import messages, schema, wire
from deepseek_serving.grpc.calls import Calls, response_of, table
from deepseek_serving.http2.headers import Headers
from deepseek_serving.oip.requests import Question

if TYPE_CHECKING:
    import asyncio

    from deepseek_serving.served import Served
    from deepseek_serving.server import Server


#: Calls that need no key: health, for probes.
_FREE = ("ServerLive", "ServerReady")
#: Requests of a stream that are under way at once, and bytes of them; those behind them wait.
ABREAST, _BYTES = 256, 64 << 20
_PARTS = list[wire.Piece]


class Asking(msgspec.Struct):
    """Who calls, and until when.

    Attributes:
        headers: the call's metadata.
        peer: the client's address.
        deadline: `time.monotonic()` seconds; None: there is none.
    """

    headers: Headers
    peer: str
    deadline: float | None = None


class Service:
    """The calls of the service.

    Args:
        server: whose models are asked.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.calls = table(Calls(server))
        self._frames = wire.Frames()
        self._openings = wire.Openings()

    async def call(self, name: str, raw: wire.Piece, asking: Asking) -> bytes:
        """Any call but inference: a response from a request. Raises DeepSeekError."""
        takes, handler, gives = self.calls[name]
        caller = ANYBODY if name in _FREE else self.server.gatekeeper.caller(asking.headers)
        answer = handler(decoded(takes, raw), caller)
        made = response_of(gives, await answer if inspect.isawaitable(answer) else answer)
        return bytes(made.SerializeToString())

    def question(self, raw: wire.Piece, asking: Asking, *, own: bool = False) -> tuple[Served, Question]:
        """Who is asked, and what. Raises DeepSeekError.

        Args:
            raw: a `ModelInferRequest`.
            asking: who asks.
            own: whether the memory may be used as the tensors'.
        """
        server = self.server
        tenant = server.gatekeeper.admit(asking.headers) if server.gatekeeper.closed else ""
        opening = self._openings.find(raw)
        if opening is not None:
            name, version, begin = opening
            model = server.repository.find(name, version)
            deadline = self._deadline(model, asking)
            known = model.recipes.read(raw, begin, keep=own, tenant=tenant, deadline=deadline)
            if known is not None:
                return model, known
        request = decoded(schema.ModelInferRequest, raw)
        model = server.repository.find(request.model_name, request.model_version)
        try:
            question = messages.question(request, tenant, self._deadline(model, asking), server.admin.region(tenant))
        except DeepSeekError as error:
            raise model.refused(error) from None
        if opening is not None:
            model.recipes.learn_message(raw, opening[2], question, timeout="timeout" in request.parameters)
        return model, question

    def _deadline(self, model: Served, asking: Asking) -> float | None:
        if asking.deadline is None and model.settings.timeout:
            return monotonic() + model.settings.timeout
        return asking.deadline

    def response(self, model: Served, question: Question, outputs: Mapping[str, Any]) -> _PARTS:
        """A `ModelInferResponse`, in parts. Raises InputError, TooLargeError."""
        parts = self._frames.answer(model.name, model.version, question, outputs)
        if parts is None:
            message = messages.answer(model, question, outputs, self.server.admin.region(question.options.tenant))
            parts = [message.SerializeToString()]
        if sum(map(len, parts)) >= 1 << 31:
            raise TooLargeError("the answer is larger than gRPC's 2 GiB")
        return parts

    def log(self, asking: Asking, name: str, status: str, length: int, arrived: float) -> None:
        """A line of the access log, if there is one."""
        access = self.server.access
        if access is not None:
            given = dict(asking.headers).get(b"x-request-id", b"").decode("latin-1")
            access.line(given, asking.peer, "POST", name, status, length, monotonic() - arrived)


class Conversation:
    """The requests of one `ModelStreamInfer`, and their responses; an error ends its request, not the stream.

    Args:
        service: which is asked.
        asking: who asks.
        put: takes each response, a `ModelStreamInferResponse`, and None at the end.
        loop: where all of it lives.
        behind: whether so much waits for the client that an answer in chunks has to be given up.
    """

    def __init__(
        self, service: Service, asking: Asking, put: Callable[[bytes | None], None], loop: asyncio.AbstractEventLoop,
        behind: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._service, self._asking = service, asking
        self._put, self._loop, self._behind = put, loop, behind
        #: Requests under way, and the bytes of each.
        self._calls: dict[StreamCall, int] = {}
        self._waiting: deque[wire.Piece] = deque()
        self._finishing = self._ended = self._full = False

    @property
    def busy(self) -> bool:
        """Whether requests wait for others to be answered: the client need not send more."""
        return bool(self._waiting)

    def ask(self, raw: wire.Piece) -> None:
        """Take a request."""
        self._waiting.append(raw)
        self._go_on()

    def full(self, full: bool) -> None:
        """Whether responses wait for the client to read them: then no more is asked."""
        self._full = full
        self._go_on()

    def finish(self) -> None:
        """No more requests come."""
        self._finishing = True
        self._end()

    def cancel(self) -> None:
        """The client has gone."""
        self._waiting.clear()
        self._ended = True
        for call in list(self._calls):
            call.cancel()

    def _go_on(self) -> None:
        while self._waiting and not self._full and len(self._calls) < ABREAST:
            if self._calls and sum(self._calls.values()) + len(self._waiting[0]) > _BYTES:
                break
            self._begin(self._waiting.popleft())
        self._end()

    def _begin(self, raw: wire.Piece) -> None:
        question = None
        try:
            model, question = self._service.question(raw, self._asking)
            call = StreamCall(model, question, self._done, monotonic(), lambda chunk: self._chunk(call, chunk))
            trace = self._service.server.trace(self._asking.headers)
            if trace is not None:
                trace(call)
            model.submit(call, self._loop)
        except Exception as error:
            self._fail(question.id if question else _id(raw), error)
        else:
            self._calls[call] = len(raw)

    def _chunk(self, call: StreamCall, chunk: Mapping[str, Any]) -> None:
        try:
            parts = self._service.response(call.model, call.question, chunk)
        except Exception as error:
            call.settle(error)
            return
        if not call.last and self._behind():
            call.settle(SlowReaderError("the client does not read its responses"))
            return
        parts.append(_LAST if call.last else _MORE)
        length = sum(map(len, parts))
        self._put(b"".join((_RESPONSE, wire.to_varint(length), *parts)))

    def _done(self, call: StreamCall) -> None:
        self._calls.pop(call, None)
        if call.error is not None and not self._ended:
            self._fail(call.question.id, call.error)
        status = "OK" if call.error is None else grpc_status(call.error)
        self._service.log(self._asking, "ModelStreamInfer", status, 0, call.arrived)
        self._go_on()

    def _end(self) -> None:
        if self._finishing and not (self._calls or self._waiting or self._ended):
            self._ended = True
            self._put(None)

    def _fail(self, name: str, error: BaseException) -> None:
        response = schema.ModelStreamInferResponse(error_message=text(error))
        response.infer_response.id = name
        self._put(response.SerializeToString())


def _final(last: bool) -> bytes:
    message = schema.ModelInferResponse()
    message.parameters["triton_final_response"].bool_param = last
    return bytes(message.SerializeToString())


#: What says whether a response of a stream is its request's last; and the field that holds a response.
_LAST, _MORE = _final(True), _final(False)
_RESPONSE = b"\x12"


def _id(raw: wire.Piece) -> str:
    try:
        return str(decoded(schema.ModelInferRequest, raw).id)
    except InputError:
        return ""


def decoded(kind: Any, raw: wire.Piece) -> Any:
    """A message. Raises InputError."""
    try:
        return kind.FromString(bytes(raw) if isinstance(raw, memoryview) else raw)
    except DecodeError as exc:
        raise InputError(f"the message is no {kind.DESCRIPTOR.name}: {exc}") from exc
