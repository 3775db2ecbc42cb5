"""The supervisor: accepts connections, gives them to workers, and keeps a hold of each, in case its worker dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from deepseek.plugin import ConfigError
from deepseek_serving.process import announce
from deepseek_serving.settings import ServerSettings
from deepseek_serving.workers.channel import Channel
from deepseek_serving.workers.held import Held
from deepseek_serving.workers.orphans import refuse
from deepseek_serving.workers.slots import ASKED, IDLE, Slots

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
        self._slots = Slots.make(settings.limits.connections)
        self._free = list(range(settings.limits.connections))
        self._workers: list[Held] = []
        #: Accepted, and no worker to serve them.
        self._waiting: list[socket.socket] = []
        self._ending = False
        self._ready = asyncio.Event()
        self._failed: int | None = None
        self._summary = ""
        self._reserved: socket.socket | None = None

    async def run(self) -> int:
        """Serve until a signal ends it; the exit code. Raises ConfigError."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        listener = self._listen()
        for _ in range(self.settings.workers):
            self._spawn()
        loop.add_reader(listener, self._accept, listener)
        waits = [asyncio.ensure_future(event.wait()) for event in (ended, self._ready)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.is_set() and self._failed is None:
            self._announce(*listener.getsockname()[:2])
            await waits[0]
        self._ending = True
        loop.remove_reader(listener)
        listener.close()
        await self._end_workers()
        for wait in waits:
            wait.cancel()
        return self._failed or 0

    def _announce(self, host: str, port: int) -> None:
        scheme, grpc = "https" if self.settings.tls else "http", self._start["grpc_port"]
        where = f"{scheme}://{host}:{port}" + (f" and grpc://{host}:{grpc}" if grpc else "")
        announce(f"{self._summary} on {where} with {self.settings.workers} workers")

    def _listen(self) -> socket.socket:
        settings = self.settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        try:
            listener = socket.create_server((settings.host, settings.http.port), family=family, backlog=4096)
        except OSError as exc:
            address = f"{settings.host}:{settings.http.port}"
            hint = "choose another with --port, or 0 for any free one"
            raise ConfigError(f"can't listen on {address}: {exc.strerror or exc}", hint=hint) from exc
        listener.setblocking(False)
        self._start["grpc_port"] = self._reserve(family) if settings.grpc else 0
        return listener

    def _reserve(self, family: int) -> int:
        """A port that all workers can listen on for gRPC, side by side."""
        assert self.settings.grpc is not None  # noqa: S101 -- the caller looked
        self._reserved = socket.socket(family)
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._reserved.bind((self.settings.host, self.settings.grpc.port))
        except OSError as exc:
            address = f"{self.settings.host}:{self.settings.grpc.port}"
            hint = "choose another with --grpc-port, or 0 for any free one"
            raise ConfigError(f"can't listen on {address} for gRPC: {exc.strerror}", hint=hint) from exc
        return int(self._reserved.getsockname()[1])

    def _spawn(self) -> None:
        mine, theirs = socket.socketpair()
        os.set_inheritable(self._slots.handle, True)
        command = [sys.executable, "-m", "deepseek_serving.workers.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(), self._slots.handle))  # noqa: S603 -- ourselves
        theirs.close()
        worker = Held(process)
        start = {**self._start, "slots": self._slots.handle, "workers": self.settings.workers}
        worker.channel = Channel(
            mine, lambda message, _: self._receive(worker, message), lambda: self._died(worker)
        )  # fmt: skip
        worker.channel.send(start)
        self._workers.append(worker)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                # No more files may be open: later, and not at once again.
                logger.error("a connection could not be accepted: %s", exc.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(0.1, self._listen_again, listener)
                return
            self._give(accepted)

    def _give_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for accepted in waiting:
            self._give(accepted)

    def _listen_again(self, listener: socket.socket) -> None:
        if not self._ending:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _give(self, accepted: socket.socket, slot: int | None = None) -> None:
        """Give a connection to the worker that has the fewest."""
        able = [worker for worker in self._workers if worker.ready]
        if not able and not self._ready.is_set():
            # While the server starts, those that load still tell of its health.
            able = [worker for worker in self._workers if worker.able]
        if not able:
            self._waiting.append(accepted)
            if slot is not None:
                self._free.append(slot)
            return
        if slot is None:
            if not self._free:
                refuse(accepted)
                return
            slot = self._free.pop()
            self._slots.open(slot)
        worker = min(able, key=lambda worker: len(worker.slots))
        worker.slots[slot] = accepted
        worker.channel.send({"slot": slot, "socket": True}, accepted)

    def _receive(self, worker: Held, message: dict[str, Any]) -> None:
        if "closed" in message:
            for slot in message["closed"]:
                held = worker.slots.pop(slot, None)
                if held is not None:
                    held.close()
                    self._free.append(slot)
        elif "ready" in message:
            worker.ready = True
            self._summary = message["summary"]
            if sum(one.ready for one in self._workers) == self.settings.workers:
                self._ready.set()
            self._give_waiting()
        elif "able" in message:
            worker.able = True
            self._give_waiting()
        elif "call" in message:
            self._task = asyncio.ensure_future(self._pass_on(worker, message))

    async def _pass_on(self, asker: Held, message: dict[str, Any]) -> None:
        """Let all other workers do what one has done, and bring it their answers."""
        others = [worker for worker in self._workers if worker is not asker and worker.able]
        call = {"call": message["call"], "arguments": message["arguments"]}
        # A report can be done without, a change can't.
        limit = 5.0 if message["call"] == "report" else None
        asked = (asyncio.wait_for(worker.channel.ask(dict(call)), limit) for worker in others)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        asker.channel.answer(message, [None if isinstance(answer, BaseException) else answer for answer in answers])

    def _died(self, worker: Held) -> None:
        """A worker has ended: its connections are looked after, and another takes its place."""
        worker.able = worker.ready = False
        self._workers.remove(worker)
        code = worker.process.wait()
        if self._ending:
            for held in worker.slots.values():
                held.close()
            return
        young = time.monotonic() - worker.born < _YOUNG
        if young and code > 0 and not self._ready.is_set():
            # It never served, and said why.
            self._failed = code
            self._ready.set()
            return
        logger.error("a worker process ended with %d; another takes its place", code)
        asyncio.get_running_loop().call_later(1.0 if young else 0.0, self._respawn)
        for slot, held in worker.slots.items():
            self._inherit(slot, held)

    def _respawn(self) -> None:
        if not self._ending:
            self._spawn()

    def _inherit(self, slot: int, held: socket.socket) -> None:
        state = self._slots.state(slot, held)
        # What TLS agreed on died with the worker: nobody else can say anything.
        if state == IDLE and not self.settings.tls:
            self._slots.states[slot] = IDLE
            self._give(held, slot)
            return
        if state == ASKED and not self.settings.tls:
            refuse(held)
        else:
            held.close()
        self._free.append(slot)

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
