"""ONNX Runtime through the pipeline, on small real models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import deepseek
from deepseek.errors import (
    ConfigError,
    DeviceError,
    ExecutionError,
    InputError,
    MissingLibraryError,
    ModelError,
    PlanError,
)
from deepseek.plugin import Device, hookimpl
from deepseek.testing.contract import PluginContract
from onnx_models import WEIGHTS, info, matmul, save


class TestContract(PluginContract):
    plugin = "onnxruntime"
    bad_settings: ClassVar = [
        ({"onnxruntime": {"threads": -1}}, "onnxruntime.threads"),
        ({"onnxruntime": {"graph_optimization": "most"}}, "onnxruntime.graph_optimization"),
    ]

    def configuration(self, folder: Path) -> dict[str, Any]:
        # 14 MB of weights, so that a session that is kept shows in the resident memory.
        random = np.random.default_rng(0)
        shapes = {"a": (4, 500_000), "b": (500_000, 3)}
        weights = [
            numpy_helper.from_array(random.standard_normal(shape, "float32") / 700, name)
            for name, shape in shapes.items()
        ]
        nodes = [helper.make_node("MatMul", ["x", "a"], ["z"]), helper.make_node("MatMul", ["z", "b"], ["y"])]
        x, y = info("x", TensorProto.FLOAT, "batch", 4), info("y", TensorProto.FLOAT, "batch", 3)
        return {"model": save(folder / "wide.onnx", nodes, [x], [y], weights)}


def test_equals_the_bare_session(tmp_path: Path) -> None:
    path = matmul(tmp_path)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    bare = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    with deepseek.build({"model": path}) as pipeline:
        assert pipeline.signature.batched
        assert str(pipeline.signature.inputs[0]) == "x: float32[*, 4]"
        assert (pipeline.run(x=x)["y"] == bare).all()


def test_io_binding_and_strangers_arrays(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    with deepseek.build({"model": matmul(tmp_path)}) as plain:
        wanted = plain.run(x=x)["y"]
        assert (plain.run(x=torch.from_numpy(x))["y"] == wanted).all()
    with deepseek.build({"model": matmul(tmp_path), "onnxruntime": {"io_binding": True}}) as bound:
        assert (bound.run(x=x)["y"] == wanted).all()
        assert (bound.run(x=x[::-1])["y"] == wanted[::-1]).all()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.INT64, "int64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.BOOL, "bool"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.DOUBLE, "float64"),
    ],
)
def test_dtypes(tmp_path: Path, kind: int, dtype: str) -> None:
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [info("x", kind, None)],
        [info("y", kind, None)],
    )
    x = np.array([0, 1, 1], dtype)
    with deepseek.build({"model": path}) as pipeline:
        answer = pipeline.run(x=x)["y"]
        assert answer.dtype == dtype
        assert (answer == x).all()
        with pytest.raises(InputError, match=rf"the input `x` is complex64\[3\]; the model takes x: {dtype}\[\*\]"):
            pipeline.run(x=x.astype("complex64"))


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    kind = TensorProto.STRING
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [info("x", kind, None)],
        [info("y", kind, None)],
    )
    with deepseek.build({"model": path}) as pipeline:
        assert list(pipeline.run(x=np.array(["a", "bc"], object))["y"]) == ["a", "bc"]


def test_text_of_tensorflow_s_own(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    kind = TensorProto.STRING
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    with deepseek.build(
        {"model": save(tmp_path / "m.onnx", nodes, [info("x", kind, None)], [info("y", kind, None)])}
    ) as pipeline:
        assert list(pipeline.run(x=tf.constant(["a", "é"]))["y"]) == ["a", "é"]


def test_inputs_of_any_rank(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    path = save(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])], [x], [info("y", 1, None)])
    with deepseek.build({"model": path}) as pipeline:
        for shape in ((), (2,), (2, 2)):
            assert pipeline.run(x=np.ones(shape, "float32"))["y"].shape == shape


def test_inputs_whose_first_dimensions_vary_apart(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [info("a", 1, "N", "M"), info("b", 1, "M", "K")], [info("y", 1, "N", "K")])
    with deepseek.build({"model": path}) as pipeline:
        a, b = np.ones((2, 3), "float32"), np.ones((3, 4), "float32")
        assert pipeline.run(a=a, b=b)["y"].shape == (2, 4)


def test_threads_and_levels_reach_the_session(tmp_path: Path) -> None:
    settings = {"threads": 1, "inter_op_threads": 1, "spinning": False, "graph_optimization": "basic"}
    plan = deepseek.explain({"model": matmul(tmp_path), "onnxruntime": settings})
    assert plan.to_dict()["execute"]["providers"] == ["CPUExecutionProvider"]
    assert plan.to_dict()["execute"]["threads"] == 1
    with deepseek.build({"model": matmul(tmp_path), "onnxruntime": settings}) as pipeline:
        options = pipeline.executor._session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC


def test_some_of_the_outputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["x"], ["b"])]
    path = save(tmp_path / "m.onnx", nodes, [info("x", 1, "n")], [info("a", 1, "n"), info("b", 1, "n")])
    x = np.array([-1.0], "float32")
    with deepseek.build({"model": {"source": path, "outputs": ["b"], "inputs": {"x": {"shape": [-1]}}}}) as pipeline:
        assert pipeline.run(x=x) == {"b": [1]}
        assert [spec.name for spec in pipeline.signature.outputs] == ["b"]
    for model, says in (
        ({"outputs": ["c"]}, "`model.outputs` names `c`, which the model does not have"),
        ({"inputs": {"y": {}}}, "`model.inputs` names `y`, which the model does not have"),
        ({"inputs": {"x": {"shape": [3, 3]}}}, r"declares x: float32\[3, 3\], the model takes x: float32\[\*\]"),
    ):
        with pytest.raises(ConfigError, match=says):
            deepseek.build({"model": {"source": path, **model}})


def test_a_device_that_it_knows_nothing_of(tmp_path: Path) -> None:
    class Acme:
        @staticmethod
        @hookimpl
        def probe() -> Device:
            return Device("acme:0", "acme", 1 << 40, 1 << 40)

    given = {"model": matmul(tmp_path), "device": "acme:0"}
    plugins: Any = [Acme]
    with pytest.raises(PlanError, match="onnxruntime: it knows no execution provider for acme:0; name one in"):
        deepseek.explain({**given, "engine": "onnxruntime"}, plugins=plugins)
    named = {**given, "onnxruntime": {"providers": ["CPUExecutionProvider"]}}
    with deepseek.build(named, plugins=plugins) as pipeline:
        assert pipeline.run(x=np.ones((1, 4), "float32"))["y"].shape == (1, 3)


def test_a_provider_that_is_not_there_is_never_replaced(tmp_path: Path) -> None:
    config = {"model": matmul(tmp_path), "onnxruntime": {"providers": ["TensorrtExecutionProvider"]}}
    with pytest.raises(DeviceError, match=r"has no TensorrtExecutionProvider\n  fix: this build offers .*CPU"):
        deepseek.build(config)
    with pytest.raises(DeviceError, match="no device `cuda:0` on this machine"):
        deepseek.build({"model": matmul(tmp_path), "device": "cuda:0"})


def test_operators_that_no_named_provider_has_are_an_error(tmp_path: Path) -> None:
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build has no provider that runs nothing")
    config = {"model": matmul(tmp_path), "onnxruntime": {"providers": ["AzureExecutionProvider"]}}
    with pytest.raises(ModelError, match="some of its operators are not in the providers named"):
        deepseek.build(config)
    config["onnxruntime"] = {"providers": ["AzureExecutionProvider", "CPUExecutionProvider"]}
    with deepseek.build(config) as pipeline:
        assert pipeline.run(x=np.ones((1, 4), "float32"))["y"].shape == (1, 3)


def test_a_failure_inside_the_engine_is_an_execution_error(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["w", "x"], ["y"])]
    x, y = info("x", TensorProto.INT64, "n"), info("y", TensorProto.FLOAT, "n", 3)
    path = save(tmp_path / "m.onnx", nodes, [x], [y], [numpy_helper.from_array(WEIGHTS, "w")])
    with deepseek.build({"model": path}) as pipeline:
        with pytest.raises((ExecutionError, InputError), match="ONNX Runtime .*out of data bounds"):
            pipeline.run(x=np.array([99]))
        assert (pipeline.run(x=np.array([1]))["y"] == WEIGHTS[1]).all()


def test_without_its_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"model": matmul(tmp_path)}
    monkeypatch.setattr("deepseek.plugin.find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    with pytest.raises(
        MissingLibraryError,
        match=r"its library `onnxruntime` is not installed: pip install 'deepseek-onnxruntime\[cpu\]' or pip install 'deepseek-onnxruntime\[gpu\]'",
    ):
        deepseek.build({**given, "engine": "onnxruntime"})
