"""The service carried by grpc.aio, the official library."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from deepseek.plugin import ConfigError, DeepSeekError, InputError
from deepseek_serving.asking import Trace, ask
from deepseek_serving.calls import StreamCall
from deepseek_serving.errors import grpc_status, text
from deepseek_serving.gatekeeper import ANYBODY
from deepseek_serving.grpc import messages, schema
from deepseek_serving.grpc.calls import Calls, response_of, table

if TYPE_CHECKING:
    from deepseek_serving.server import Server

logger = logging.getLogger("deepseek.serving")

#: Responses that may wait for a client to read them.
_BEHIND = 256
#: Calls that need no key: health, for probes.
_FREE = ("ServerLive", "ServerReady")


class AioService:
    """Serves gRPC on a port of its own.

    Args:
        server: whose models it serves.
        shared: whether other processes listen on the same port.
    """

    def __init__(self, server: Server, *, shared: bool) -> None:
        self._server = server
        limit = int(server.settings.limits.body)
        self._grpc = aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_concurrent_streams", 1024),
            ],
            maximum_concurrent_rpcs=server.settings.limits.connections,
        )
        self._grpc.add_generic_rpc_handlers((self._handlers(),))

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises ConfigError."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            tls = self._server.tls
            bound = (
                self._grpc.add_secure_port(address, tls.grpc_credentials())
                if tls
                else self._grpc.add_insecure_port(address)
            )
        except RuntimeError as exc:
            raise ConfigError(f"can't listen on {address} for gRPC: {exc}", hint="is the port taken?") from exc
        await self._grpc.start()
        return bound

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those in flight so many seconds."""
        await self._grpc.stop(grace)

    def _handlers(self) -> Any:
        found = {}
        for name, (request, handler, response) in table(Calls(self._server)).items():
            work = self._unary(request, handler, response, free=name in _FREE)
            found[name] = grpc.unary_unary_rpc_method_handler(work, None, response.SerializeToString)
        found["ModelInfer"] = grpc.unary_unary_rpc_method_handler(
            self._infer, None, schema.ModelInferResponse.SerializeToString
        )
        found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, None, schema.ModelStreamInferResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(schema.SERVICE, found)

    def _unary(
        self, takes: Any, handler: Callable[[Any, Any], Any], kind: Any, *, free: bool
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(raw: bytes, context: Any) -> Any:
            try:
                caller = ANYBODY if free else self._server.gatekeeper.caller(_headers(context))
                answer = handler(_decoded(takes, raw), caller)
                return response_of(kind, await answer if inspect.isawaitable(answer) else answer)
            except Exception as error:
                await _abort(context, error)

        return call

    async def _infer(self, raw: bytes, context: Any) -> Any:
        server, arrived = self._server, monotonic()
        try:
            model, question = self._question(_decoded(schema.ModelInferRequest, raw), context)
            outputs = await ask(model, question, self._trace(context))
            answer = messages.answer(model, question, outputs, server.admin.region)
        except Exception as error:
            self._log(context, grpc_status(error), 0, arrived)
            await _abort(context, error)
        self._log(context, "OK", 0 if server.access is None else answer.ByteSize(), arrived)
        return answer

    def _trace(self, context: Any) -> Trace | None:
        tracing = self._server.tracing
        return None if tracing is None else lambda call: call.trace(tracing, _headers(context))

    def _log(self, context: Any, status: str, length: int, arrived: float) -> None:
        access = self._server.access
        if access is not None:
            name = dict(_headers(context)).get(b"x-request-id", b"").decode("latin-1")
            access.line(name, context.peer(), "POST", "ModelInfer", status, length, monotonic() - arrived)

    async def _stream(self, incoming: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Every request's chunks as they come; an error ends its request, not the stream."""
        outgoing: asyncio.Queue[Any] = asyncio.Queue()
        stream = Stream(self._server, outgoing.put_nowait)
        try:
            self._server.gatekeeper.caller(_headers(context))
        except DeepSeekError as error:
            await _abort(context, error)

        async def read() -> None:
            async for raw in incoming:
                stream.ask(raw, partial(self._question, context=context))
                # A client that does not read is not read either.
                while outgoing.qsize() > _BEHIND:
                    await asyncio.sleep(0.01)
            stream.finish()

        reading = asyncio.ensure_future(read())
        try:
            while (response := await outgoing.get()) is not None:
                yield response
        finally:
            reading.cancel()
            stream.cancel()

    def _question(self, request: Any, context: Any) -> Any:
        server = self._server
        tenant = server.gatekeeper.admit(_headers(context)) if server.gatekeeper.closed else ""
        model = server.repository.find(request.model_name, request.model_version)
        left = context.time_remaining()
        # Without a deadline the library tells of a time beyond any.
        deadline = monotonic() + left if left is not None and left < 1e8 else None
        if deadline is None and model.settings.timeout:
            deadline = monotonic() + model.settings.timeout
        return model, messages.question(request, tenant, deadline, server.admin.region)


class Stream:
    """The requests of one `ModelStreamInfer`, and their responses.

    Args:
        server: whose models are asked.
        put: takes each response, and None at the end.
    """

    def __init__(self, server: Server, put: Callable[[Any], None]) -> None:
        self._server = server
        self._put = put
        self._calls: set[StreamCall] = set()
        self._finishing = False

    def ask(self, raw: bytes, question: Callable[[Any], Any]) -> None:
        """Take a request."""
        name = ""
        try:
            request = _decoded(schema.ModelInferRequest, raw)
            name = request.id
            model, asked = question(request)
            call = StreamCall(model, asked, self._done, monotonic(), lambda chunk: self._chunk(call, chunk))
            model.submit(call, asyncio.get_running_loop())
        except Exception as error:
            self._fail(name, error)
        else:
            self._calls.add(call)

    def finish(self) -> None:
        """No more requests come."""
        self._finishing = True
        if not self._calls:
            self._put(None)

    def cancel(self) -> None:
        """The client has gone."""
        for call in list(self._calls):
            call.cancel()

    def _chunk(self, call: StreamCall, chunk: Mapping[str, Any]) -> None:
        try:
            response = messages.answer(call.model, call.question, chunk, self._server.admin.region)
        except Exception as error:
            self._fail(call.question.id, error)
            return
        response.parameters["triton_final_response"].bool_param = call.last
        self._put(schema.ModelStreamInferResponse(infer_response=response))

    def _done(self, call: StreamCall) -> None:
        self._calls.discard(call)
        if call.error is not None:
            self._fail(call.question.id, call.error)
        if self._finishing and not self._calls:
            self._put(None)

    def _fail(self, name: str, error: BaseException) -> None:
        response = schema.ModelStreamInferResponse(error_message=text(error))
        response.infer_response.id = name
        self._put(response)


def _headers(context: Any) -> list[tuple[bytes, bytes]]:
    return [
        (key.encode(), value if isinstance(value, bytes) else value.encode())
        for key, value in context.invocation_metadata() or ()
    ]


def _decoded(kind: Any, raw: bytes) -> Any:
    """A message. Raises InputError: left to the library, that would be an error of the server's."""
    try:
        return kind.FromString(raw)
    except DecodeError as exc:
        raise InputError(f"the message is no {kind.DESCRIPTOR.name}: {exc}") from exc


async def _abort(context: Any, error: Exception) -> None:
    if not isinstance(error, DeepSeekError):
        logger.error("a call over gRPC failed", exc_info=error)
    await context.abort(getattr(grpc.StatusCode, grpc_status(error)), text(error))
