"""PyTorch through the pipeline: every format, dtypes and threads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deepseek
from deepseek.errors import (
    DeviceError,
    ExecutionError,
    InputError,
    MissingLibraryError,
    ModelError,
    PlanError,
)
from deepseek.testing.contract import PluginContract
from torch_models import (
    DECLARED,
    X,
    config,
    exported,
    legacy_state_dict,
    safetensors,
    state_dict,
    torchscript,
    wanted,
)


class TestContract(PluginContract):
    plugin = "torch"
    bad_settings: ClassVar = [
        ({"torch": {"dtype": "float7"}}, "torch.dtype"),
        ({"torch": {"factory": "nothing"}}, "torch.factory"),
        ({"torch": {"factory": "json:no_such"}}, "torch.factory"),
        ({"torch": {"factory": "json:dumps", "factory_args": {"obj": 1}}}, "torch.factory"),
    ]

    def configuration(self, folder: Path) -> dict[str, Any]:
        # 16 MB of weights, so that a pipeline that is kept shows in the resident memory.
        wide = "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(4, 500000), torch.nn.Linear(500000, 3))\n"
        (folder / "wide.py").write_text(wide)
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(4, 500_000), torch.nn.Linear(500_000, 3))
        save_file(module.state_dict(), folder / "wide.safetensors")
        return {
            "model": {"source": f"{folder}/wide.safetensors", **DECLARED},
            "torch": {"factory": f"{folder}/wide.py:build"},
        }


@pytest.mark.parametrize("write", [torchscript, exported, state_dict, legacy_state_dict, safetensors])
def test_every_format_gives_the_modules_own_answer(tmp_path: Path, write: Callable[[Path], str]) -> None:
    with deepseek.build(config(tmp_path, write)) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=X)["y"], wanted(), rtol=1e-5)
        assert str(pipeline.signature.outputs[0]) == "y: float32[*, 3]"
        assert pipeline.signature.batched


def test_an_archive_tells_its_own_signature(tmp_path: Path) -> None:
    with deepseek.build({"model": exported(tmp_path)}) as pipeline:
        assert repr(pipeline) == "<Pipeline torch on cpu: (input: float32[*, 4]) -> (output: float32[*, 3])>"


@pytest.mark.parametrize(
    "array",
    [
        X.copy(),
        np.ascontiguousarray(X[::-1])[::-1],
        X[::-1].copy()[::-1].view(np.memmap),
        np.lib.stride_tricks.as_strided(X, writeable=False),
        torch.from_numpy(X.copy()),
        torch.from_numpy(X.copy()).requires_grad_(),
    ],
    ids=["plain", "backwards", "a subclass backwards", "read-only", "torch", "with gradients"],
)
def test_any_array_is_taken(tmp_path: Path, array: Any) -> None:
    with deepseek.build(config(tmp_path, safetensors)) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=array)["y"], wanted(), rtol=1e-5)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (torch.from_numpy(X.copy()).to_sparse(), "the input `x` is sparse\n  fix: pass it dense"),
        (X.astype(">f4"), r"the input `x` is >f4\[3, 4\]; the model takes x: float32"),
    ],
    ids=["sparse", "byte order"],
)
def test_arrays_that_can_not_be_taken(tmp_path: Path, array: Any, says: str) -> None:
    with deepseek.build(config(tmp_path, safetensors)) as pipeline:
        with pytest.raises(InputError, match=says):
            pipeline.run(x=array)
        assert pipeline.run(x=X)["y"].shape == (3, 3)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-2), ("bfloat16", 5e-2)])
def test_half_precision_keeps_the_signature(tmp_path: Path, dtype: str, tolerance: float) -> None:
    with deepseek.build(config(tmp_path, safetensors, torch={"dtype": dtype})) as pipeline:
        answer = pipeline.run(x=X)["y"]
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, wanted(), atol=tolerance)
        assert np.abs(answer - wanted()).max() > 0


def test_channels_last_changes_nothing_but_memory(tmp_path: Path) -> None:
    code = "import torch\ndef build():\n    torch.manual_seed(0)\n    return torch.nn.Conv2d(3, 8, 3)\n"
    (tmp_path / "conv.py").write_text(code)
    torch.manual_seed(0)
    save_file(torch.nn.Conv2d(3, 8, 3).state_dict(), tmp_path / "conv.safetensors")
    image = np.random.default_rng(0).standard_normal((2, 3, 9, 9)).astype("float32")
    answers = []
    for channels_last in (False, True):
        settings = {"factory": f"{tmp_path}/conv.py:build", "channels_last": channels_last}
        with deepseek.build({"model": f"{tmp_path}/conv.safetensors", "torch": settings}) as pipeline:
            answers.append(pipeline.run({"input": image})["output"])
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)


COUNTING = """
import torch

