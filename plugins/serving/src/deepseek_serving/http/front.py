"""What all connections share: limits, the short road of inference, and the application for the rest."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any

import msgspec

from deepseek.plugin import ConfigError, DeepSeekError
from deepseek_serving.access import AccessLog
from deepseek_serving.bodies import SMALL, Memory, unpacked
from deepseek_serving.encrypted import over
from deepseek_serving.errors import Refusals, http_status
from deepseek_serving.http.asgi import Exchange
from deepseek_serving.http.browsers import Browsers
from deepseek_serving.http.connection import Connection
from deepseek_serving.http.infer import InferRoad
from deepseek_serving.http.message import END, Head
from deepseek_serving.http.shared import SharedConnection
from deepseek_serving.settings import LimitSettings
from deepseek_serving.workers.slots import Slots

logger = logging.getLogger("deepseek.serving")

Application = Callable[[Any, Any, Any], Awaitable[None]]
JSON = b"application/json"
#: The page that takes what is no JSON.
_ANYTHING = b"/predict"
#: Heads that are kept, and bytes and fields of the longest of them.
_HEADS, _LONGEST, _FIELDS = 4096, 2048, 32
#: How often connections are looked at, in seconds.
_SWEEP = 1.0


class Front:
    """The HTTP side of a server; lives on the loop.

    Args:
        road: answers inference requests.
        app: the ASGI application that answers everything else.
        limits: what a client may ask for.
        browsers: tells what pages of other hosts send.
        memory: for large bodies.
        refusals: counts errors.
        access: the access log; None: none.

    Attributes:
        scratch: where connections read to; each is done with it before the next is asked.
        heads: heads that came before, by their bytes.
        too_long: the status and the reason for heads that are.
        looks: how often all connections were looked at.
        draining: no connection is kept open after its answer.
    """

    def __init__(
        self, road: InferRoad, app: Application, limits: LimitSettings, browsers: Browsers, memory: Memory,
        refusals: Refusals,
        access: AccessLog | None = None,
    ) -> None:  # fmt: skip
        self.limits = limits
        self.memory, self.refusals = memory, refusals
        self.access = access
        self.scratch = bytearray(256 << 10)
        self.heads: dict[bytes, Head] = {}
        self.too_long = 431, f"the head of the request is larger than {limits.head}"
        self.draining = False
        self.looks = 0
        self._road = road
        self._browsers = browsers
        self._app = app
        self._connections: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    async def listen(self, host: str, port: int, context: ssl.SSLContext | None) -> asyncio.Server:
        """Accept connections here. Raises ConfigError."""
        try:
            return await self._loop.create_server(
                over(context is not None, self), host, port, backlog=4096, ssl=context,
                ssl_handshake_timeout=self.limits.read_timeout if context else None,
            )  # fmt: skip
        except OSError as exc:
            hint = "choose another with --port, or 0 for any free one"
            raise ConfigError(f"can't listen on {host}:{port}: {exc.strerror or exc}", hint=hint) from exc

    def __call__(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self)

    def connection(self, slot: int, slots: Slots, gone: Callable[[int], None]) -> Connection:
        """A protocol for a connection that a supervisor keeps a hold of."""
        return SharedConnection(self, slot, slots, gone)

    def opened(self, connection: Connection) -> None:
        """A client has connected."""
        self._connections.add(connection)
        if len(self._connections) > 1.25 * self.limits.connections + 16:
            # So many that they are not even told.
            connection.abort()
        elif len(self._connections) > self.limits.connections:
            connection.refuse(503, f"{self.limits.connections} connections are open already")

    def closed(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    def look(self, head: Head) -> None:
        """Find what follows from a head: whether it is served, and whether by the road of inference."""
        if head.chunks and sum(name == b"host" for name, _ in head.headers) != 1:
            # Of two, each side of a proxy might believe another. Source: RFC 9112, section 3.2.
            head.serve = partial(self._refuse, 400, "a request of HTTP/1.1 has one `Host`")
            return
        wrong = self._browsers.wrong(head)
        if wrong:
            head.serve = partial(self._refuse, 403, wrong)
            return
        ask = self._road.look(head) if head.method == "POST" else None
        head.serve = self._exchange if ask is None else partial(self._road.ask, ask)

    def objection(self, head: Head) -> tuple[int, str] | None:
        """Why the body that belongs to a head is not even read: a status and a reason; None: it is."""
        limits = self.limits
        if head.size > limits.head:
            return self.too_long
        if head.chunked and head.chunked.lower() != b"chunked":
            return 501, "no Transfer-Encoding is known but `chunked`; use Content-Encoding"
        if head.length is not None and head.length > limits.body:
            return 413, f"the body is larger than {limits.body}"
        if ((head.length or 0) >= SMALL or head.chunked) and not self.knows(head):
            return 401, "an API key is needed"
        return None

    def _refuse(
        self, status: int, why: str, connection: Connection, head: Head, body: bytes | memoryview, own: bool
    ) -> None:  # fmt: skip
        connection.respond(status, JSON, [self.error_body(why)])

    def _exchange(self, connection: Connection, head: Head, body: bytes | memoryview, own: bool) -> None:
        encoding = head.header(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            try:
                body = unpacked(body, encoding, self.limits.body)
            except DeepSeekError as error:
                connection.respond(http_status(error), JSON, [self.error_body(error.what)])
                return
        if len(body) > self.limits.json and not head.target.partition(b"?")[0].endswith(_ANYTHING):
            connection.respond(413, JSON, [self.error_body(f"the JSON is larger than {self.limits.json}")])
            return
        Exchange(connection, head, body, self._loop).begin(self._app)

    def remember(self, data: bytearray, head: Head, length: int) -> None:
        """Keep a head that was parsed, which may come again: of one request, with nothing odd about it.

        Args:
            data: what was read at once.
            head: what the parser made of it.
            length: bytes of the body that the parser found in it: all that follow the head, where it is looked for.
        """
        end = data.find(END) + 4
        if end < 4 or length != len(data) - end or not data.startswith(head.method.encode()):
            return
        if end > _LONGEST or len(head.headers) > _FIELDS or head.waits or head.length is None:
            return
        if len(self.heads) >= _HEADS:
            self.heads.clear()
        self.heads[bytes(data[:end])] = head

    def knows(self, head: Head) -> bool:
        """Whether who sends a head may send a body of any size: strangers take no memory from others."""
        return self._road.gatekeeper.knows(head.headers)

    def error_body(self, why: str) -> bytes:
        """An error as the protocol has it."""
        return msgspec.json.encode({"error": why})

    @property
    def waiting(self) -> int:
        """Connections that are not done with a request."""
        return sum(connection.unfinished for connection in self._connections)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    def drain(self) -> None:
        """Close idle connections now, and the others after their answer."""
        self.draining = True
        for connection in list(self._connections):
            connection.close()

    def close(self) -> None:
        """End every connection; who still waits is told."""
        self._sweeper.cancel()
        for connection in list(self._connections):
            connection.give_up()
        for connection in list(self._connections):
            connection.leave()

    def _sweep(self) -> None:
        """End connections of clients that send too slowly, do not read, or say nothing for long."""
        # Whatever happens, they are looked at again.
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
        now, limits = monotonic(), self.limits
        self.looks += 1
        for connection in list(self._connections):
            if connection.unread:
                connection.look()
                if now - connection.active > limits.idle_timeout:
                    connection.abort()
            elif connection.paused:
                continue
            elif connection.began is not None:
                if now - connection.began > limits.read_timeout:
                    connection.refuse(408, f"the request was not complete after {limits.read_timeout}")
            elif connection.busy is None and now - connection.active > limits.idle_timeout:
                connection.close()
