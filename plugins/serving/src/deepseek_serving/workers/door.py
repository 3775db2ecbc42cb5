"""The door: accepts connections, gives each to a worker, and keeps a hold of it in case the worker dies."""

from __future__ import annotations

import asyncio
import logging
import socket

from deepseek.plugin import ConfigError
from deepseek_serving.settings import ServerSettings
from deepseek_serving.workers.held import Held
from deepseek_serving.workers.orphans import refuse
from deepseek_serving.workers.slots import ASKED, IDLE, Slots

logger = logging.getLogger("deepseek.serving")

#: Seconds that a connection waits for a worker when all have died.
_WAITING = 5.0


class Door:
    """Belongs to the supervisor's loop.

    Args:
        settings: the section `server`.
        workers: those that there are.

    Attributes:
        slots: what the connections are at.
        serving: whether all workers have been ready: until then, those that load tell of the server's health.
    """

    def __init__(self, settings: ServerSettings, workers: list[Held]) -> None:
        self.slots = Slots.make(settings.limits.connections)
        self.serving = False
        self._settings, self._workers = settings, workers
        self._free = list(range(settings.limits.connections))
        #: Accepted, and no worker to serve them.
        self._waiting: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def open(self) -> tuple[str, int]:
        """Listen, and accept; the address. Raises ConfigError."""
        settings = self._settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        try:
            listener = socket.create_server((settings.host, settings.http.port), family=family, backlog=4096)
        except OSError as exc:
            address = f"{settings.host}:{settings.http.port}"
            hint = "choose another with --port, or 0 for any free one"
            raise ConfigError(f"can't listen on {address}: {exc.strerror or exc}", hint=hint) from exc
        listener.setblocking(False)
        self._listener = listener
        self._listen_again()
        host, port = listener.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Accept nothing more."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for accepted in self._waiting:
            self._refuse(accepted, "the server is ending")
        self._waiting.clear()

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
                loop.call_later(0.1, self._listen_again)
                return
            self._give(accepted)

    def give_waiting(self) -> None:
        """Give away what was accepted while there was no worker."""
        waiting, self._waiting = self._waiting, []
        for accepted in waiting:
            self._give(accepted)

    def _listen_again(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _give(self, accepted: socket.socket, slot: int | None = None) -> None:
        """Give a connection to the worker that has the fewest."""
        able = [worker for worker in self._workers if worker.ready]
        if not able and not self.serving:
            # While the server starts, those that load still tell of its health.
            able = [worker for worker in self._workers if worker.able]
        if not able:
            if slot is not None:
                self._free.append(slot)
            if len(self._waiting) < self._settings.limits.connections:
                self._waiting.append(accepted)
                if self.serving:
                    asyncio.get_running_loop().call_later(_WAITING, self._give_up, accepted)
            else:
                self._turn_away(accepted)
            return
        if slot is None:
            if not self._free:
                self._turn_away(accepted)
                return
            slot = self._free.pop()
            self.slots.open(slot, accepted)
        worker = min(able, key=lambda worker: worker.burden)
        worker.slots[slot] = accepted
        try:
            worker.channel.send({"slot": slot, "socket": True}, accepted)
        except OSError as exc:
            logger.error("a connection could not be given away: %s", exc.strerror)
            del worker.slots[slot]
            self._free.append(slot)
            self._turn_away(accepted)

    def _give_up(self, accepted: socket.socket) -> None:
        """Wait no longer for a worker to serve a connection."""
        if accepted in self._waiting:
            self._waiting.remove(accepted)
            self._refuse(accepted, "no worker process serves at the moment")

    def _turn_away(self, accepted: socket.socket) -> None:
        self._refuse(accepted, f"{self._settings.limits.connections} connections are open already")

    def _refuse(self, accepted: socket.socket, why: str) -> None:
        if self._settings.tls:
            # Nobody here can say anything that the client would understand.
            accepted.close()
        else:
            refuse(accepted, why)

    def ended(self, worker: Held, slots: list[int]) -> None:
        """Connections of a worker have ended."""
        for slot in slots:
            held = worker.slots.pop(slot, None)
            if held is not None:
                held.close()
                self._free.append(slot)

    def inherit(self, slot: int, held: socket.socket) -> None:
        """Look after a connection whose worker has died."""
        state = self.slots.state(slot, held)
        # What TLS agreed on died with the worker: nobody else can say anything.
        if state == IDLE and not self._settings.tls:
            self.slots.states[slot] = IDLE
            self._give(held, slot)
            return
        if state == ASKED and not self._settings.tls:
            refuse(held, "the worker process of this request died; ask again")
        else:
            held.close()
        self._free.append(slot)


def reserve(host: str, port: int, address: str) -> socket.socket:
    """A port that all workers can listen on for gRPC, side by side, as long as the socket is open.

    Args:
        host, port: as the settings have them.
        address: where HTTP is listened for.

    Raises:
        ConfigError: it is taken.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    reserved = socket.socket(family)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        # Alone first: another server's workers would share the port with ours, and their clients with them.
        socket.create_server((host, port), family=family).close()
        reserved.bind((host, port))
    except OSError as exc:
        hint = "choose another with --grpc-port, or 0 for any free one"
        raise ConfigError(f"can't listen on {host}:{port} for gRPC: {exc.strerror}", hint=hint) from exc
    return reserved
