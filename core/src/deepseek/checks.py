"""Whether tensors fit a signature: decided once per pipeline, asked once per request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from deepseek.errors import ConfigError, InputError
from deepseek.types import ANY, Signature, Tensors, TensorSpec


def input_check(signature: Signature) -> Callable[[Tensors], None]:
    """A function that raises InputError unless tensors fit the signature; resolved once, run per request.

    Dtypes and shapes that the model does not state are not checked; the inputs that have a batch dimension must
    agree in it.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    needed = frozenset(spec.name for spec in signature.inputs if not spec.optional)
    checks = {name: _tensor_check(spec) for name, spec in specs.items()}
    batches = _batched_names(signature)

    def check(tensors: Tensors) -> None:
        if tensors.keys() != needed:
            _check_names(tensors, specs, needed)
        for name, tensor in tensors.items():
            checks[name](tensor)
        if len(batches) > 1:
            _check_rows({name: tensors[name] for name in batches if name in tensors})

    return check if specs else lambda tensors: None


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


def row_counter(signature: Signature) -> Callable[[Tensors], int]:
    """A function that tells a request's rows: its size in the batch dimension, 1 where the model has none."""
    names = _batched_names(signature)

    def count(tensors: Tensors) -> int:
        for name in names:
            if name in tensors:
                return int(tensors[name].shape[0])
        return 1

    return count


def _batched_names(signature: Signature) -> list[str]:
    return [spec.name for spec in signature.inputs if spec.shape and spec.shape[0] == ANY]


def _tensor_check(spec: TensorSpec) -> Callable[[Any], None]:
    """The check of one input: its dtype, its number of dimensions, and the sizes that do not vary."""
    rank = None if spec.shape is None else len(spec.shape)
    sizes = [(axis, size) for axis, size in enumerate(spec.shape or ()) if size != ANY]
    wanted, names, arrays = spec.dtype, dict[Any, str](), set[type]()

    def check(tensor: Any) -> None:
        if type(tensor) not in arrays:
            _check_kind(spec, tensor)
            arrays.add(type(tensor))
        try:
            shape, found = tensor.shape, names.get(tensor.dtype)
        except AttributeError:
            raise _not_an_array(spec, tensor) from None
        if found is None:
            found = names[tensor.dtype] = dtype_name(tensor.dtype)
        if (wanted and found != wanted) or (rank is not None and len(shape) != rank):
            _refuse(spec, found, shape)
        for axis, size in sizes:
            if shape[axis] != size:
                _refuse(spec, found, shape)

    return check


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


def _check_kind(spec: TensorSpec, value: Any) -> None:
    """Sparse tensors have a shape and a dtype too, but nothing that another library could take over."""
    if not hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        raise _not_an_array(spec, value)


def _not_an_array(spec: TensorSpec, value: object) -> InputError:
    hint = f"pass an array ({spec}), for example numpy.asarray(...), or use predict() for files and photographs"
    return InputError(f"the input `{spec.name}` is a {type(value).__name__}, not a dense array", hint=hint)


def _refuse(spec: TensorSpec, dtype: str, shape: Any) -> None:
    got = f"{dtype}[{', '.join(map(str, shape))}]"
    raise InputError(f"the input `{spec.name}` is {got}; the model takes {spec} (* is any size)")


def _check_rows(tensors: Tensors) -> None:
    rows = {name: tensor.shape[0] for name, tensor in tensors.items()}
    if len(set(rows.values())) > 1:
        sizes = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise InputError(f"the inputs differ in batch size: {sizes}")
