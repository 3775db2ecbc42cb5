"""The service carried by our own HTTP/2: the short road of inference over gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from deepseek.plugin import ConfigError, DeepSeekError
from deepseek_serving.encrypted import over
from deepseek_serving.errors import TooLargeError, UnsupportedError, grpc_status
from deepseek_serving.grpc import schema, status
from deepseek_serving.grpc.exchange import Opening
from deepseek_serving.grpc.exchanges import KINDS, Unary
from deepseek_serving.grpc.service import Asking, Service
from deepseek_serving.http2 import frames
from deepseek_serving.http2.connection import Connection
from deepseek_serving.http2.headers import Headers, malformed
from deepseek_serving.http2.streams import Piece, Receiver, Stream

if TYPE_CHECKING:
    from deepseek_serving.server import Server

logger = logging.getLogger("deepseek.serving")

#: How often connections are looked at, in seconds.
_SWEEP = 1.0


class NativeCarrier:
    """Serves gRPC on a port of its own.

    Args:
        server: whose models it serves.
        shared: whether other processes listen on the same port.

    Attributes:
        service: what the calls do.
        scratch: where connections read to.
    """

    def __init__(self, server: Server, *, shared: bool) -> None:
        self.service = Service(server)
        self.limits, self.memory = server.settings.limits, server.memory
        self.scratch = bytearray(256 << 10)
        self.draining = False
        self.loop = asyncio.get_running_loop()
        self._tls, self._shared = server.tls, shared
        self._connections: set[Connection] = set()
        self._listening: asyncio.Server | None = None
        self._sweeper = self.loop.call_later(_SWEEP, self._sweep)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises ConfigError."""
        try:
            self._listening = await self.loop.create_server(
                over(self._tls is not None, lambda: Connection(self)), host, port, backlog=4096,
                reuse_port=self._shared or None,
                ssl=self._tls.context("h2") if self._tls else None,
                ssl_handshake_timeout=self.limits.read_timeout if self._tls else None,
            )  # fmt: skip
        except OSError as exc:
            hint = "choose another with `server.grpc.port`, or 0 for any free one"
            raise ConfigError(f"can't listen on {host}:{port} for gRPC: {exc.strerror or exc}", hint=hint) from exc
        return int(self._listening.sockets[0].getsockname()[1])

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those in flight so many seconds."""
        if self._listening is not None:
            self._listening.close()
        self.draining = True
        for connection in list(self._connections):
            connection.close()
            for stream in list(connection.streams.values()):
                stream.receiver.finish()
        end = monotonic() + grace
        # Over TLS, clients may take their time with the goodbye of a connection that has nothing more to say.
        while any(one.streams or one.unsent for one in self._connections) and monotonic() < end:
            await asyncio.sleep(0.02)
        self._sweeper.cancel()
        for connection in list(self._connections):
            for stream in list(connection.streams.values()):
                stream.receiver.give_up()
            connection.flush()
        # For what was just written to leave.
        await asyncio.sleep(0.02)
        for connection in list(self._connections):
            connection.abort()

    # What connections ask.

    def opened(self, connection: Connection) -> None:
        """A client has connected."""
        self._connections.add(connection)
        if self.draining or len(self._connections) > self.limits.connections:
            connection.abort()

    def closed(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    def look(self, headers: Headers) -> Opening:
        """What the headers of a call say."""
        wrong = malformed(headers)
        if wrong:
            return Opening(headers, name=wrong)
        if sum(len(name) + len(value) + 32 for name, value in headers) > self.limits.head:
            return self._refusing(headers, TooLargeError(f"the headers are larger than {self.limits.head}"))
        given = dict(headers)
        if given[b":method"] != b"POST":
            return Opening(headers, refusal=status.NOT_POST)
        if not given.get(b"content-type", b"").startswith(b"application/grpc"):
            return Opening(headers, refusal=status.NOT_GRPC)
        service, _, name = given[b":path"].decode("latin-1").removeprefix("/").partition("/")
        try:
            if service != schema.SERVICE or not (name in KINDS or name in self.service.calls):
                raise UnsupportedError(f"there is no call `{service}/{name}`")
            wait = given.get(b"grpc-timeout")
            packing = given.get(b"grpc-encoding", b"")
            if packing not in (b"", b"identity", b"gzip", b"deflate"):
                raise UnsupportedError(f"`grpc-encoding: {packing.decode('latin-1')}` is not known")
            kind = KINDS.get(name, Unary)
            return Opening(headers, name, kind, None if wait is None else status.timeout(wait), packing)
        except DeepSeekError as error:
            return self._refusing(headers, error)

    def _refusing(self, headers: Headers, error: DeepSeekError) -> Opening:
        # Not the error itself: one that is kept keeps what it passed through.
        return Opening(headers, name=grpc_status(error), refusal=status.failed(error))

    def begin(self, stream: Stream, seen: Opening) -> Receiver:
        """An exchange for a new call."""
        if seen.kind is not None:
            try:
                return seen.kind(self, stream, seen)
            except DeepSeekError as error:
                seen = self._refusing(seen.headers, error)
        if seen.refusal:
            self.service.server.refusals.add(f"grpc {seen.name or 'other'}")
            self.service.log(Asking(seen.headers, stream.connection.peer), "", seen.name, 0, stream.began)
        return _Refused(stream, seen)

    def _sweep(self) -> None:
        """End what takes too long to come, what is not read, and connections that say nothing."""
        # Whatever happens, they are looked at again.
        self._sweeper = self.loop.call_later(_SWEEP, self._sweep)
        now, limits = monotonic(), self.limits
        for connection in list(self._connections):
            if connection.stuck(now, limits.idle_timeout) or (
                connection.writable and connection.began and now - connection.began > limits.read_timeout
            ):
                connection.abort()
            elif not connection.streams and now - connection.active > limits.idle_timeout:
                connection.close()
            for stream in list(connection.streams.values()):
                if stream.open and now - stream.began > limits.read_timeout:
                    stream.receiver.late()


class _Refused(Receiver):
    """A call that can't be taken: answered before its messages come."""

    def __init__(self, stream: Stream, seen: Opening) -> None:
        if seen.refusal:
            stream.end(seen.refusal)
        else:
            logger.debug("a malformed request: %s", seen.name)
            stream.break_off(frames.PROTOCOL_ERROR)

    def data(self, pieces: Sequence[Piece], *, end: bool) -> None:
        """Nothing is done with it."""

    def late(self) -> None:
        """It has its answer."""

    def gone(self) -> None:
        """It has its answer."""
