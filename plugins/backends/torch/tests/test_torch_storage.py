"""What goes into a module and comes out of it, and whose memory that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek
from deepseek.errors import ModelError
from torch_models import built, scripted

INPLACE = (
    "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 3))\n"
)


@pytest.mark.parametrize("declared", [{}, {"inputs": {"input": {"shape": [-1, 4]}}}])
@pytest.mark.parametrize("layer", ["ReLU(inplace=True)", "Hardtanh(-9, 1, inplace=True)"])
def test_a_module_that_works_in_place_leaves_the_callers_array_alone(
    tmp_path: Path, declared: dict[str, Any], layer: str
) -> None:
    with built(tmp_path, INPLACE.replace("ReLU(inplace=True)", layer), **declared) as pipeline:
        mine = np.array([[-1, 5, -1, 5]], "float32")
        first = pipeline.run({"input": mine})["output"]
        assert mine.tolist() == [[-1, 5, -1, 5]]
        assert (pipeline.run({"input": mine})["output"] == first).all()


HOLDING = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = torch.ones(3)
        self.listed = [torch.ones(3)]

    def forward(self, x):
        y = x * self.plain.sum() * self.listed[0].sum()
        return self.plain, self.listed[0], y, y, y.t(), y.expand(2, 3, 3)

def build():
    return Net()
"""


@pytest.mark.parametrize("script", [False, True])
def test_every_output_is_the_callers_own(tmp_path: Path, script: bool) -> None:
    x = np.ones((3, 3), "float32")
    pipeline = deepseek.build({"model": scripted(tmp_path, HOLDING)}) if script else built(tmp_path, HOLDING)
    with pipeline:
        wanted = {name: value.copy() for name, value in pipeline.run(x=x).items()}
        answer = pipeline.run(x=x)
        for number, value in enumerate(answer.values()):
            value[...] = number
        assert [value.max() for value in answer.values()] == list(range(6))
        assert all(value.min() == value.max() for value in answer.values())
        again = pipeline.run(x=x)
        assert all((again[name] == wanted[name]).all() for name in wanted)


def test_memory_that_may_not_be_written_to_is_not(tmp_path: Path) -> None:
    clamps = "import torch\ndef build():\n    return torch.nn.Hardtanh(-1, 1, inplace=True)\n"
    np.save(tmp_path / "x.npy", np.full((2, 4), 5, "float32"))
    with built(tmp_path, clamps, inputs={"input": {"shape": [-1, 4]}}) as pipeline:
        raw = np.full(4, 5, "float32").tobytes()
        for array in (np.load(tmp_path / "x.npy", mmap_mode="r"), np.frombuffer(raw, "float32").reshape(1, 4)):
            assert pipeline.run({"input": array})["output"].max() == 1
            assert array.min() == 5


def test_lazy_conjugates_and_stored_half_precision(tmp_path: Path) -> None:
    code = (
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        return torch.complex(x, x).conj(), torch.complex(x, x).conj().imag, x.half()\n"
        "def build():\n    return Net()\n"
    )
    with built(tmp_path, code) as pipeline:
        conjugate, negative, half = pipeline.run(x=np.ones(2, "float32")).values()
        assert (conjugate == 1 - 1j).all()
        assert (negative == -1).all()
        assert half.dtype == np.float16


LSTM = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.LSTM(4, 3, batch_first=True)
        self.constant = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.rnn(x), self.constant

def build():
    return Net()
