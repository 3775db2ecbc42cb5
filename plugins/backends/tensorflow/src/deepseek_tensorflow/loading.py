"""One function per format: a source becomes a `Model` whose native object is a `Graph`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from deepseek.plugin import (
    ANY,
    Config,
    Device,
    Model,
    ModelError,
    OutOfMemoryError,
    Signature,
    Source,
    TensorSpec,
    UnsafeModelError,
    stated_signature,
)
from deepseek_tensorflow.library import cause, placement, prepare
from deepseek_tensorflow.safety import check_graph
from deepseek_tensorflow.settings import TensorFlowSettings


@dataclass(frozen=True)
class Graph:
    """A graph function and the object that owns its variables.

    Attributes:
        function: takes tensors by keyword, returns a mapping of tensors.
        owner: keeps the variables alive.
        inputs: the tensors' `tf.TensorSpec`s by name.
    """

    function: Any
    owner: Any
    inputs: dict[str, Any]


def saved_model(source: Source, device: Device, config: Config) -> Model:
    """A SavedModel folder. No Python code is stored in one, but its graph may have operators that reach files."""
    tf, placed = prepare(config), placement(device)
    if not config[TensorFlowSettings].file_operators:
        check_graph(source.path)
    try:
        with placed():
            owner = tf.saved_model.load(str(source.path))
    # TensorFlow raises its own errors, the protobuf parser's and OSError for a damaged folder.
    except Exception as exc:
        raise _corrupt(source, exc) from exc
    name = config[TensorFlowSettings].signature
    if name not in owner.signatures:
        known = ", ".join(owner.signatures) or "none"
        raise config.error(
            "tensorflow.signature", f"names `{name}`, which the model does not have", hint=f"it has: {known}"
        )
    function = owner.signatures[name]
    inputs = dict(function.structured_input_signature[1])
    model = _model(Graph(function, owner, inputs), function.structured_outputs)
    return replace(model, signature=stated_signature(model.signature, Signature(source.inputs, source.outputs)))


def keras_file(source: Source, device: Device, config: Config) -> Model:
    """A ``.keras`` file, read in safe mode: layers with stored Python code are refused."""
    tf, placed = prepare(config), placement(device)
    import keras

    if config[TensorFlowSettings].signature != TensorFlowSettings().signature:
        raise config.error("tensorflow.signature", "is for SavedModels; a .keras file has none", hint="leave it out")
    if not zipfile.is_zipfile(source.path):
        raise _corrupt(source, ValueError("it is not a .keras archive"))
    try:
        with placed():
            owner = keras.saving.load_model(source.path, compile=False, safe_mode=True)
    # Keras raises ValueError, TypeError, KeyError, HDF5's OSError, ... for a damaged archive.
    except Exception as exc:
        if "safe_mode" in str(exc) or "safe mode" in str(exc):
            hint = "replace Lambda layers by layers of your own package, and save the model again"
            raise UnsafeModelError(
                "loading it would run Python code that it stores", where=str(source.path), hint=hint
            ) from exc
        raise _corrupt(source, exc) from exc
    if not owner.built:
        raise _corrupt(source, ValueError("the model was saved before it was built; its inputs are not known"))
    inputs = {item.name: tf.TensorSpec(item.shape, item.dtype, name=item.name) for item in owner.inputs}

    def call(**tensors: Any) -> Any:
        results = owner(tensors if len(inputs) > 1 else next(iter(tensors.values())), training=False)
        found = _named(tf, results, list(getattr(owner, "output_names", [])))
        stated = [spec.name for spec in source.outputs]
        renamed = len(stated) == len(found) and not set(stated) <= set(found)
        return dict(zip(stated if renamed else found, found.values(), strict=True))

    function = tf.function(call, autograph=False).get_concrete_function(**inputs)
    model = _model(Graph(function, owner, inputs), function.structured_outputs)
    return replace(model, signature=stated_signature(model.signature, Signature(source.inputs, source.outputs)))


def _named(tf: Any, results: Any, layers: list[str]) -> dict[str, Any]:
    """Outputs by name: a dictionary's own keys, numbered where they hold several; else the layers' names."""
    if isinstance(results, Mapping):
        leaves = {str(key): tf.nest.flatten(value) for key, value in results.items()}
        return {
            key if len(several) == 1 else f"{key}_{index}": leaf
            for key, several in leaves.items()
            for index, leaf in enumerate(several)
        }
    found = tf.nest.flatten(results)
    if len(found) == 1:
        return {"output": found[0]}
    # Two outputs of one layer have its name both.
    names = layers if len(set(layers)) == len(found) else [f"output_{index}" for index in range(len(found))]
    return dict(zip(names, found, strict=True))


def _model(graph: Graph, outputs: Any) -> Model:
    signature = Signature(
        tuple(_spec(name, spec) for name, spec in graph.inputs.items()),
        tuple(_spec(name, spec) for name, spec in outputs.items()),
    )
    size = sum(variable.shape.num_elements() * variable.dtype.size for variable in graph.function.variables)
    return Model("tensorflow", graph, signature, {"bytes": size})


def _spec(name: str, spec: Any) -> TensorSpec:
    shape = None if spec.shape.rank is None else tuple(ANY if size is None else size for size in spec.shape)
    dtype = "str" if spec.dtype.name == "string" else spec.dtype.name
    return TensorSpec(name, dtype, shape)


def _corrupt(source: Source, exc: Exception) -> ModelError | OutOfMemoryError:
    if isinstance(exc, MemoryError) or type(exc).__name__ == "ResourceExhaustedError":
        return OutOfMemoryError("there is not enough memory for its weights", where=str(source.path))
    return ModelError(f"TensorFlow can't read it: {cause(exc)}", where=str(source.path), hint="save or export it again")
