"""The supervisor: starts workers, lets them act together, and puts others in the place of those that die."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine
from typing import Any

from deepseek.plugin import ConfigError
from deepseek_serving.process import announce
from deepseek_serving.settings import ServerSettings
from deepseek_serving.workers.changes import Changes
from deepseek_serving.workers.channel import Channel
from deepseek_serving.workers.door import Door
from deepseek_serving.workers.held import Held
from deepseek_serving.workers.lookout import Lookout

logger = logging.getLogger("deepseek.serving")

#: A worker that lives shorter than this is started again only after a wait, in seconds.
_YOUNG = 5.0


class Supervisor:
    """Runs a number of workers on one port.

    Args:
        settings: the section `server`.
        start: what workers are told: source, name, config, overrides, log_level.
    """

    def __init__(self, settings: ServerSettings, start: dict[str, Any]) -> None:
        self.settings = settings
        self._start = start
        self._workers: list[Held] = []
        self._door = Door(settings, self._workers)
        self._ending = False
        self._ready = asyncio.Event()
        self._failed: int | None = None
        self._summary = ""
        self._reserved: socket.socket | None = None
        self._changes = Changes()
        self._lookout = Lookout(self._workers, settings.stall)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until a signal ends it; the exit code. Raises ConfigError."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        address = self._door.open()
        self._start["grpc_port"] = self._reserve(address[0]) if self.settings.grpc else 0
        for _ in range(self.settings.workers):
            self._spawn()
        looking = loop.create_task(self._lookout.run())
        waits = [asyncio.ensure_future(event.wait()) for event in (ended, self._ready)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.is_set() and self._failed is None:
            self._announce(*address)
            await waits[0]
        self._ending = True
        self._door.close()
        await self._end_workers()
        for wait in (*waits, looking):
            wait.cancel()
        return self._failed or 0

    def _announce(self, host: str, port: int) -> None:
        scheme, grpc = "https" if self.settings.tls else "http", self._start["grpc_port"]
        where = f"{scheme}://{host}:{port}" + (f" and grpc://{host}:{grpc}" if grpc else "")
        announce(f"{self._summary} on {where} with {self.settings.workers} workers")

    def _reserve(self, host: str) -> int:
        """A port that all workers can listen on for gRPC, side by side."""
        assert self.settings.grpc is not None  # noqa: S101 -- the caller looked
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        where = (self.settings.host, self.settings.grpc.port)
        self._reserved = socket.socket(family)
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            # Alone first: another server's workers would share the port with ours, and their clients with them.
            socket.create_server(where, family=family).close()
            self._reserved.bind(where)
        except OSError as exc:
            address = f"{self.settings.host}:{self.settings.grpc.port}"
            hint = "choose another with --grpc-port, or 0 for any free one"
            raise ConfigError(f"can't listen on {address} for gRPC: {exc.strerror}", hint=hint) from exc
        return int(self._reserved.getsockname()[1])

    def _spawn(self) -> None:
        mine, theirs = socket.socketpair()
        os.set_inheritable(self._door.slots.handle, True)
        command = [sys.executable, "-m", "deepseek_serving.workers.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(), self._door.slots.handle))  # noqa: S603 -- ourselves
        theirs.close()
        worker = Held(process)
        start = {**self._start, "slots": self._door.slots.handle, "workers": self.settings.workers}
        worker.channel = Channel(
            mine, lambda message, _: self._receive(worker, message), lambda: self._died(worker)
        )  # fmt: skip
        worker.channel.send(start)
        self._workers.append(worker)

    def _receive(self, worker: Held, message: dict[str, Any]) -> None:
        if "closed" in message:
            self._door.ended(worker, message["closed"])
        elif "ready" in message:
            self._begin(self._bring_up(worker, message["summary"]))
        elif "able" in message:
            worker.able = True
            self._door.give_waiting()
        elif "call" in message:
            self._begin(self._pass_on(worker, message))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_up(self, worker: Held, summary: str) -> None:
        """Let a worker whose models are loaded do what the others did before, and serve."""
        for call in self._changes.calls():
            try:
                wrong = await worker.channel.ask(call)
            except ConnectionError:
                return
            if wrong:
                logger.error("a new worker process can't %s as the others did: %s", call["call"], wrong)
        worker.ready = True
        self._summary = summary
        if sum(one.ready for one in self._workers) == self.settings.workers:
            self._ready.set()
            self._door.serving = True
        self._door.give_waiting()

    async def _pass_on(self, asker: Held, message: dict[str, Any]) -> None:
        """Let all other workers do what one has done, and bring it their answers."""
        others = [worker for worker in self._workers if worker is not asker and worker.able]
        call = {"call": message["call"], "arguments": message["arguments"]}
        report = message["call"] == "report"
        if not report:
            self._changes.note(message["call"], message["arguments"])
        # A report can be done without, a change can't.
        limit = 5.0 if report else None
        asked = (asyncio.wait_for(worker.channel.ask(dict(call)), limit) for worker in others)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        told = [None if isinstance(answer, BaseException) else answer for answer in answers]
        asker.channel.answer(message, told + self._lookout.past if report else told)

    def _died(self, worker: Held) -> None:
        """A worker has ended: its connections are looked after, and another takes its place."""
        worker.able = worker.ready = False
        self._workers.remove(worker)
        self._lookout.bury(worker)
        self._begin(self._replace(worker))

    async def _replace(self, worker: Held) -> None:
        code = await asyncio.to_thread(worker.end)
        if self._ending:
            for held in worker.slots.values():
                held.close()
            return
        young = time.monotonic() - worker.born < _YOUNG
        if code > 0 and not self._ready.is_set():
            # It never served, and said why.
            self._failed = code
            self._ready.set()
            return
        logger.error("a worker process ended with %d; another takes its place", code)
        asyncio.get_running_loop().call_later(1.0 if young else 0.0, self._respawn)
        for slot, held in worker.slots.items():
            self._door.inherit(slot, held)

    def _respawn(self) -> None:
        if not self._ending:
            self._spawn()

    async def _end_workers(self) -> None:
        workers = list(self._workers)
        for worker in workers:
            worker.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + self.settings.drain + 5.0
        while any(worker.process.poll() is None for worker in workers) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for worker in workers:
            if worker.process.poll() is None:
                logger.error("a worker process did not end in time, and was killed")
                worker.process.kill()
