"""The supervisor: starts workers, lets them act together, and puts others in the place of those that die."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine
from typing import Any

from deepseek_serving.process import announce
from deepseek_serving.rates import SharedTimes
from deepseek_serving.settings import ServerSettings
from deepseek_serving.workers.channel import Channel
from deepseek_serving.workers.door import Door, reserve
from deepseek_serving.workers.held import Held
from deepseek_serving.workers.lookout import Lookout
from deepseek_serving.workers.together import Together

logger = logging.getLogger("deepseek.serving")

#: A worker that lives shorter than this is started again only after a wait, in seconds; and the longest wait.
_YOUNG, _LONGEST = 5.0, 30.0


class Supervisor:
    """Runs a number of workers on one port.

    Args:
        settings: the section `server`.
        start: what workers are told: source, name, settings, overrides, log_level.
    """

    def __init__(self, settings: ServerSettings, start: dict[str, Any]) -> None:
        self.settings = settings
        self._start = start
        self._workers: list[Held] = []
        self._door = Door(settings, self._workers)
        self._times = SharedTimes.make()
        self._ending = False
        self._ready = asyncio.Event()
        self._failed: int | None = None
        self._names = ""
        self._reserved: socket.socket | None = None
        self._lookout = Lookout(self._workers, settings.stall, settings.loading)
        self._together = Together(self._workers, self._lookout)
        self._patience = 1.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until a signal ends it; the exit code. Raises ConfigError."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        address = self._door.open()
        if self.settings.grpc:
            self._reserved = reserve(self.settings.host, self.settings.grpc.port, address[0])
            self._start["grpc_port"] = self._reserved.getsockname()[1]
        else:
            self._start["grpc_port"] = 0
        for _ in range(self.settings.workers):
            self._spawn()
        looking = loop.create_task(self._lookout.run())
        waits = [asyncio.ensure_future(event.wait()) for event in (ended, self._ready)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.is_set() and self._failed is None:
            more = f" with {self.settings.workers} workers"
            announce(self._names, *address, self._start["grpc_port"], tls=self.settings.tls is not None, more=more)
            await waits[0]
        self._ending = True
        self._door.close()
        await self._end_workers()
        for wait in (*waits, looking):
            wait.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_YOUNG)
        return self._failed or 0

    def _spawn(self) -> None:
        mine, theirs = socket.socketpair()
        # Without the working directory on the path: it may be the folder of models.
        command = [sys.executable, "-P", "-m", "deepseek_serving.workers.worker", str(theirs.fileno())]
        shared = {"slots": self._door.slots.handle, "times": self._times.handle}
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(), *shared.values()))  # noqa: S603 -- ourselves
        theirs.close()
        worker = Held(process)
        start = {**self._start, **shared, "first": not self._ready.is_set()}
        worker.channel = Channel(
            mine, lambda message, _: self._receive(worker, message), lambda: self._died(worker)
        )  # fmt: skip
        worker.channel.send(start)
        self._workers.append(worker)

    def _receive(self, worker: Held, message: dict[str, Any]) -> None:
        if "closed" in message:
            self._door.ended(worker, message["closed"])
        elif "able" in message:
            worker.able = True
            self._door.give_waiting()
        elif "loaded" in message:
            self._begin(self._bring_up(worker, message))
        elif "listening" in message:
            self._listens(worker)
        elif "leaving" in message:
            worker.able = worker.ready = worker.watches = False
            self._appoint()
        elif "last" in message:
            worker.report = self._lookout.read(message["last"])
        elif message.get("call") == "report":
            self._begin(self._together.report(worker, message))
        elif "call" in message:
            self._begin(self._together.change(worker, message))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_up(self, worker: Held, message: dict[str, Any]) -> None:
        """Let a worker whose models are loaded do what the others did before, and serve."""
        try:
            fit = await self._together.join(worker)
        except ConnectionError:
            return
        if fit:
            self._names = message["loaded"]
            self._door.give_waiting()
            self._appoint()
        worker.channel.answer(message, fit)

    def _listens(self, worker: Held) -> None:
        worker.listens = True
        if sum(one.ready and one.listens for one in self._workers) == self.settings.workers:
            self._ready.set()
            self._door.serving = True
            self._door.give_waiting()

    def _appoint(self) -> None:
        """Have one worker watch the folder for all: what it finds they do together."""
        if self.settings.watch and not any(worker.watches for worker in self._workers):
            for worker in self._workers:
                if worker.ready:
                    worker.watches = True
                    worker.channel.send({"call": "watch"})
                    return

    def _died(self, worker: Held) -> None:
        """A worker has ended: its connections are looked after, and another takes its place."""
        worker.able = worker.ready = False
        self._workers.remove(worker)
        self._lookout.bury(worker)
        self._appoint()
        self._begin(self._replace(worker))

    async def _replace(self, worker: Held) -> None:
        code = await asyncio.to_thread(worker.end)
        if self._ending:
            for held in worker.slots.values():
                held.close()
            return
        if code > 0 and not self._ready.is_set():
            # It never served, and said why.
            self._failed = code
            self._ready.set()
            return
        logger.error("a worker process ended with %d; another takes its place", code)
        self._respawn_after(worker)
        for slot, held in worker.slots.items():
            self._door.inherit(slot, held)

    def _respawn_after(self, worker: Held) -> None:
        wait = 0.0
        if worker.listens and time.monotonic() - worker.born > _YOUNG:
            self._patience = 1.0
        else:
            # Perhaps every one will end like this.
            wait, self._patience = self._patience, min(2 * self._patience, _LONGEST)
        asyncio.get_running_loop().call_later(wait, self._respawn)

    def _respawn(self) -> None:
        if self._ending:
            return
        try:
            self._spawn()
        except OSError as exc:
            logger.error("a worker process could not be started: %s", exc)
            asyncio.get_running_loop().call_later(self._patience, self._respawn)

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
