"""The models that are measured, made once, and each engine as its users call it without us."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
EXAMPLES = Path(__file__).parents[1] / "examples"
MODELS = EXAMPLES / "models"
sys.path.insert(0, str(EXAMPLES))

ENGINES = ("onnxruntime", "torch", "tensorflow")
Call = Callable[[Any], Any]


def prepare(engines: Iterable[str] = ENGINES) -> None:
    """Write ResNet-50 for each engine, and the identity model, as far as they are not there."""
    MODELS.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    writers: dict[str, dict[str, Callable[[Path], None]]] = {
        "onnxruntime": {"identity.onnx": _identity, "resnet50.onnx": lambda path: _resnet().save_onnx(path)},
        "torch": {"linear.safetensors": _linear, "resnet50.safetensors": lambda path: _resnet().save_safetensors(path)},
        "tensorflow": {
            "identity_savedmodel": _identity_savedmodel,
            "resnet50_savedmodel": lambda path: _resnet().save_saved_model(path),
        },
    }
    for name, write in [item for engine in engines for item in writers[engine].items()]:
        if not (MODELS / name).exists():
            print(f"prepare: {name}", flush=True)
            write(MODELS / name)


def configuration(engine: str) -> dict[str, Any]:
    """ResNet-50 as a pipeline."""
    if engine == "onnxruntime":
        return {"model": str(MODELS / "resnet50.onnx")}
    if engine == "tensorflow":
        return {"model": str(MODELS / "resnet50_savedmodel")}
    declared = {"inputs": {"image": {"shape": [-1, 3, 224, 224]}}, "outputs": ["logits"]}
    model = {"source": str(MODELS / "resnet50.safetensors"), **declared}
    return {"model": model, "torch": {"factory": f"{EXAMPLES}/resnet50.py:build"}}


def smallest(engine: str) -> dict[str, Any]:
    """A model with next to no work as a pipeline: ``x`` to ``y``, float32[N, 16]."""
    if engine == "onnxruntime":
        return {"model": str(MODELS / "identity.onnx")}
    if engine == "tensorflow":
        return {"model": str(MODELS / "identity_savedmodel")}
    source = {"source": str(MODELS / "linear.safetensors"), "inputs": {"x": {"shape": [-1, 16]}}, "outputs": ["y"]}
    arguments = {"in_features": 16, "out_features": 16}
    return {"model": source, "torch": {"factory": "torch.nn:Linear", "factory_args": arguments}}


def bare_smallest(engine: str, executor: Any) -> Call:
    """The same session, module or function, called with the engine's own API: NumPy in, NumPy out."""
    if engine == "onnxruntime":
        session = executor._session
        return lambda x: session.run(None, {"x": x})[0]
    if engine == "tensorflow":
        import tensorflow as tf

        function = executor._function
        return lambda x: function(x=tf.constant(x))["y"].numpy()
    import torch

    module = executor._module

    def call(x: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return call


def bare(engine: str, device: str = "cpu", executor: Any = None) -> Call:
    """ResNet-50 called with the engine's own API: NumPy in, NumPy out.

    Args:
        engine: which.
        device: where.
        executor: take its session, module or function; None: load the model as the engine's users do.
    """
    return {"onnxruntime": _bare_onnxruntime, "torch": _bare_torch, "tensorflow": _bare_tensorflow}[engine](
        device, executor
    )


def image(engine: str, batch: int) -> Any:
    """Random pixels in the engine's layout."""
    import numpy as np

    shape = (batch, 224, 224, 3) if engine == "tensorflow" else (batch, 3, 224, 224)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _resnet() -> Any:
    import resnet50

    return resnet50


def _identity(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def _linear(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(torch.nn.Linear(16, 16).state_dict(), path)


def _identity_savedmodel(path: Path) -> None:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.float32, name="x")])
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.identity(x)}

    tf.saved_model.save(tf.Module(), str(path), signatures={"serving_default": serve})


def _bare_onnxruntime(device: str, executor: Any) -> Call:
    import onnxruntime

    if executor is not None:
        session = executor._session
    else:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(MODELS / "resnet50.onnx", options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"image": x})[0]


def _bare_torch(device: str, executor: Any) -> Call:
    import torch
    from resnet50 import ResNet50
    from safetensors.torch import load_file

    if executor is not None:
        module = executor._module
    else:
        module = ResNet50()
        module.load_state_dict(load_file(MODELS / "resnet50.safetensors"))
        module.eval().to(device)

    def call(x: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(x).to(device)).cpu().numpy()

    return call


def _bare_tensorflow(device: str, executor: Any) -> Call:
    import tensorflow as tf

    # The function's variables live as long as their owner.
    owner = executor if executor is not None else tf.saved_model.load(str(MODELS / "resnet50_savedmodel"))
    function = executor._function if executor is not None else owner.signatures["serving_default"]
    return lambda x, owner=owner: function(image=tf.constant(x))["logits"].numpy()
