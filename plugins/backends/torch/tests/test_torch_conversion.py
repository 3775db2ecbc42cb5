"""From torch to ONNX, for pipelines with another engine."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

import deepseek
from deepseek.errors import ConfigError, MissingLibraryError, ModelError
from torch_models import (
    X,
    built,
    config,
    exported,
    safetensors,
    torchscript,
    wanted,
)


@pytest.mark.slow
@pytest.mark.parametrize("write", [exported, safetensors])
def test_another_engine_gets_the_model_as_onnx(tmp_path: Path, write: Callable[[Path], str]) -> None:
    with deepseek.build(config(tmp_path, write, engine="onnxruntime")) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=X)["y"], wanted(), rtol=1e-4)
        assert "largest error on random input" in pipeline.steps[2].note


@pytest.mark.slow
def test_a_conversion_is_held_against_the_model_as_stored(tmp_path: Path) -> None:
    given = config(tmp_path, safetensors, engine="onnxruntime")
    given["torch"] = {**given["torch"], "dtype": "bfloat16"}
    with deepseek.build(given) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=X)["y"], wanted(), rtol=1e-4)
        [error] = re.findall(r"largest error on random input (\S+)", pipeline.steps[2].note)
    assert float(error) < 1e-5


@pytest.mark.slow
def test_two_conversions_at_once(tmp_path: Path) -> None:
    given = config(tmp_path, safetensors, engine="onnxruntime")
    with ThreadPoolExecutor(3) as pool:
        for pipeline in pool.map(deepseek.build, [given] * 3):
            with pipeline:
                np.testing.assert_allclose(pipeline.run(x=X)["y"], wanted(), rtol=1e-4)


@pytest.mark.slow
def test_a_model_with_a_number_among_its_inputs(tmp_path: Path) -> None:
    code = (
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x, n):\n        return x * n\n"
        "def build():\n    return Net()\n"
    )
    (tmp_path / "net.py").write_text(code)
    save_file({}, tmp_path / "net.safetensors")
    inputs = {"x": {"shape": [-1, 4]}, "n": {"dtype": "int64", "shape": []}}
    model = {"source": f"{tmp_path}/net.safetensors", "inputs": inputs, "outputs": ["y"]}
    given = {"model": model, "engine": "onnxruntime", "torch": {"factory": f"{tmp_path}/net.py:build"}}
    with deepseek.build(given) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=X, n=np.array(3))["y"], 3 * X)


def test_a_converter_that_is_not_installed_shows_in_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.plugin.find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(MissingLibraryError, match=r"torch: its library `onnxscript` is not installed: pip install"):
        deepseek.explain(config(tmp_path, safetensors, engine="onnxruntime"))


def test_a_conversion_needs_shapes(tmp_path: Path) -> None:
    given = config(tmp_path, safetensors, engine="onnxruntime")
    given["model"] = {"source": given["model"]["source"]}
    with pytest.raises(
        ConfigError, match=r"`model.inputs` must declare the shape of `input`.*to ONNX\n  fix: model: \{inputs"
    ):
        deepseek.build(given)


def test_scripted_modules_can_not_be_converted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="PyTorch can't export this model to ONNX"):
        deepseek.build(config(tmp_path, torchscript, engine="onnxruntime"))


@pytest.mark.slow
def test_a_conversion_says_nothing_and_leaves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    branching = (
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x if x.sum() > 0 else x - 1\ndef build():\n    return Net()\n"
    )
    threads = set(threading.enumerate())
    deepseek.build(config(tmp_path, safetensors, engine="onnxruntime")).close()
    with pytest.raises(ModelError, match="Could not guard on data-dependent expression") as caught:
        built(tmp_path, branching, engine="onnxruntime", inputs={"x": {"shape": [-1, 4]}})
    assert "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert set(threading.enumerate()) <= threads


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["x.shape[0] != 1", "x.shape[0] < 4"])
def test_a_branch_that_the_conversion_lost(tmp_path: Path, branch: str) -> None:
    code = (
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        f"        return x * 2 if {branch} else x * 0\ndef build():\n    return Net()\n"
    )
    with pytest.raises(ModelError, match="the converted model is off by .* with a batch of 1"):
        built(tmp_path, code, engine="onnxruntime", inputs={"x": {"shape": [-1, 4]}})
