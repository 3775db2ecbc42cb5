"""Keeps an eye on workers: asks each for its counts, ends the silent, and keeps what the dead had counted."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec

from deepseek_serving.reports import Report, together
from deepseek_serving.workers.held import Held

logger = logging.getLogger("deepseek.serving")

#: How often workers are asked, in seconds.
_EVERY = 1.0


class Lookout:
    """Belongs to the supervisor's loop.

    Args:
        workers: those that there are.
        stall: seconds after which a worker that does not answer is ended; 0: never.
        loading: the same for one that loads its models, which may import what holds the interpreter for long.
    """

    def __init__(self, workers: list[Held], stall: float, loading: float = 0.0) -> None:
        self._workers, self._stall = workers, stall
        self._loading = max(stall, loading) if stall and loading else 0.0
        self._past: Report | None = None

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            now = time.monotonic()
            for worker in list(self._workers):
                if worker.asked is not None:
                    limit = self._stall if worker.ready else self._loading
                    if limit and now - worker.asked > limit:
                        logger.error("a worker process said nothing for %g s, and is ended", now - worker.asked)
                        worker.process.kill()
                elif worker.able:
                    worker.asked = now
                    worker.asking = asyncio.ensure_future(self._ask(worker))

    async def _ask(self, worker: Held) -> None:
        try:
            answer = await worker.channel.ask({"call": "report"})
        except ConnectionError:
            return
        worker.report = self.read(answer)
        worker.asked = None

    def read(self, answer: Any) -> Report:
        """A report as a message has it."""
        return msgspec.convert(answer, Report, str_keys=True)

    def bury(self, worker: Held) -> None:
        """A worker has ended: what it had counted when it was last asked is kept, for it has to be paid for."""
        report = worker.report
        if report is None:
            return
        report.ready, report.connections, report.resident_bytes = True, 0, []
        for model in report.models:
            model.state, model.memory_bytes, model.inflight, model.queued = "", 0, 0, 0
        self._past = report if self._past is None else together([self._past, report])

    @property
    def past(self) -> list[dict[str, Any]]:
        """What those counted that are no more, as a message has it."""
        return [] if self._past is None else [msgspec.to_builtins(self._past)]
