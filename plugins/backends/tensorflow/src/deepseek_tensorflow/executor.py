"""Running a graph function."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deepseek.plugin import (
    Device,
    ExecutionError,
    InputError,
    Model,
    ModelError,
    OutOfMemoryError,
    Share,
    Tensors,
)
from deepseek_tensorflow.library import cause, placement, tensorflow
from deepseek_tensorflow.loading import Graph
from deepseek_tensorflow.settings import TensorFlowSettings


class TensorFlowExecutor:
    """A graph function on one device. `run` may be called from any number of threads."""

    concurrency = 0

    def __init__(self, model: Model, settings: TensorFlowSettings, device: Device) -> None:
        self._tf = tensorflow()
        self._placed = placement(device)
        graph: Graph = model.native
        self._owner = graph.owner
        self._dtypes = {name: spec.dtype for name, spec in graph.inputs.items()}
        self.signature = model.signature
        self._names = [spec.name for spec in model.signature.outputs]
        self._function: Any = self._compiled(graph) if settings.jit_compile else graph.function

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        """Compute; see `deepseek.plugin.Executor.run`."""
        tf = self._tf
        try:
            with self._placed():
                # `constant` takes half the time of `convert_to_tensor`.
                tensors = {name: tf.constant(self._plain(name, value), self._dtypes[name])
                           for name, value in inputs.items()}  # fmt: skip
                answer = self._function(**tensors)
                return {name: _to_numpy(answer[name]) for name in self._names}
        except tf.errors.ResourceExhaustedError as exc:
            raise OutOfMemoryError("TensorFlow ran out of memory", hint="send a smaller batch") from exc
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as exc:
            raise InputError(f"TensorFlow refuses the input: {cause(exc)}") from exc
        except tf.errors.OpError as exc:
            raise ExecutionError(f"TensorFlow failed: {cause(exc)}") from exc

    def close(self) -> None:
        """Let the graph and its variables go."""
        self._function = self._owner = None
        # Graph functions and their variables refer to one another.
        gc.collect()

    def _compiled(self, graph: Graph) -> Any:
        """The function compiled with XLA, once now for a batch of one: what can't be compiled shows in the build."""
        tf = self._tf

        def call(**tensors: Any) -> Any:
            return graph.function(**tensors)

        # Traced once, whatever the sizes of batches; XLA compiles it again for each.
        function = tf.function(call, jit_compile=True, autograph=False).get_concrete_function(**graph.inputs)
        if any(spec.shape.rank is None for spec in graph.inputs.values()):
            return function
        samples = {
            name: tf.zeros([size or 1 for size in spec.shape], spec.dtype) for name, spec in graph.inputs.items()
        }
        try:
            with self._placed(), _variables_kept(graph.function):
                function(**samples)
        except (tf.errors.OpError, ValueError, TypeError) as exc:
            hint = "leave `tensorflow.jit_compile` out"
            raise ModelError(f"XLA can't compile this model: {cause(exc)}", hint=hint) from exc
        return function

    def _plain(self, name: str, value: Any) -> Any:
        """NumPy and TensorFlow arrays as they are; others over DLPack, without a copy. Raises InputError."""
        if isinstance(value, np.ndarray | self._tf.Tensor | self._tf.Variable):
            return value
        try:
            return np.from_dlpack(value)
        # Tensors on a card, sparse ones, those that need gradients can't be handed over; each library says so its way.
        except Exception as exc:
            raise InputError(f"TensorFlow can't take the input `{name}`: {exc}") from exc


@contextlib.contextmanager
def _variables_kept(function: Any) -> Iterator[None]:
    """A block that leaves the variables of a function that assigns some (counters, caches) as they were."""
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(node for part in definition.library.function for node in part.node_def)]
    kept = function.variables if any(node.op.startswith("Assign") for node in nodes) else ()
    values = [variable.read_value() for variable in kept]
    try:
        yield
    finally:
        for variable, value in zip(kept, values, strict=True):
            variable.assign(value)


def _to_numpy(tensor: Any) -> Any:
    """An array, scalars too; text as text, as far as it is UTF-8."""
    array = np.asarray(tensor.numpy(), object if tensor.dtype.name == "string" else None)
    if array.dtype == object:
        return np.frompyfunc(_text, 1, 1)(array) if array.ndim else np.array(_text(array.item()), object)
    return array


def _text(value: Any) -> Any:
    try:
        return value.decode("utf-8")
    except (AttributeError, UnicodeDecodeError):
        return value
