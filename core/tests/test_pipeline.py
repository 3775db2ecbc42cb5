"""What a pipeline takes and refuses, by every way of asking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import deepseek
from deepseek.checks import dtype_name, input_check, stated_signature
from deepseek.errors import ConfigError, DeadlineError, InputError, PlanError
from deepseek.plugin import Options, Signature, TensorSpec
from deepseek.testing import fakes

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
