"""How the supervisor has workers change together, told by workers that answer as a test says."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from deepseek_serving.reports import Report
from deepseek_serving.workers.held import Held
from deepseek_serving.workers.lookout import Lookout
from deepseek_serving.workers.together import Together


class Fake:
    """A worker that answers as it is told."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.held = Held(None)  # type: ignore[arg-type]
        self.held.channel = self  # type: ignore[assignment]
        self.held.ready = self.held.able = True
        self.asked: list[str] = []
        self.answered: Any = None
        self._answers = answers

    async def ask(self, message: dict[str, Any]) -> Any:
        self.asked.append(message["call"])
        if self._answers.get(message["call"]) == ["died"]:
            raise ConnectionError
        return self._answers.get(message["call"], {"served": {}, "failed": {}} if message["call"] == "models" else [])

    def answer(self, message: dict[str, Any], content: Any) -> None:
        self.answered = content


@pytest.mark.parametrize("wrong", [["InputError", "no model", ""], ["died"]])
def test_a_load_that_fails_in_one_worker_changes_none(wrong: list[str]) -> None:
    good, bad = Fake({}), Fake({"prepare": wrong})
    workers = [good.held, bad.held]
    together = Together(workers, Lookout(workers, 0))
    load = {"call": "load", "arguments": {"name": "same"}}
    asyncio.run(together.change(good.held, load))
    assert good.asked == bad.asked == ["prepare", "discard"]
    assert good.answered[0] == ("NotReadyError" if wrong == ["died"] else "InputError")


def test_counts_of_a_worker_that_is_leaving_are_not_left_out() -> None:
    asker, leaving, quiet = Fake({}), Fake({}), Fake({})
    leaving.held.able = False
    quiet.held.asked = 0.0
    for number, worker in enumerate((leaving, quiet)):
        worker.held.report = Report(started=0.0, ready=True, connections=number, resident_bytes=[], models=[])
    workers = [one.held for one in (asker, leaving, quiet)]
    asyncio.run(Together(workers, Lookout(workers, 0)).report(asker.held, {"call": "report"}))
    assert [report["connections"] for report in asker.answered] == [0, 1]
    assert leaving.asked == quiet.asked == []


def test_a_new_worker_does_what_the_others_did() -> None:
    old = Fake({"models": {"served": {"b": "as it is", "c": "as it was"}, "failed": {"d": "broken"}}})
    new = Fake({"models": {"served": {"b": "as it is", "c": "as it is", "d": "", "e": ""}, "failed": {"f": "broken"}}})
    new.held.ready = False
    workers = [old.held, new.held]
    together = Together(workers, Lookout(workers, 0))

    async def work() -> None:
        await together.change(old.held, {"call": "unload", "arguments": {"name": "a"}})
        assert await together.join(new.held)

    asyncio.run(work())
    # What others serve of older files, or could not load, is loaded by all; what nobody asked for by none.
    loads = ["prepare", "commit"] * 2
    assert (old.asked, new.asked) == (["unload", "models", *loads], ["unload", "models", *loads, "unload", "unload"])
    assert new.held.ready


def test_a_change_that_one_worker_cannot_make_is_taken_back() -> None:
    good, bad = Fake({}), Fake({"register": ["InputError", "no such memory", ""]})
    workers = [good.held, bad.held]
    given = {"tenant": "", "name": "a", "key": "/a", "offset": 0, "size": 1}
    asyncio.run(Together(workers, Lookout(workers, 0)).change(good.held, {"call": "register", "arguments": given}))
    assert (good.asked, bad.asked) == (["register", "unregister"], ["register"])
    assert good.answered[0] == "InputError"


def test_counts_of_a_worker_that_ends_meanwhile_are_told_once() -> None:
    asker, dying, slow = Fake({}), Fake({}), Fake({})
    workers = [one.held for one in (asker, dying, slow)]
    report = Report(started=0.0, ready=True, connections=0, resident_bytes=[], models=[], refusals={"http 404": 1})

    class Noticing(Lookout):
        def read(self, answer: Any) -> Report:
            counted.set()
            return super().read(answer)

    counted, lookout = asyncio.Event(), Noticing(workers, 0)

    async def ends(message: dict[str, Any]) -> Any:
        await counted.wait()
        workers.remove(dying.held)
        lookout.bury(dying.held)
        return msgspec.to_builtins(report)

    dying._answers["report"] = msgspec.to_builtins(report)
    slow.ask = ends  # type: ignore[method-assign]
    asyncio.run(Together(workers, lookout).report(asker.held, {"call": "report"}))
    assert sum(told["refusals"].get("http 404", 0) for told in asker.answered) == 2
