"""A worker process: serves the connections that the supervisor gives it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from deepseek.plugin import DeepSeekError
from deepseek_serving.allocator import tune
from deepseek_serving.encrypted import over
from deepseek_serving.errors import brought, carried
from deepseek_serving.loading import Loading
from deepseek_serving.process import check_models, folder_of, leave, log_to_stderr, run_on_loop, settle_memory, until
from deepseek_serving.rates import SharedTimes
from deepseek_serving.reports import Report, together
from deepseek_serving.server import Server
from deepseek_serving.settings import from_plain
from deepseek_serving.workers.channel import Channel
from deepseek_serving.workers.slots import Slots

logger = logging.getLogger("deepseek.serving")


class Worker:
    """Joins a server to the supervisor.

    Args:
        server: this process's.
        end: of the channel.
        slots: the states of the connections.
        first: whether the server starts with it, and ends where it can't.
    """

    def __init__(self, server: Server, end: socket.socket, slots: Slots, *, first: bool) -> None:
        self._server = server
        self._first = first
        self._slots = slots
        self._closed: list[int] = []
        self._loading: Loading | None = None
        self.ended = asyncio.Event()
        self.channel = Channel(end, self._receive, self.ended.set)
        self._tasks: set[asyncio.Task[None]] = set()
        server.colleagues = self

    async def everywhere(self, call: str, **arguments: Any) -> None:
        """Make a change in all workers, this one included. Raises DeepSeekError where one can't: then none does."""
        wrong = await self.channel.ask({"call": call, "arguments": arguments})
        if wrong:
            raise brought(*wrong)

    async def report(self) -> Report:
        """What all workers counted."""
        answers = await self.channel.ask({"call": "report", "arguments": {}})
        others = [msgspec.convert(answer, Report, str_keys=True) for answer in answers]
        return together([self._server.own_report(), *others])

    async def start(self) -> None:
        """Load, and serve if the supervisor finds that this worker does as the others do. Raises ConfigError."""
        server, channel = self._server, self.channel
        await server.start(listen=False, live=lambda: channel.send({"able": True}))
        if self._first:
            check_models(server)
        if not await channel.ask({"loaded": server.names()}):
            self.ended.set()
            return
        # Others listen there, too: what comes here must find models.
        await server.listen_grpc()
        settle_memory()
        channel.send({"listening": True})

    async def end(self) -> None:
        """Finish what was begun, and say what was counted."""
        self.channel.send({"leaving": True})
        counts = self._server.live
        await self._server.stop()
        if counts:
            self.channel.send({"last": self._own_report()})
        self.channel.close()

    def _own_report(self) -> Any:
        return msgspec.to_builtins(self._server.own_report())

    def gone(self, slot: int) -> None:
        """A connection has ended."""
        if not self._closed:
            asyncio.get_running_loop().call_soon(self._tell)
        self._closed.append(slot)

    def _tell(self) -> None:
        closed, self._closed = self._closed, []
        self.channel.send({"closed": closed})

    def _receive(self, message: dict[str, Any], passed: socket.socket | None) -> None:
        if "slot" in message and passed is None:
            logger.error("a connection was lost: no more files may be open")
            self.gone(message["slot"])
            return
        if passed is not None and self.ended.is_set():
            # Whoever takes this worker's place takes its connections.
            passed.close()
            return
        if message.get("call") == "watch":
            self._server.watch()
            return
        work = self._adopt(message["slot"], passed) if passed else self._do(message)
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _adopt(self, slot: int, passed: socket.socket) -> None:
        passed.setblocking(False)
        connection = self._server.front.connection(slot, self._slots, self.gone)
        try:
            tls = self._server.tls
            await asyncio.get_running_loop().connect_accepted_socket(
                over(tls is not None, lambda: connection), passed, ssl=tls.context("http/1.1") if tls else None,
                ssl_handshake_timeout=self._server.settings.limits.read_timeout if tls else None,
            )  # fmt: skip
        except OSError:
            # The client went before it was here, or failed its handshake.
            passed.close()
            self.gone(slot)

    async def _do(self, message: dict[str, Any]) -> None:
        """Do what all workers do."""
        call, arguments = message["call"], message.get("arguments", {})
        repository = self._server.repository
        if call == "report":
            self.channel.answer(message, self._own_report())
            return
        if call == "models":
            self.channel.answer(message, {"served": repository.digests(), "failed": repository.failed})
            return
        wrong: list[str] = []
        try:
            if call == "prepare":
                self._loading = await repository.prepare(**arguments)
            elif call == "commit":
                self._conclude(repository.commit)
            elif call == "discard":
                self._conclude(partial(repository.discard, why=arguments["why"], again=arguments["again"]))
            else:
                await self._server.do(call, **arguments)
        # Who asked waits for an answer, whatever happened.
        except Exception as error:
            if not isinstance(error, DeepSeekError):
                logger.exception("what all worker processes do can't be done here")
            wrong = carried(error)
        self.channel.answer(message, wrong)

    def _conclude(self, how: Callable[[Loading], None]) -> None:
        loading, self._loading = self._loading, None
        # Otherwise it could not be prepared here.
        if loading is not None:
            how(loading)


async def _serve(end: socket.socket, start: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    settings = from_plain(start["settings"])
    folder = folder_of(Path(start["source"]), start["name"], settings)
    times = SharedTimes(start["times"])
    server = Server(settings, folder, start["overrides"], times=times, grpc_port=start["grpc_port"])
    worker = Worker(server, end, Slots(start["slots"], settings.limits.connections), first=start["first"])
    # The supervisor says when: a Ctrl-C reaches every process of a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop.add_signal_handler(signal.SIGTERM, worker.ended.set)
    try:
        await until(worker.start(), worker.ended)
    finally:
        await worker.end()


def main() -> None:
    """Entry point: ``python -m deepseek_serving.workers.worker CHANNEL``, with the rest in the first message."""
    end = socket.socket(fileno=int(sys.argv[1]))
    size = int.from_bytes(end.recv(4, socket.MSG_WAITALL), "big")
    start = msgspec.msgpack.decode(end.recv(size, socket.MSG_WAITALL))
    log_to_stderr(start["log_level"])
    tune()
    try:
        run_on_loop(_serve(end, start))
    except DeepSeekError as error:
        logger.error("%s", error)
        # Not worth another try: the next would fail the same way.
        os._exit(error.exit_code)
    leave(0)


if __name__ == "__main__":
    main()
