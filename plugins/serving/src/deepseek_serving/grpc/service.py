"""What the service does, whatever carries it: requests to questions, outputs to responses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec
from google.protobuf.message import DecodeError

from deepseek.plugin import DeepSeekError, InputError
from deepseek_serving.access import new_name
from deepseek_serving.errors import TooLargeError
from deepseek_serving.gatekeeper import ANYBODY
from deepseek_serving.grpc import messages, schema, wire
from deepseek_serving.grpc.calls import Calls, response_of, table
from deepseek_serving.http2.headers import Headers
from deepseek_serving.oip.requests import Question

if TYPE_CHECKING:
    from deepseek_serving.served import Served
    from deepseek_serving.server import Server


#: Calls that need no key: health, for probes.
_FREE = ("ServerLive", "ServerReady")
_PARTS = list[wire.Piece]


class Asking(msgspec.Struct):
    """Who calls, and until when.

    Attributes:
        headers: the call's metadata.
        peer: the client's address.
        deadline: `time.monotonic()` seconds; None: there is none.
        span: the header ``traceparent`` of the answer, where the call is traced.
    """

    headers: Headers
    peer: str
    deadline: float | None = None
    span: bytes = b""

    def name(self, span: bytes) -> None:
        """The call is traced."""
        self.span = span


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
            known = model.messages.read(raw, begin, keep=own, tenant=tenant, deadline=deadline)
            if known is not None:
                return model, known
        request = decoded(schema.ModelInferRequest, raw)
        model = server.repository.find(request.model_name, request.model_version)
        try:
            question = messages.question(request, tenant, self._deadline(model, asking), server.admin.region(tenant))
        except DeepSeekError as error:
            raise model.refused(error) from None
        if opening is not None:
            model.messages.learn_message(raw, opening[2], question, timeout="timeout" in request.parameters)
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
            given = dict(asking.headers).get(b"x-request-id", b"").decode("latin-1") or new_name()
            access.line(given, asking.peer, "POST", name, status, length, monotonic() - arrived)


def decoded(kind: Any, raw: wire.Piece) -> Any:
    """A message. Raises InputError."""
    try:
        return kind.FromString(bytes(raw) if isinstance(raw, memoryview) else raw)
    except DecodeError as exc:
        raise InputError(f"the message is no {kind.DESCRIPTOR.name}: {exc}") from exc