class Threads(torch.nn.Module):
    def forward(self, x):
        return x * 0 + torch.get_num_threads()

def build():
    return Threads()
"""


def counting(folder: Path, threads: int) -> dict[str, Any]:
    """A model that answers with the number of threads that it runs with."""
    (folder / "counting.py").write_text(COUNTING)
    save_file({}, folder / "nothing.safetensors")
    model = {"source": f"{folder}/nothing.safetensors", "inputs": {"x": {"shape": [-1]}}, "outputs": ["y"]}
    return {"model": model, "torch": {"factory": f"{folder}/counting.py:build", "threads": threads}}


def test_threads_are_those_of_the_pipeline_while_it_runs_and_the_callers_after(tmp_path: Path) -> None:
    x, before, seen = np.zeros(1, "float32"), torch.get_num_threads(), []
    one, three = deepseek.build(counting(tmp_path, 1)), deepseek.build(counting(tmp_path, 3))
    with one, three:
        for pipeline in (one, three, one):
            seen.append((int(pipeline.run(x=x)["y"][0]), torch.get_num_threads()))
            seen.append((int(pipeline.submit(x=x).result(60)["y"][0]), torch.get_num_threads()))
    assert seen == [(1, before), (1, before), (3, before), (3, before), (1, before), (1, before)]


def test_a_state_dict_without_its_code(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="it holds weights without code; name the callable .* under `torch.factory`"):
        deepseek.build({"model": safetensors(tmp_path)})


def test_weights_that_do_not_fit_the_code(tmp_path: Path) -> None:
    settings = {"factory_args": {"width": 5}}
    with pytest.raises(ModelError, match=r"the weights do not fit the module: .*size mismatch for 2.weight"):
        deepseek.build(config(tmp_path, safetensors, torch=settings))


def test_a_layout_that_the_weights_can_not_have(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\ndef build():\n    return torch.nn.Conv3d(1, 1, 1)\n")
    save_file(torch.nn.Conv3d(1, 1, 1).state_dict(), tmp_path / "net.safetensors")
    settings = {"factory": f"{tmp_path}/net.py:build", "channels_last": True}
    with pytest.raises(ModelError, match=r"have no such layout: .*\n  fix: leave `torch.channels_last` out"):
        deepseek.build({"model": f"{tmp_path}/net.safetensors", "torch": settings})


def test_a_factory_file_is_a_module_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport torch\n"
        "from neighbour import WIDTH\n@dataclass\nclass Shape:\n    width: int = WIDTH\n"
        "def build():\n    return torch.nn.Linear(4, Shape().width)\n"
    )
    (tmp_path / "net.py").write_text(code)
    save_file(torch.nn.Linear(4, 3).state_dict(), tmp_path / "net.safetensors")
    before = list(sys.path)
    given = {"model": f"{tmp_path}/net.safetensors", "torch": {"factory": f"{tmp_path}/net.py:build"}}
    with deepseek.build(given) as pipeline:
        assert pipeline.run({"input": X})["output"].shape == (3, 3)
    assert sys.path == before
    del sys.modules["neighbour"]


def test_without_the_reader_of_its_weights_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(tmp_path, safetensors)
    monkeypatch.setattr("deepseek.plugin.find_spec", lambda name: None if name == "safetensors" else find_spec(name))
    with pytest.raises(MissingLibraryError, match=r"`safetensors` is not installed: pip install 'deepseek-torch\["):
        deepseek.build(given)


def test_cuda_without_a_card(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    with pytest.raises(DeviceError, match=r"no device `cuda:0` on this machine\n  fix: found: cpu"):
        deepseek.build(config(tmp_path, safetensors, device="cuda:0"))


def test_an_operator_that_fails_is_an_execution_error(tmp_path: Path) -> None:
    given = config(tmp_path, torchscript)
    given["model"] = {"source": given["model"]["source"]}
    with deepseek.build(given) as pipeline:
        with pytest.raises(ExecutionError, match="PyTorch failed: .*mat1 and mat2"):
            pipeline.run({"input": X[:, :2]})
        assert pipeline.run({"input": X})["output"].shape == (3, 3)


def test_explain_does_not_import_torch(tmp_path: Path) -> None:
    import subprocess

    given = json.dumps(config(tmp_path, safetensors))
    code = f"import sys, json, deepseek; deepseek.explain(json.loads({given!r})); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_its_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config(tmp_path, safetensors)
    monkeypatch.setattr("deepseek.plugin.find_spec", lambda name: None if name == "torch" else find_spec(name))
    with pytest.raises(
        MissingLibraryError, match=r"its library `torch` is not installed: pip install 'deepseek-torch\[cpu\]'"
    ):
        deepseek.build({**given, "engine": "torch"})
