"""The requests of one stream of inference, and their responses."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from deepseek.plugin import DeepSeekError, InputError
from deepseek_serving.calls import StreamCall
from deepseek_serving.errors import SlowReaderError, grpc_status, text
from deepseek_serving.grpc import schema, wire
from deepseek_serving.grpc.service import Asking, Service, decoded

logger = logging.getLogger("deepseek.serving")

#: Requests of a stream that are under way at once, and bytes of them; those behind them wait.
ABREAST, _BYTES = 256, 64 << 20


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
        while self._waiting and not (self._full or self._ended) and len(self._calls) < ABREAST:
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
        if not isinstance(error, DeepSeekError):
            logger.error("a request of a stream over gRPC failed", exc_info=error)
        self._service.server.refusals.grpc(error)
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
