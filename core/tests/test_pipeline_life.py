"""Pipelines under way: whose rows are whose, streams, and the ways to close."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek
from deepseek.errors import ClosedError, ExecutionError
from deepseek.plugin import Batch, Engine, Options, Policy, Request, Share, Signature, hookimpl
from deepseek.testing import EchoExecutor, fakes

X = np.arange(8, dtype=np.float32).reshape(2, 4)


WITHOUT_CODECS = {"plugins": {"disable": ["codecs"]}}


def test_a_closed_pipeline_refuses() -> None:
    with deepseek.build({"model": fakes.model_file()}, plugins=[fakes]) as built:
        pass
    for ask in (built.run, built.submit):
        with pytest.raises(ClosedError):
            ask(x=X)


class Held(EchoExecutor):
    """Runs until it is let go; notes what happens in which order."""

    def __init__(self, signature: Signature, log: list[str]) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        super().__init__(signature, work=lambda inputs: (self.inside.set(), self.go.wait(10), log.append("ran")))
        self.log = log

    def close(self) -> None:
        self.log.append("closed")


def held(log: list[str]) -> tuple[deepseek.Pipeline, Held]:
    made: list[Held] = []

    class Plugin:
        @staticmethod
        @hookimpl(tryfirst=True)
        def execute() -> Engine:
            return Engine("held", frozenset({"fake"}), lambda m: made.append(Held(m.signature, log)) or made[0])

    config = {"model": fakes.model_file(), "engine": "held"}
    return deepseek.build(config, plugins=[fakes, Plugin]), made[0]  # type: ignore[list-item]


def test_the_executor_knows_whose_rows_they_are() -> None:
    seen: list[Any] = []

    class Noting(EchoExecutor):
        def run(self, inputs: Any, shares: Any) -> dict[str, Any]:
            seen.append(shares)
            return super().run(inputs, shares)

    class Plugin:
        @staticmethod
        @hookimpl(tryfirst=True)
        def execute() -> Engine:
            return Engine("noting", frozenset({"fake"}), lambda model: Noting(model.signature))

    tensors = {"scale": {"dtype": "float32", "shape": [1]}, "x": {"dtype": "float32", "shape": [-1, 2]}}
    config, acme = {"model": fakes.model_file(tensors), "engine": "noting"}, Options(tenant="acme")
    with deepseek.build(config, plugins=[fakes, Plugin]) as built:  # type: ignore[list-item]
        inputs = {"scale": np.ones(1, "float32"), "x": np.zeros((3, 2), "float32")}
        built.run(inputs, acme)
        built.submit(inputs, acme).result(10)
    assert seen == [(Share(acme, 3),), (Share(acme, 3),)]


def test_closing_from_many_threads_waits_for_what_runs() -> None:
    log: list[str] = []
    pipeline, executor = held(log)
    caller = threading.Thread(target=lambda: pipeline.run(x=X))
    caller.start()
    assert executor.inside.wait(10)
    closers = [threading.Thread(target=pipeline.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    # Three of the four find it closing and go on; the fourth waits for the call.
    while sum(closer.is_alive() for closer in closers) > 1:
        pass
    assert log == []
    executor.go.set()
    for thread in (caller, *closers):
        thread.join(10)
    assert log == ["ran", "closed"]


def test_an_observer_may_close() -> None:
    class Plugin:
        @staticmethod
        @hookimpl
        def observe() -> Any:
            return Plugin

        @staticmethod
        def batch(batch: Batch) -> None:
            built.close()

        @staticmethod
        def close() -> None: ...

    built = deepseek.build({"model": fakes.model_file()}, plugins=[fakes, Plugin])  # type: ignore[list-item]
    assert built.run(x=X)["x"].shape == X.shape
    with pytest.raises(ClosedError):
        built.run(x=X)


class Counting:
    """A scheduler of answers in several chunks: counts up to what it is asked for."""

    def __init__(self, executors: Any) -> None:
        self.given = 0

    def submit(self, request: Request) -> None:
        threading.Thread(target=self._answer, args=(request,)).start()

    def _answer(self, request: Request) -> None:
        wanted = int(request.share.options.parameters["count"])  # type: ignore[call-overload]
        if wanted < 0:
            request.sink.fail(ValueError("negative"))
        elif request.sink.start():
            for number in range(wanted):
                self.given += 1
                if not request.sink.put({"number": number}, last=number == wanted - 1):
                    return

    def run(self, inputs: Any, share: Any) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


@pytest.fixture
def counting() -> Iterator[deepseek.Pipeline]:
    class Plugin:
        @staticmethod
        @hookimpl
        def schedule() -> Policy:
            return Policy("counting", Counting)

    with deepseek.build({"model": fakes.model_file()}, plugins=[fakes, Plugin]) as built:  # type: ignore[list-item]
        yield built


def test_an_answer_in_several_chunks(counting: deepseek.Pipeline) -> None:
    assert [chunk["number"] for chunk in counting.stream({"x": X}, Options(parameters={"count": 3}))] == [0, 1, 2]
    assert counting.submit({"x": X}, Options(parameters={"count": 1})).result(10) == {"number": 0}
    with pytest.raises(ExecutionError, match=r"several chunks\n  fix: iterate over Pipeline.stream"):
        counting.submit({"x": X}, Options(parameters={"count": 2})).result(10)
    with pytest.raises(ValueError, match="negative"):
        list(counting.stream({"x": X}, Options(parameters={"count": -1})))


def test_leaving_a_stream_stops_the_model(counting: deepseek.Pipeline) -> None:
    stream = counting.stream({"x": X}, Options(parameters={"count": 10**9}))
    assert next(stream) == {"number": 0}
    stream.close()  # type: ignore[attr-defined]
    while threading.active_count() > 1 and any(t.name.endswith("(_answer)") for t in threading.enumerate()):
        pass
    assert not any(t.name.endswith("(_answer)") for t in threading.enumerate())


def test_a_pipeline_that_nobody_closes_leaves_nothing(tmp_path: Path) -> None:
    """The work that was submitted is answered before the program ends, and the folders of conversions go."""
    (tmp_path / "program.py").write_text("""
import atexit, sys, threading
import numpy, deepseek
from deepseek.plugin import Engine, Pass, Stage, hookimpl
from deepseek.testing import EchoExecutor, fakes

def keep(model, folder):
    (folder / "weights").write_text("w")
    return model

over = threading.Event()

@hookimpl
def optimize():
    return Pass("keep", Stage.REWRITE, frozenset({"fake"}), keep)

@hookimpl(tryfirst=True)
def execute():
    return Engine("slow", frozenset({"fake"}), lambda model: EchoExecutor(model.signature, work=lambda inputs: over.wait(60)))

tell = lambda future: print("answered", int(future.result()["x"][0, 0]))
pipeline = deepseek.build({"model": fakes.model_file(), "engine": "slow"}, plugins=[fakes, sys.modules["__main__"]])
for number in range(8):
    pipeline.submit(x=numpy.full((1, 4), number, "float32")).add_done_callback(tell)
# The first thing that happens at the end of the program: until then nothing is answered.
atexit.register(over.set)
""")
    folder = tmp_path / "scratch"
    folder.mkdir()
    env = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, tmp_path / "program.py"], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"answered {number}" for number in range(8)]
    assert list(folder.iterdir()) == []
