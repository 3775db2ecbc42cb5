"""Small ONNX models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def save(path: Path, nodes: list[Any], inputs: Any, outputs: Any, weights: Any = ()) -> str:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return str(path)


def info(name: str, kind: int, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def matmul(folder: Path, weights: Any = None) -> str:
    """y = tanh(x W), float32[batch, 4] -> float32[batch, 3]"""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Tanh", ["z"], ["y"])]
    weights = numpy_helper.from_array(WEIGHTS, "w") if weights is None else weights
    x, y = info("x", TensorProto.FLOAT, "batch", 4), info("y", TensorProto.FLOAT, "batch", 3)
    return save(folder / "model.onnx", nodes, [x], [y], [weights])


def external(location: str) -> Any:
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        weights.external_data.add(key=key, value=value)
    return weights
