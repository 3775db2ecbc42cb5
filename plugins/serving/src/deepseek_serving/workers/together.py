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
_DIED = carried(NotReadyError("a worker process ended meanwhile", hint="ask again"))


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
            wrong = await self._load(arguments["name"]) if call == "load" else await self._tell(call, arguments)
            if not wrong:
                self._changes.note(call, arguments)
        asker.channel.answer(message, wrong)

    async def join(self, worker: Held) -> bool:
        """Let a new worker do what the others did before, and count it in; False: it is not fit to serve.

        Raises:
            ConnectionError: it has ended.
        """
        async with self._one:
            for call in self._changes.calls():
                answer = await worker.channel.ask(call)
                # One that is gone from the folder can't be unloaded, and need not.
                if answer and call["call"] != "unload":
                    logger.error("a new worker process can't %s as the others did: %s", call["call"], answer[1])
                    await self._undo(call)
            if not await self._agree(worker):
                return False
            worker.ready = True
            return True

    async def _agree(self, worker: Held) -> bool:
        """Let a new worker and the others serve the same: clients would get one answer here and another there."""
        others = await self._models()
        if others is None:
            return True
        own = await worker.channel.ask({"call": "models"})
        for name in sorted({*own["served"], *own["failed"], *others["served"]}):
            ours, theirs = own["served"].get(name), others["served"].get(name)
            failed = others["failed"].get(name, "")
            if ours == theirs and (ours or failed):
                continue
            # Its files have changed since the others read them, or were out of order then.
            wrong = await self._load(name, worker) if theirs or failed else []
            if theirs and wrong:
                logger.error("a new worker process can't serve `%s` as the others do, and ends: %s", name, wrong[1])
                return False
            if not theirs and (wrong or not failed):
                # It is no use to the others, or nobody has asked for it so far.
                await worker.channel.ask({"call": "unload", "arguments": {"name": name, "why": failed}})
        return True

    async def report(self, asker: Held, message: dict[str, Any]) -> None:
        """Bring a worker what all others counted, and what those did that are no more."""
        others = [worker for worker in self._workers if worker is not asker]
        told = await asyncio.gather(*map(self._count, others))
        # Without those that ended meanwhile, which are among those that are no more by now.
        there = [
            msgspec.to_builtins(report)
            for worker, report in zip(others, told, strict=True)
            if report is not None and worker in self._workers
        ]
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

    async def _models(self) -> dict[str, Any] | None:
        """What the workers serve; None: none does so far."""
        for worker in self._workers:
            if worker.ready and not worker.quiet:
                try:
                    models: dict[str, Any] = await worker.channel.ask({"call": "models"})
                    return models
                except ConnectionError:
                    continue
        return None

    async def _load(self, name: str, new: Held | None = None) -> list[str]:
        """Load a model everywhere, before it serves anywhere.

        Args:
            name: the model's.
            new: a worker that does not serve yet, and loads it, too.
        """
        wrong = await self._tell("prepare", {"name": name}, patience=None, new=new)
        if wrong:
            # Where a worker died nothing is wrong with the model.
            await self._tell("discard", {"why": wrong[1], "again": wrong == _DIED}, new=new)
        else:
            await self._tell("commit", {}, new=new)
        return wrong

    async def _tell(
        self, call: str, arguments: dict[str, Any], patience: float | None = _CHANGING, *, new: Held | None = None
    ) -> list[str]:
        """Have all workers that serve do something; what is wrong with it, as `carried` has it.

        Args:
            call, arguments: what.
            patience: seconds to wait for an answer; None: any number.
            new: a worker that does not serve yet, and does it, too.
        """
        asked = [worker for worker in self._workers if worker.ready or worker is new]
        if not asked:
            return carried(NotReadyError("no worker process serves yet", hint="ask again"))
        message = {"call": call, "arguments": arguments}
        answers = await asyncio.gather(
            *(asyncio.wait_for(worker.channel.ask(message), patience) for worker in asked), return_exceptions=True
        )
        wrong = next(filter(None, (_wrong(call, answer) for answer in answers)), [])
        if wrong:
            await self._undo(message, [worker for worker, answer in zip(asked, answers, strict=True) if answer == []])
        return wrong

    async def _undo(self, change: dict[str, Any], where: list[Held] | None = None) -> None:
        """Take a change back that not all workers can make, in those that made it: all, where nothing is said."""
        if change["call"] != "register":
            return
        given = change["arguments"]
        undone: dict[str, Any] = {
            "call": "unregister",
            "arguments": {"tenant": given["tenant"], "name": given["name"]},
        }
        if where is None:
            where = [worker for worker in self._workers if worker.ready]
            self._changes.note(**undone)
        await asyncio.gather(*(worker.channel.ask(undone) for worker in where), return_exceptions=True)


def _wrong(call: str, answer: Any) -> list[str]:
    """What an answer says is wrong."""
    if isinstance(answer, ConnectionError):
        # Whoever takes the place of one that ended makes other changes as it comes.
        return _DIED if call == "prepare" else []
    if isinstance(answer, BaseException):
        return carried(NotReadyError("a worker process did not answer in time", hint="ask again"))
    return list(answer)
