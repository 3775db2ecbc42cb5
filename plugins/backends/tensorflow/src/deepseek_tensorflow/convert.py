"""tensorflow -> onnx, for pipelines whose engine is another than the model's own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepseek.plugin import Decline, Model, ModelError, Pass, Stage, library_missing, output_errors
from deepseek_tensorflow.library import cause, tensorflow
from deepseek_tensorflow.loading import Graph

OPSET = 18


def to_onnx() -> Pass | Decline:
    """The conversion, as a pass that the kernel uses where formats have to be bridged."""
    if missing := library_missing("tf2onnx", "deepseek-tensorflow", "onnx"):
        return missing
    return Pass("tensorflow-to-onnx", Stage.CONVERT, frozenset({"tensorflow"}), _convert, yields="onnx")


def _convert(model: Model, folder: Path) -> Model:
    import onnx

    tf, graph = tensorflow(), model.native
    target, names = folder / "model.onnx", [spec.name for spec in model.signature.outputs]
    try:
        with _quiet():
            proto = _trace(tf, graph, names)
        # What tf2onnx knows no operator for, it leaves as it is.
        onnx.checker.check_model(proto)
        _rename_outputs(proto, names)
    # tf2onnx raises ValueError, KeyError, its own errors, onnx's and TensorFlow's.
    except Exception as exc:
        hint = "run it with `engine: tensorflow`, or convert it yourself with tf2onnx"
        raise ModelError(f"tf2onnx can't convert this model: {cause(exc)}", hint=hint) from exc
    with output_errors(target):
        target.write_bytes(proto.SerializeToString())
    return Model("onnx", target, model.signature, {"converted_from": "tensorflow"})


def _trace(tf: Any, graph: Graph, outputs: list[str]) -> Any:
    import tf2onnx

    names = list(graph.inputs)

    def call(*tensors: Any) -> Any:
        results = graph.function(**dict(zip(names, tensors, strict=True)))
        return [results[name] for name in outputs]

    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in graph.inputs.items()]
    proto, _ = tf2onnx.convert.from_function(tf.function(call), input_signature=signature, opset=OPSET)
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """The converter reports each step of its own; what it can't do, it raises."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _rename_outputs(proto: Any, names: list[str]) -> None:
    """tf2onnx calls outputs ``Identity:0``; give them the names that the signature has."""
    new = dict(zip((output.name for output in proto.graph.output), names, strict=True))
    for output in proto.graph.output:
        output.name = new[output.name]
    for node in proto.graph.node:
        node.output[:] = [new.get(name, name) for name in node.output]
        node.input[:] = [new.get(name, name) for name in node.input]
