"""PyTorch on a CUDA card. Skipped where there is none; the figures of a run are in benchmarks/results/h100-torch.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deepseek
from deepseek.errors import OutOfMemoryError
from deepseek.testing.contract import PluginContract

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA card", allow_module_level=True)

CODE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(4, 64), torch.nn.Linear(64, 3)

    def forward(self, x):
        return self.outer(torch.relu(self.inner(x)))

def build():
    torch.manual_seed(0)
    return Net()
"""


def config(folder: Path, **settings: Any) -> dict[str, Any]:
    (folder / "net.py").write_text(CODE)
    scope: dict[str, Any] = {}
    exec(CODE, scope)
    save_file(scope["build"]().state_dict(), folder / "net.safetensors")
    model = {"source": f"{folder}/net.safetensors", "inputs": {"x": {"shape": [-1, 4]}}, "outputs": ["y"]}
    return {"model": model, "torch": {"factory": f"{folder}/net.py:build", **settings}, "device": "cuda:0"}


class TestContractOnCuda(PluginContract):
    plugin = "torch"
    bad_settings = (({"torch": {"dtype": "float7"}}, "torch.dtype"),)
    leak_bytes = 16 << 20

    def configuration(self, folder: Path) -> dict[str, Any]:
        return config(folder)


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), ("float16", 1e-2), ("bfloat16", 5e-2)])
def test_equals_the_cpu(tmp_path: Path, dtype: str | None, tolerance: float) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    with (
        deepseek.build({**config(tmp_path), "device": "cpu"}) as cpu,
        deepseek.build(config(tmp_path, dtype=dtype)) as cuda,
    ):
        np.testing.assert_allclose(cuda.run(x=x)["y"], cpu.run(x=x)["y"], atol=tolerance)
        assert cuda.run(x=torch.from_numpy(x).cuda())["y"].dtype == np.float32


def test_the_host_waits_for_what_comes_from_the_card(tmp_path: Path) -> None:
    ready = torch.randn(1000, 4, device="cuda")
    with deepseek.build({**config(tmp_path), "device": "cpu"}) as pipeline:
        wanted = pipeline.run(x=ready.cpu())["y"]
        late = torch.zeros(1000, 4, device="cuda")
        torch.cuda._sleep(1 << 28)
        late.copy_(ready)
        np.testing.assert_array_equal(pipeline.run(x=late)["y"], wanted)


def test_the_plan_knows_the_card(tmp_path: Path) -> None:
    plan = deepseek.explain(config(tmp_path)).to_dict()
    assert plan["device"]["name"] == "cuda:0"
    assert plan["device"]["memory_bytes"] >= plan["device"]["available_bytes"] > 1 << 30


def test_close_gives_the_cards_memory_back(tmp_path: Path) -> None:
    before = torch.cuda.memory_allocated()
    with deepseek.build(config(tmp_path)) as pipeline:
        pipeline.run(x=np.zeros((1, 4), "float32"))
        assert torch.cuda.memory_allocated() > before
    assert torch.cuda.memory_allocated() == before


def test_a_batch_that_does_not_fit_leaves_the_pipeline_serving(tmp_path: Path) -> None:
    with deepseek.build(config(tmp_path)) as pipeline:
        rows = torch.cuda.get_device_properties(0).total_memory // (64 * 4)
        # One row broadcast: the input is small, what the first layer makes of it is not.
        huge = torch.zeros(1, 4).expand(rows, 4)
        with pytest.raises(OutOfMemoryError, match="PyTorch ran out of memory\n  fix: send a smaller batch"):
            pipeline.run(x=huge)
        assert pipeline.run(x=np.zeros((1, 4), "float32"))["y"].shape == (1, 3)
