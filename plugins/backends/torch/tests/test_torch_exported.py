"""Exported programs: how they take their tensors, and what they give back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import deepseek
from deepseek.errors import ModelError

ONES = np.ones((2, 4), "float32")


def export(folder: Path, module: torch.nn.Module, *arguments: Any, **keywords: Any) -> str:
    torch.export.save(torch.export.export(module.eval(), arguments, keywords), folder / "m.pt2")
    return str(folder / "m.pt2")


class ByKeyword(torch.nn.Module):
    def forward(self, x: Any, a: Any = None, b: Any = None) -> Any:
        return x + 10 * a + 100 * b


class Nested(torch.nn.Module):
    def forward(self, pair: Any, more: Any) -> Any:
        return {"sum": pair[0] + 10 * more["b"], "last": pair[1] + 100 * more["a"]}


@pytest.mark.parametrize("engine", ["torch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_keywords_come_in_the_order_in_which_they_were_exported(tmp_path: Path, engine: str) -> None:
    # One tensor given twice would be exported as one input.
    x, a, b = (torch.full((2, 4), float(number)) for number in range(3))
    path = export(tmp_path, ByKeyword(), x, b=b, a=a)
    with deepseek.build({"model": path, "engine": engine}) as pipeline:
        assert [spec.name for spec in pipeline.signature.inputs] == ["x", "b", "a"]
        assert (pipeline.run(x=ONES, a=2 * ONES, b=3 * ONES)["output"] == 321).all()


def test_lists_and_mappings_of_tensors(tmp_path: Path) -> None:
    first, last, a, b = (torch.full((2, 4), float(number)) for number in range(4))
    path = export(tmp_path, Nested(), [first, last], {"a": a, "b": b})
    with deepseek.build({"model": path}) as pipeline:
        names = [spec.name for spec in pipeline.signature.inputs]
        answer = pipeline.run({name: (number + 1) * ONES for number, name in enumerate(names)})
    assert {name: value[0, 0] for name, value in answer.items()} == {"sum": 41, "last": 302}
    assert [spec.name for spec in pipeline.signature.outputs] == ["sum", "last"]


def test_bfloat16_comes_in_as_it_is_and_goes_out_as_float32(tmp_path: Path) -> None:
    path = export(tmp_path, torch.nn.Identity(), torch.ones((2, 4), dtype=torch.bfloat16))
    with deepseek.build({"model": path}) as pipeline:
        assert pipeline.signature.inputs[0].dtype == "bfloat16"
        answer = pipeline.run({pipeline.signature.inputs[0].name: ONES.astype(ml_dtypes.bfloat16)})["output"]
    assert answer.dtype == np.dtype(pipeline.signature.outputs[0].dtype) == np.float32
    assert (answer == ONES).all()


class Counts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = torch.nn.Buffer(torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return x + self.calls


@pytest.mark.slow
def test_a_program_that_counts_its_calls_is_not_converted_into_one_that_does_not(tmp_path: Path) -> None:
    path = export(tmp_path, Counts(), torch.from_numpy(ONES))
    with deepseek.build({"model": path}) as pipeline:
        assert [pipeline.run(x=ONES)["output"][0, 0] for _ in range(3)] == [2, 3, 4]
    with pytest.raises(ModelError, match="the converted model is off by"):
        deepseek.build({"model": path, "engine": "onnxruntime"})


class InPlace(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.sub_(0.5).div_(0.25)


class InPlaceAtTimes(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.cond(x.sum() > 0, lambda x: x.clone().add_(1), lambda x: x * 1, (x,))


@pytest.mark.parametrize("module", [InPlace, InPlaceAtTimes, lambda: torch.nn.ReLU(inplace=True)])
def test_programs_leave_the_callers_arrays_alone(tmp_path: Path, module: Any) -> None:
    with deepseek.build({"model": export(tmp_path, module(), torch.from_numpy(ONES.copy()))}) as pipeline:
        x = np.array([[-1, 1, 2, 3]] * 2, "float32")
        kept, [name] = x.copy(), [spec.name for spec in pipeline.signature.inputs]
        answers = [pipeline.run({name: x})["output"] for _ in range(3)]
    assert (x == kept).all()
    assert (answers[0] == answers[1]).all()
    assert (answers[0] == answers[2]).all()


@pytest.mark.slow
def test_a_program_that_works_in_place_is_converted(tmp_path: Path) -> None:
    path = export(tmp_path, InPlace(), torch.from_numpy(ONES.copy()))
    with deepseek.build({"model": path, "engine": "onnxruntime"}) as pipeline:
        assert (pipeline.run(x=ONES)["output"] == 2).all()
