"""A request answered by an ASGI application, which everything but inference is."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from deepseek_serving.http.message import Head, Headers, head

if TYPE_CHECKING:
    from deepseek_serving.http.connection import Connection

logger = logging.getLogger("deepseek.serving")


class Exchange:
    """One request and its answer, as an ASGI application sees them.

    Args:
        connection: where the request came from.
        asked: the request's head.
        content: its body.
        loop: the connection's.

    Source: ASGI specification 3.0, HTTP connection scope 2.3.
    """

    def __init__(
        self, connection: Connection, asked: Head, content: bytes | memoryview, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._connection = connection
        self._head = asked
        self._content = content
        self._loop = loop
        self._gone = asyncio.Event()
        self._asked = False
        self._start: dict[str, Any] | None = None
        self._started = self._done = False
        #: Of an answer in parts: its request's name, and its bytes so far.
        self._name, self._length = b"", 0

    def begin(self, app: Any) -> None:
        """Let the application answer, in a task of its own."""
        task = self._loop.create_task(self._run(app))
        # The loop itself holds tasks weakly.
        _TASKS.add(task)
        task.add_done_callback(_TASKS.discard)

        def abandon() -> None:
            self._gone.set()
            task.cancel()

        self._connection.abandon = abandon

    async def _run(self, app: Any) -> None:
        try:
            await app(self._scope(), self._receive, self._send)
        except Exception:
            logger.exception("%s %s failed", self._head.method, self._head.target.partition(b"?")[0].decode("latin-1"))
        if self._started and not self._done:
            self._log()
            # Half an answer can't be told from a whole one by any other sign.
            self._connection.abort()
        elif not self._done and not self._gone.is_set():
            body = b'{"error":"internal error"}'
            self._connection.respond(500, b"application/json", [body])

    def _scope(self) -> dict[str, Any]:
        asked = self._head
        path, _, query = asked.target.partition(b"?")
        if not path.startswith(b"/"):
            # An absolute URL, as proxies send it.
            path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": asked.method, "scheme": "https" if self._connection.encrypted else "http",
            "path": unquote_to_bytes(path).decode("utf-8", "replace"), "raw_path": path, "query_string": query,
            "root_path": "", "headers": asked.headers, "client": self._connection.peer, "server": None, "state": {},
        }  # fmt: skip

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": bytes(self._content), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: dict[str, Any]) -> None:
        if self._gone.is_set() or self._done:
            return
        if event["type"] == "http.response.start":
            self._start = event
        elif event["type"] == "http.response.body":
            self._body(event.get("body", b""), more=event.get("more_body", False))
            if not self._done:
                await self._connection.writable.wait()

    def _body(self, body: bytes, *, more: bool) -> None:
        start, connection = self._start, self._connection
        assert start is not None  # noqa: S101 -- ASGI has it so
        if not self._started and not more:
            self._done = True
            headers = [(name, value) for name, value in start["headers"] if name not in _OWN]
            kind = next((value for name, value in start["headers"] if name == b"content-type"), b"text/plain")
            connection.respond(start["status"], kind, [body], headers)
            return
        chunks = self._head.chunks
        if not self._started:
            self._started = True
            more_headers = [] if connection.access is None else [connection.access.named(self._head)]
            self._name = more_headers[0][1] if more_headers else b""
            connection.write(_open_head(start, more_headers, chunks=chunks))
        if body:
            self._length += len(body)
            connection.write(b"%x\r\n%b\r\n" % (len(body), body) if chunks else body)
        if not more:
            self._done = True
            self._log()
            if chunks:
                connection.write(b"0\r\n\r\n")
            connection.finish(close=not (chunks and self._head.keep_alive) or connection.draining)

    def _log(self) -> None:
        """A line for an answer that came in parts."""
        access = self._connection.access
        if access is not None and self._start is not None:
            access.ended(self._connection, self._head, self._name, self._start["status"], self._length)


#: Headers that are written by the connection itself.
_OWN = (b"content-type", b"content-length", b"connection", b"transfer-encoding")
_TASKS: set[asyncio.Task[None]] = set()


def _open_head(start: dict[str, Any], more: Headers, *, chunks: bool) -> bytes:
    """The head of an answer whose length is not known yet: it comes in chunks, or until the connection ends."""
    kind = next((value for name, value in start["headers"] if name == b"content-type"), b"text/plain")
    headers = [*more, *((name, value) for name, value in start["headers"] if name not in _OWN)]
    if chunks:
        headers.append((b"transfer-encoding", b"chunked"))
    return head(start["status"], None, kind, headers, close=not chunks)
