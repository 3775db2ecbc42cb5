"""Whether tensors fit a signature: decided once per pipeline, asked once per request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from deepseek.errors import ConfigError, InputError
from deepseek.types import ANY, Signature, Tensors, TensorSpec


def input_check(signature: Signature) -> Callable[[Tensors], int]:
    """A function that tells how many rows tensors have, and raises InputError unless they fit the signature.

    Resolved once, run per request: one function that calls others only for tensors unlike the last, because after a
    model has run, its code and data are in no cache any more, and each further function costs microseconds.

    Rows are the size of the batch dimension, in which all inputs that have one must agree; 1 where the model has none.
    Dtypes and shapes that the model does not state are not checked.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    needed = frozenset(spec.name for spec in signature.inputs if not spec.optional)
    plans = {name: _Plan(spec) for name, spec in specs.items()}

    def check(tensors: Tensors) -> int:
        if tensors.keys() != needed:
            _check_names(tensors, specs, needed)
        rows = None
        for name, tensor in tensors.items():
            plan = plans[name]
            if type(tensor) is not plan.kind or tensor.dtype is not plan.dtype:
                plan.admit(tensor)
            shape = tensor.shape
            if shape != plan.shape:
                plan.fit(tensor)
            if plan.batched:
                if rows is not None and shape[0] != rows:
                    raise _uneven(tensors, plans)
                rows = shape[0]
        return 1 if rows is None else rows

    return check if specs else lambda tensors: 1


class _Plan:
    """What is to be checked of one input.

    Attributes:
        spec: the input as the model states it.
        kind: the type of the last array that was found good,
        dtype, shape: its dtype and shape: the next is likely to have the same.
        rank: how many dimensions; None: not known.
        sizes: ``(axis, size)`` of those that do not vary.
        batched: dimension 0 is the batch.
    """

    __slots__ = ("batched", "dtype", "kind", "rank", "shape", "sizes", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.kind: type | None = None
        self.dtype: Any = None
        self.shape: Any = None
        self.rank = None if spec.shape is None else len(spec.shape)
        self.sizes = tuple((axis, size) for axis, size in enumerate(spec.shape or ()) if size != ANY)
        self.batched = bool(spec.shape) and spec.shape is not None and spec.shape[0] == ANY

    def admit(self, tensor: Any) -> None:
        """An array of another type or dtype than the last. Raises InputError."""
        # Sparse tensors have a shape and a dtype too, but nothing that another library could take over.
        dense = hasattr(tensor, "__dlpack__") or hasattr(tensor, "__array__")
        if not dense or not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
            raise _not_an_array(self.spec, tensor)
        if self.spec.dtype and dtype_name(tensor.dtype) != self.spec.dtype:
            raise _misfit(self.spec, tensor)
        self.kind, self.dtype = type(tensor), tensor.dtype

    def fit(self, tensor: Any) -> None:
        """An array of another shape than the last. Raises InputError."""
        shape = tensor.shape
        if self.rank is not None and len(shape) != self.rank:
            raise _misfit(self.spec, tensor)
        for axis, size in self.sizes:
            if shape[axis] != size:
                raise _misfit(self.spec, tensor)
        self.shape = shape


def stated_signature(own: Signature, declared: Signature) -> Signature:
    """What a model that states its inputs and outputs takes and gives in a pipeline that declares some of them.

    Args:
        own: the model's, complete.
        declared: the pipeline's `model.inputs`, which must agree with the model's, and `model.outputs`, of which each
            must be one of the model's; either may be empty.

    Returns:
        The model's own inputs, and those of its outputs that the pipeline declares, in that order.

    Raises:
        ConfigError: the two contradict one another.

    Example:
        >>> x, y, z = (TensorSpec(name, "float32", (ANY, 4)) for name in "xyz")
        >>> stated_signature(Signature((x,), (y, z)), Signature(outputs=(TensorSpec("z"),))).outputs == (z,)
        True
    """
    inputs = {spec.name: spec for spec in own.inputs}
    outputs = {spec.name: spec for spec in own.outputs}
    for key, names, found in (("inputs", declared.inputs, inputs), ("outputs", declared.outputs, outputs)):
        for spec in names:
            if spec.name not in found:
                what = f"`model.{key}` names `{spec.name}`, which the model does not have"
                raise ConfigError(what, hint=f"it has: {', '.join(map(str, found.values()))}")
    for spec in declared.inputs:
        if not _agree(inputs[spec.name], spec):
            what = f"`model.inputs` declares {spec}, the model takes {inputs[spec.name]}"
            raise ConfigError(what, hint="leave it out: the model states its inputs itself")
    chosen = tuple(outputs[spec.name] for spec in declared.outputs)
    return Signature(own.inputs, chosen or own.outputs)


def _agree(own: TensorSpec, declared: TensorSpec) -> bool:
    if own.dtype and declared.dtype and own.dtype != declared.dtype:
        return False
    if own.shape is None or declared.shape is None:
        return True
    sizes = zip(own.shape, declared.shape, strict=False)
    return len(own.shape) == len(declared.shape) and all(a == b or ANY in (a, b) for a, b in sizes)


def dtype_name(dtype: Any) -> str:
    """NumPy's name for the dtype of any array library: ``torch.float32`` is ``float32``; text is ``str``."""
    # "float32", "torch.float32", "<dtype: 'float32'>", "<U3": the last word tells.
    # A foreign byte order stays in sight (">f4"): no engine takes it.
    word = re.findall(r">?\w+", str(dtype))[-1]
    return "str" if word in ("object", "str", "string", "bytes") or word[:1] in "US" else word


def _check_names(tensors: Tensors, specs: Mapping[str, TensorSpec], needed: frozenset[str]) -> None:
    wanted = ", ".join(map(str, specs.values()))
    for name in tensors:
        if name not in specs:
            raise InputError(f"the model has no input `{name}`", hint=f"its inputs are: {wanted}")
    for name in sorted(needed):
        if name not in tensors:
            raise InputError(f"the input `{name}` is missing", hint=f"the model's inputs are: {wanted}")


def _not_an_array(spec: TensorSpec, value: object) -> InputError:
    hint = f"pass an array ({spec}), for example numpy.asarray(...), or use predict() for files and photographs"
    return InputError(f"the input `{spec.name}` is a {type(value).__name__}, not a dense array", hint=hint)


def _misfit(spec: TensorSpec, tensor: Any) -> InputError:
    got = f"{dtype_name(tensor.dtype)}[{', '.join(map(str, tensor.shape))}]"
    other = spec.dtype and dtype_name(tensor.dtype) != spec.dtype
    hint = f"convert it to {spec.dtype}" if other else "give it that shape; * is any size"
    return InputError(f"the input `{spec.name}` is {got}; the model takes {spec}", hint=hint)


def _uneven(tensors: Tensors, plans: Mapping[str, _Plan]) -> InputError:
    sizes = ", ".join(f"{name} has {tensor.shape[0]}" for name, tensor in tensors.items() if plans[name].batched)
    return InputError(f"the inputs differ in batch size: {sizes}", hint="give all of them the same number of rows")
