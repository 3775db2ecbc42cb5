"""ONNX Runtime on a CUDA card. Skipped where there is none; the figures of a run are in benchmarks/results/."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import deepseek
from deepseek.errors import DeviceError, InputError, ModelError, OutOfMemoryError
from deepseek.testing.contract import PluginContract

if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    pytest.skip("needs onnxruntime-gpu", allow_module_level=True)
# For tensors that are on the card already, and to see how much of its memory is taken.
torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA card", allow_module_level=True)

CUDA = "CUDAExecutionProvider"
RANDOM = np.random.default_rng(0)


def save(path: Path, nodes: list[Any], x: list[Any], y: list[Any], weights: dict[str, Any]) -> str:
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (("x", x), ("y", y))
    )
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return str(path)


def wide(folder: Path) -> str:
    """y = x A B, float32[batch, 4] -> float32[batch, 3], with 14 MB of weights."""
    nodes = [helper.make_node("MatMul", ["x", "a"], ["z"]), helper.make_node("MatMul", ["z", "b"], ["y"])]
    weights = {
        "a": RANDOM.standard_normal((4, 500_000), "float32") / 700,
        "b": RANDOM.standard_normal((500_000, 3), "float32") / 700,
    }
    return save(folder / "wide.onnx", nodes, ["batch", 4], ["batch", 3], weights)


def convolution(folder: Path) -> str:
    weights = {"w": RANDOM.standard_normal((8, 3, 3, 3), "float32")}
    nodes = [helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    return save(folder / "conv.onnx", nodes, ["batch", 3, 16, 16], ["batch", 8, 14, 14], weights)


def determinant(folder: Path) -> str:
    """y = tanh(det x): an operator that ONNX Runtime has on the CPU alone, and one that it has on the card."""
    nodes = [helper.make_node("Det", ["x"], ["d"]), helper.make_node("Tanh", ["d"], ["y"])]
    return save(folder / "det.onnx", nodes, ["batch", 4, 4], ["batch"], {})


def config(path: str, **settings: Any) -> dict[str, Any]:
    return {"model": path, "device": "cuda:0", "onnxruntime": settings}


class TestContractOnCuda(PluginContract):
    plugin = "onnxruntime"
    bad_settings = (({"onnxruntime": {"io_binding": "sometimes"}}, "onnxruntime.io_binding"),)
    leak_bytes = 16 << 20
    # Convolutions and products are computed in TF32 on the card.
    tolerance = 2e-3

    def configuration(self, folder: Path) -> dict[str, Any]:
        return config(wide(folder))


@pytest.mark.parametrize("io_binding", [None, True, False])
def test_equals_the_cpu(tmp_path: Path, io_binding: bool | None) -> None:
    x = RANDOM.standard_normal((5, 3, 16, 16), "float32")
    path = convolution(tmp_path)
    with (
        deepseek.build({"model": path}) as cpu,
        deepseek.build(config(path, io_binding=io_binding)) as cuda,
    ):
        wanted = cpu.run(x=x)["y"]
        np.testing.assert_allclose(cuda.run(x=x)["y"], wanted, atol=2e-3 * np.abs(wanted).max())


def test_the_plan_names_the_providers(tmp_path: Path) -> None:
    plan = deepseek.explain(config(wide(tmp_path))).to_dict()
    assert plan["execute"]["providers"] == [CUDA, "CPUExecutionProvider"]
    assert plan["device"]["name"] == "cuda:0"
    with deepseek.build(config(wide(tmp_path), providers=[CUDA])) as pipeline:
        assert pipeline.executor._session.get_providers()[0] == CUDA


def test_tensors_on_the_card_are_taken_as_they_are(tmp_path: Path) -> None:
    with deepseek.build(config(wide(tmp_path))) as pipeline:
        x = torch.randn(5, 4)
        wanted = pipeline.run(x=x)["y"]
        np.testing.assert_allclose(pipeline.run(x=x.cuda())["y"], wanted, rtol=1e-5)
        with pytest.raises(InputError, match="can't take the input `x` from the card"):
            pipeline.run(x=x.cuda().repeat(1, 2)[:, ::2])


def test_a_tensor_that_is_not_computed_yet_is_waited_for(tmp_path: Path) -> None:
    with deepseek.build(config(wide(tmp_path))) as pipeline:
        x = torch.randn(5, 4)
        wanted = pipeline.run(x=x)["y"]
        late, ready = torch.zeros(5, 4, device="cuda"), x.cuda()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(1 << 30)
            late.copy_(ready)
        np.testing.assert_allclose(pipeline.run(x=late)["y"], wanted, rtol=1e-5)


def test_operators_on_the_cpu_are_told_and_can_be_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = determinant(tmp_path)
    with caplog.at_level(logging.WARNING), deepseek.build(config(path)) as pipeline:
        assert pipeline.run(x=np.eye(4, dtype="float32")[None])["y"] == pytest.approx(np.tanh(1), rel=1e-4)
    assert "1 of 2 operators run on the CPU, not on the card: Det" in caplog.text
    with pytest.raises(ModelError, match="some of its operators are not in the providers named"):
        deepseek.build(config(path, providers=[CUDA]))


def test_a_card_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        deepseek.build({**config(wide(tmp_path)), "device": "cuda:7"})


def test_close_gives_the_cards_memory_back(tmp_path: Path) -> None:
    def used() -> int:
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    def cycle() -> int:
        with deepseek.build(config(wide(tmp_path))) as pipeline:
            pipeline.run(x=np.zeros((1000, 4), "float32"))
            return used()

    cycle()
    before = used()
    # The activations alone are 2 GB.
    assert cycle() - before > 1 << 30
    assert used() - before < 64 << 20


def test_a_batch_that_does_not_fit_leaves_the_pipeline_serving(tmp_path: Path) -> None:
    rows = 2 * torch.cuda.get_device_properties(0).total_memory // (500_000 * 4)
    with deepseek.build(config(wide(tmp_path))) as pipeline:
        with pytest.raises(OutOfMemoryError, match="ONNX Runtime ran out of memory\n  fix: send a smaller batch"):
            pipeline.run(x=np.zeros((rows, 4), "float32"))
        assert pipeline.run(x=np.zeros((1, 4), "float32"))["y"].shape == (1, 3)
