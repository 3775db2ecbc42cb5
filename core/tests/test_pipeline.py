"""What a pipeline takes and refuses, by every way of asking."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek
from deepseek.checks import dtype_name, input_check, stated_signature
from deepseek.errors import ClosedError, ConfigError, DeadlineError, ExecutionError, InputError, PlanError
from deepseek.plugin import Batch, Engine, Options, Policy, Request, Share, Signature, TensorSpec, hookimpl
from deepseek.testing import EchoExecutor, fakes

X = np.arange(8, dtype=np.float32).reshape(2, 4)
WITHOUT_CODECS = {"plugins": {"disable": ["codecs"]}}


@pytest.fixture
def pipeline() -> Iterator[deepseek.Pipeline]:
    with deepseek.build({"model": fakes.model_file(), **WITHOUT_CODECS}, plugins=[fakes]) as built:
        yield built


def test_every_way_of_asking_gives_the_same_answer(pipeline: deepseek.Pipeline) -> None:
    async def ask() -> dict[str, Any]:
        return await pipeline.arun(x=X)

    answers = [pipeline.run(x=X), pipeline.run({"x": X}), pipeline.submit(x=X).result(10), asyncio.run(ask())]
    assert all((answer["x"] == X).all() for answer in answers)


def test_many_tasks_at_once(pipeline: deepseek.Pipeline) -> None:
    async def ask() -> list[dict[str, Any]]:
        return await asyncio.gather(*(pipeline.arun(x=X + number) for number in range(50)))

    assert [int(answer["x"][0, 0]) for answer in asyncio.run(ask())] == list(range(50))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"y": X}, "the model has no input `y`\n  fix: its inputs are: x: float32[*, 4]"),
        ({}, "the input `x` is missing"),
        ({"x": X, "y": X}, "the model has no input `y`"),
        ({"x": X.astype("float64")}, "the input `x` is float64[2, 4]; the model takes x: float32[*, 4]"),
        ({"x": X[:, :3]}, "the input `x` is float32[2, 3]"),
        ({"x": X[0]}, "the input `x` is float32[4]"),
        ({"x": [[1.0, 2.0, 3.0, 4.0]]}, "the input `x` is a list, not a dense array"),
        ({"x": "cat.jpg"}, "use predict()"),
        ({"x": None}, "NoneType"),
    ],
)
def test_what_does_not_fit_is_refused(pipeline: deepseek.Pipeline, tensors: dict[str, Any], says: str) -> None:
    for ask in (pipeline.run, pipeline.submit):
        with pytest.raises(InputError) as caught:
            ask(tensors)  # type: ignore[operator]
        assert says in str(caught.value)


def test_inputs_come_one_way(pipeline: deepseek.Pipeline) -> None:
    with pytest.raises(InputError, match="one mapping or as keywords, not both"):
        pipeline.run({"x": X}, x=X)
    for wrong in (X, [X], 5):
        with pytest.raises(InputError, match=r"inputs are named tensors, not a .*\n  fix: write run\(name=array\)"):
            pipeline.run(wrong)  # type: ignore[arg-type]


def test_batches_must_agree() -> None:
    specs = (TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "int64", (-1,)))
    check = input_check(Signature(specs, (TensorSpec("c", "float32", (-1,)),)))
    check({"a": np.zeros((3, 2), "float32"), "b": np.zeros(3, "int64")})
    with pytest.raises(InputError, match="differ in batch size: a has 3, b has 2"):
        check({"a": np.zeros((3, 2), "float32"), "b": np.zeros(2, "int64")})


def test_inputs_without_a_batch_dimension_need_not_agree() -> None:
    specs = (TensorSpec("x", "float32", (-1, 2)), TensorSpec("scale", "float32"), TensorSpec("table", "float32", (5,)))
    check = input_check(Signature(specs, (TensorSpec("y", "float32", (-1,)),)))
    for scale in (np.ones(1, "float32"), np.float32(1)[()].reshape(())):
        check({"x": np.zeros((3, 2), "float32"), "scale": scale, "table": np.zeros(5, "float32")})


def test_optional_and_unknown_inputs() -> None:
    check = input_check(Signature((TensorSpec("ids", "int64", (-1, -1)), TensorSpec("mask", optional=True))))
    check({"ids": np.zeros((1, 5), "int64")})
    check({"ids": np.zeros((1, 5), "int64"), "mask": np.zeros((1, 5), "int64")})
    with pytest.raises(InputError, match="`ids` is missing"):
        check({"mask": np.zeros((1, 5), "int64")})


@pytest.mark.parametrize(
    ("dtype", "name"), [("float32", "float32"), ("bool", "bool"), ("U3", "str"), ("O", "str"), ("S2", "str")]
)
def test_names_of_dtypes(dtype: str, name: str) -> None:
    assert dtype_name(np.dtype(dtype)) == name


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


def test_options_reach_the_scheduler(pipeline: deepseek.Pipeline) -> None:
    with pytest.raises(DeadlineError):
        pipeline.run({"x": X}, Options(deadline=time.monotonic() - 1))


def test_predict_needs_a_codec(pipeline: deepseek.Pipeline) -> None:
    with pytest.raises(PlanError, match="no codec\n  fix: let deepseek-codecs take part"):
        pipeline.predict("cat.jpg")


def test_repr_says_what_it_is(pipeline: deepseek.Pipeline) -> None:
    assert repr(pipeline) == "<Pipeline fake on cpu: (x: float32[*, 4]) -> (x: float32[*, 4])>"


def test_what_a_model_states_and_a_pipeline_declares() -> None:
    x, y, z = TensorSpec("x", "float32", (-1, 4)), TensorSpec("y", "float32"), TensorSpec("z", "int64")
    own = Signature((x,), (y, z))
    assert stated_signature(own, Signature()) == own
    assert stated_signature(own, Signature((TensorSpec("x", "float32", (2, -1)),))) == own
    assert stated_signature(own, Signature(outputs=(TensorSpec("z"), TensorSpec("y")))).outputs == (z, y)
    for declared, says in (
        (Signature((TensorSpec("a"),)), "`model.inputs` names `a`, which the model does not have"),
        (Signature(outputs=(TensorSpec("a"),)), r"`model.outputs` names `a`.*\n  fix: it has: y: float32\[\?\], z"),
        (Signature((TensorSpec("x", "int64", (-1, 4)),)), r"declares x: int64\[\*, 4\], the model takes x: float32"),
        (Signature((TensorSpec("x", "float32", (-1, 5)),)), "leave it out: the model states its inputs itself"),
        (Signature((TensorSpec("x", "float32", (-1,)),)), "declares"),
    ):
        with pytest.raises(ConfigError, match=says):
            stated_signature(own, declared)


@pytest.mark.parametrize(
    "fields",
    [{"deadline": "a"}, {"priority": "high"}, {"tenant": 5}, {"parameters": 5}],
    ids=lambda fields: next(iter(fields)),
)
def test_options_of_the_wrong_type(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Options(**fields)


def test_what_is_no_options_is_refused_by_every_way_of_asking(pipeline: deepseek.Pipeline) -> None:
    for ask in (pipeline.run, pipeline.submit, pipeline.stream):
        with pytest.raises(InputError, match=r"options are Options\(...\), not a int"):
            ask({"x": X}, 5)  # type: ignore[operator]


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