"""


def test_nested_outputs_all_come_out_and_are_the_callers_own(tmp_path: Path) -> None:
    with built(tmp_path, LSTM, inputs={"x": {"shape": [-1, -1, 4]}}) as pipeline:
        x = np.ones((2, 5, 4), "float32")
        answer = pipeline.run(x=x)
        assert {name: value.shape for name, value in answer.items()} == {
            "output_0": (2, 5, 3), "output_1": (1, 2, 3), "output_2": (1, 2, 3), "output_3": (3,),
        }  # fmt: skip
        answer["output_3"][...] = 99
        assert pipeline.run(x=x)["output_3"].tolist() == [1, 1, 1]


def test_too_few_names_for_the_outputs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"`model.outputs` names 2 outputs \(a, b\)\n  fix: it gives 4"):
        built(tmp_path, LSTM, inputs={"x": {"shape": [-1, -1, 4]}}, outputs=["a", "b"])


MASKED = """
import torch

class Net(torch.nn.Module):
    def forward(self, x, mask: torch.Tensor | None = None, scale: torch.Tensor | None = None):
        y = x if mask is None else x * mask
        return y if scale is None else y * scale

def build():
    return Net()
"""


@pytest.mark.parametrize("declared", [{}, {"inputs": {"x": {"shape": [-1]}, "scale": {"shape": [-1]}}}])
def test_arguments_with_a_default_may_be_left_out(tmp_path: Path, declared: dict[str, Any]) -> None:
    x, two = np.ones(3, "float32"), np.full(3, 2, "float32")
    with built(tmp_path, MASKED, **declared) as pipeline:
        # By name: `scale` is the third argument, not the second.
        assert pipeline.run(x=x, scale=two)["output"].tolist() == [2, 2, 2]
        if not declared:
            assert pipeline.run(x=x)["output"].tolist() == [1, 1, 1]
            assert pipeline.run(x=x, mask=0 * x, scale=two)["output"].tolist() == [0, 0, 0]


def test_a_script_s_arguments_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    with deepseek.build({"model": scripted(tmp_path, MASKED)}) as pipeline:
        x = np.ones(3, "float32")
        assert pipeline.run(x=x, scale=2 * x)["output"].tolist() == [2, 2, 2]
        assert pipeline.run(x=x)["output"].tolist() == [1, 1, 1]


AT_TIMES = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return x.mul_(2) if bool(x.sum() > 0) else x * 2

def build():
    return Net()
"""


@pytest.mark.parametrize("script", [False, True])
def test_a_module_that_works_in_place_at_times(tmp_path: Path, script: bool) -> None:
    given = {"inputs": {"x": {"shape": [-1, 4]}}}
    pipeline = (
        deepseek.build({"model": {"source": scripted(tmp_path, AT_TIMES), **given}})
        if script
        else built(tmp_path, AT_TIMES, **given)
    )
    with pipeline:
        mine = np.ones((2, 4), "float32")
        assert pipeline.run(x=mine)["output"].max() == 2
        assert mine.max() == 1


COUNTER = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("replaced", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.replaced = self.replaced + 1
        return x + self.calls + self.replaced

def build():
    return Net()
"""


@pytest.mark.parametrize("script", [False, True])
def test_finding_the_outputs_leaves_no_trace_in_the_module(tmp_path: Path, script: bool) -> None:
    given = {"inputs": {"x": {"shape": [-1, 4]}}}
    pipeline = (
        deepseek.build({"model": {"source": scripted(tmp_path, COUNTER), **given}})
        if script
        else built(tmp_path, COUNTER, **given)
    )
    with pipeline:
        assert str(pipeline.signature.outputs[0]) == "output: float32[*, 4]"
        assert [pipeline.run(x=np.zeros((1, 4), "float32"))["output"][0, 0] for _ in range(2)] == [2, 4]


def test_tensors_within_a_mapping_have_its_key_and_a_number(tmp_path: Path) -> None:
    code = (
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        return {'p': x, 'q': [x + 1, {'r': x + 2}], 'note': 'text'}\n"
        "def build():\n    return Net()\n"
    )
    with built(tmp_path, code) as pipeline:
        answer = pipeline.run(x=np.zeros(1, "float32"))
    assert {name: value.tolist() for name, value in answer.items()} == {"p": [0], "q_0": [1], "q_1": [2]}
