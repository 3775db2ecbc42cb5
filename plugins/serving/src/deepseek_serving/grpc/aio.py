"""The service carried by grpc.aio, the official library: slower than our own carrier, and known to everybody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from deepseek.plugin import ConfigError, DeepSeekError
from deepseek_serving.asking import ask
from deepseek_serving.backlog import Backlog
from deepseek_serving.errors import grpc_status, text
from deepseek_serving.grpc import schema
from deepseek_serving.grpc.conversation import Conversation
from deepseek_serving.grpc.service import Asking, Service

if TYPE_CHECKING:
    from deepseek_serving.server import Server

logger = logging.getLogger("deepseek.serving")

#: Bytes of responses that may wait for a client before no more is asked, and before one in chunks is given up.
_BEHIND, _LOST = 1 << 20, 8 << 20


class AioCarrier:
    """Serves gRPC on a port of its own.

    Args:
        server: whose models it serves.
        shared: whether other processes listen on the same port.
    """

    def __init__(self, server: Server, *, shared: bool) -> None:
        self._server = server
        self._service = Service(server)
        self._talks: set[Conversation] = set()
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
        for talk in list(self._talks):
            talk.finish()
        await self._grpc.stop(grace)

    def _handlers(self) -> Any:
        found = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, partial(self._service.call, name)))
            for name in self._service.calls
        }
        found["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._unary("ModelInfer", self._infer))
        found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(schema.SERVICE, found)

    def _unary(
        self, name: str, work: Callable[[bytes, Asking], Awaitable[bytes]]
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def call(raw: bytes, context: Any) -> bytes:
            asking, arrived = _asking(context), monotonic()
            try:
                answer = await work(raw, asking)
            except Exception as error:
                self._service.log(asking, name, grpc_status(error), 0, arrived)
                await _tell(context, asking)
                await self._abort(context, error)
                raise
            self._service.log(asking, name, "OK", len(answer), arrived)
            await _tell(context, asking)
            return answer

        return call

    async def _infer(self, raw: bytes, asking: Asking) -> bytes:
        model, question = self._service.question(raw, asking)
        trace = self._server.trace(asking.headers, asking.name)
        answer: bytes = await ask(
            model, question, trace, lambda outputs: b"".join(self._service.response(model, question, outputs))
        )
        return answer

    async def _stream(self, incoming: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        outgoing: Backlog[bytes | None] = Backlog()
        asking, loop = _asking(context), asyncio.get_running_loop()

        def put(response: bytes | None) -> None:
            outgoing.put(response, len(response or b""))

        talk = Conversation(self._service, asking, put, loop, lambda: outgoing.size > _LOST)
        try:
            self._server.gatekeeper.caller(asking.headers)
        except DeepSeekError as error:
            await self._abort(context, error)
        read = asyncio.Event()

        async def listen() -> None:
            async for raw in incoming:
                talk.ask(raw)
                # A client that does not read is not read either.
                while talk.busy or outgoing.size > _BEHIND:
                    read.clear()
                    talk.full(outgoing.size > _BEHIND)
                    await read.wait()
            talk.finish()

        listening = asyncio.ensure_future(listen())
        self._talks.add(talk)
        try:
            while (response := await outgoing.get()) is not None:
                yield response
                talk.full(outgoing.size > _BEHIND)
                read.set()
        finally:
            self._talks.discard(talk)
            listening.cancel()
            talk.cancel()

    async def _abort(self, context: Any, error: Exception) -> None:
        if not isinstance(error, DeepSeekError):
            logger.error("a call over gRPC failed", exc_info=error)
        self._server.refusals.grpc(error)
        await context.abort(getattr(grpc.StatusCode, grpc_status(error)), text(error))


async def _tell(context: Any, asking: Asking) -> None:
    if asking.span:
        await context.send_initial_metadata((("traceparent", asking.span.decode()),))


def _asking(context: Any) -> Asking:
    headers = [
        (key.encode(), value if isinstance(value, bytes) else value.encode())
        for key, value in context.invocation_metadata() or ()
    ]
    left = context.time_remaining()
    # Without a deadline the library tells of a time beyond any.
    return Asking(headers, context.peer(), monotonic() + left if left is not None and left < 1e8 else None)
