"""What workers do together: a change that one was asked for is made in all of them or in none, one after another."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from deepseek_serving.errors import NotReadyError, carried
from deepseek_serving.reports import Report
from deepseek_serving.workers.changes import Changes
from deepseek_serving.workers.held import Held
from deepseek_serving.workers.lookout import Lookout

logger = logging.getLogger("deepseek.serving")

#: Seconds that a worker has to say what it counted, and to make any change but a load.
_COUNTING, _CHANGING = 2.0, 120.0


class Together:
    """Belongs to the supervisor's loop.

    Args:
        workers: those that there are.
        lookout: keeps what was counted.
    """

    def __init__(self, workers: list[Held], lookout: Lookout) -> None:
        self._workers, self._lookout = workers, lookout
        self._changes = Changes()
        # In every worker changes come in the same order.
        self._one = asyncio.Lock()

    async def change(self, asker: Held, message: dict[str, Any]) -> None:
        """Make a change in all workers, and tell who asked what is wrong with it; nothing: it is made."""
        call, arguments = message["call"], message["arguments"]
        async with self._one:
            wrong = await self._load(arguments) if call == "load" else await self._tell(call, arguments)
            if not wrong:
                self._changes.note(call, arguments)
                for worker in self._workers:
                    if call == "load" and not worker.ready:
                        # It may have read the old files already.
                        worker.missed.append({"call": call, "arguments": arguments})
        asker.channel.answer(message, wrong)

    async def join(self, worker: Held, failed: list[str]) -> bool:
        """Let a new worker do what the others did before, and count it in; False: it is not fit to serve.

        Args:
            worker: whose models are loaded.
            failed: those that could not be.

        Raises:
            ConnectionError: it has ended.
        """
        async with self._one:
            wrong = sorted({*failed} & await self._serving()) if failed else []
            if wrong:
                # Clients would get one answer here and another there.
                logger.error("a new worker process can't load what others serve, and ends: %s", ", ".join(wrong))
                return False
            for call in (*self._changes.calls(), *worker.missed):
                answer = await worker.channel.ask(call)
                # One that is gone from the folder can't be unloaded, and need not.
                if answer and call["call"] != "unload":
                    logger.error("a new worker process can't %s as the others did: %s", call["call"], answer[1])
            worker.missed.clear()
            worker.ready = True
            return True

    async def report(self, asker: Held, message: dict[str, Any]) -> None:
        """Bring a worker what all others counted, and what those did that are no more."""
        others = [worker for worker in self._workers if worker is not asker]
        told = await asyncio.gather(*map(self._count, others))
        there = [msgspec.to_builtins(report) for report in told if report is not None]
        asker.channel.answer(message, there + self._lookout.past)

    async def _count(self, worker: Held) -> Report | None:
        """What a worker counted; at least what it said last, so that counts do not fall."""
        if worker.able and not worker.quiet:
            try:
                answer = await asyncio.wait_for(worker.channel.ask({"call": "report"}), _COUNTING)
                # Kept: should the worker die now, it is this that has been told.
                worker.report = self._lookout.read(answer)
            except TimeoutError:
                pass
            except ConnectionError:
                # It is among those that are no more.
                return None
        return worker.report if worker in self._workers else None

    async def _serving(self) -> set[str]:
        """Models that the other workers serve."""
        for worker in self._workers:
            if worker.ready:
                report = await self._count(worker)
                if report is not None:
                    return {model.name for model in report.models if model.state == "READY"}
        return set()

    async def _load(self, arguments: dict[str, Any]) -> list[str]:
        """Load a model everywhere, before it serves anywhere."""
        wrong = await self._tell("prepare", arguments, patience=None, all_of_them=True)
        if wrong:
            await self._tell("discard", {**arguments, "why": wrong[1]})
            return wrong
        await self._tell("commit", arguments)
        return []

    async def _tell(
        self, call: str, arguments: dict[str, Any], patience: float | None = _CHANGING, *, all_of_them: bool = False
    ) -> list[str]:
        """Have all workers that serve do something; what is wrong with it, as `carried` has it.

        Args:
            call, arguments: what.
            patience: seconds to wait for an answer; None: any number.
            all_of_them: whether a worker that ends meanwhile is a failure; else whoever takes its place does it.
        """
        serving = [worker for worker in self._workers if worker.ready]
        if not serving:
            return carried(NotReadyError("no worker process serves yet", hint="ask again"))
        asked = (
            asyncio.wait_for(worker.channel.ask({"call": call, "arguments": arguments}), patience) for worker in serving
        )
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, ConnectionError):
                if all_of_them:
                    return carried(NotReadyError("a worker process ended meanwhile", hint="ask again"))
            elif isinstance(answer, BaseException):
                return carried(NotReadyError("a worker process did not answer in time", hint="ask again"))
            elif answer:
                return list(answer)
        return []
