"""What the supervisor knows of a worker."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time

from deepseek_serving.reports import Report
from deepseek_serving.workers.channel import Channel

#: Seconds that a worker has to end whose channel is closed; and without an answer after which it gets no connection.
_LAST, _QUIET = 2.0, 2.5


class Held:
    """A worker process, and the connections that it serves.

    Attributes:
        able: whether it takes connections.
        ready: whether it serves: its models are loaded, and it takes part in changes.
        listens: whether it has begun to listen for gRPC, too.
        watches: whether it watches the folder, for all.
        asked: since when it owes an answer, in `time.monotonic()` seconds; None: it does not.
        report: what it said last.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.channel: Channel
        self.born = time.monotonic()
        self.able = self.ready = self.listens = self.watches = False
        self.slots: dict[int, socket.socket] = {}
        self.asked: float | None = None
        self.asking: asyncio.Future[None] | None = None
        self.report: Report | None = None

    @property
    def quiet(self) -> bool:
        """Whether it has owed an answer for too long to be asked again."""
        return self.asked is not None and time.monotonic() - self.asked > _QUIET

    @property
    def burden(self) -> tuple[bool, int]:
        """What is compared when a connection is given away: whether it is quiet, and how many it has."""
        return self.quiet, len(self.slots)

    def end(self) -> int:
        """Wait for the end of the process, which is near, or make it; its exit code. Not on the loop."""
        try:
            return self.process.wait(_LAST)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
