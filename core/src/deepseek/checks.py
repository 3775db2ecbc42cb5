"""Whether tensors fit a signature: decided once per pipeline, asked once per request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from deepseek.errors import InputError
from deepseek.types import ANY, Signature, Tensors, TensorSpec


def input_check(signature: Signature) -> Callable[[Tensors], None]:
    """A function that raises InputError unless tensors fit the signature; resolved once, run per request.

    Dtypes and shapes that the model does not state are not checked; where every input has a batch
    dimension, they must agree in it.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    needed = frozenset(spec.name for spec in signature.inputs if not spec.optional)
    names: dict[Any, str] = {}
    fixed = signature.batched and len(specs) > 1

    def check(tensors: Tensors) -> None:
        if tensors.keys() != needed:
            _check_names(tensors, specs, needed)
        for name, tensor in tensors.items():
            spec = specs.get(name)
            if spec is None:
                continue
            try:
                dtype, shape = tensor.dtype, tensor.shape
            except AttributeError:
                raise _not_an_array(name, tensor, spec) from None
            found = names.get(dtype)
            if found is None:
                found = names[dtype] = dtype_name(dtype)
            if spec.dtype and found != spec.dtype:
                _refuse(spec, found, shape)
            if spec.shape is not None and tuple(shape) != spec.shape:
                _check_shape(spec, found, shape)
        if fixed:
            _check_rows(tensors)

    return check if specs else lambda tensors: None


def dtype_name(dtype: Any) -> str:
    """NumPy's name for the dtype of any array library: ``torch.float32`` is ``float32``; text is ``str``."""
    # "float32", "torch.float32", "<dtype: 'float32'>", "<U3": the last word tells.
    word = re.findall(r"\w+", str(dtype))[-1]
    return "str" if word in ("object", "str", "string", "bytes") or word[:1] in "US" else word


def _check_names(tensors: Tensors, specs: Mapping[str, TensorSpec], needed: frozenset[str]) -> None:
    wanted = ", ".join(map(str, specs.values()))
    for name in tensors:
        if name not in specs:
            raise InputError(f"the model has no input `{name}`", hint=f"its inputs are: {wanted}")
    for name in sorted(needed):
        if name not in tensors:
            raise InputError(f"the input `{name}` is missing", hint=f"the model's inputs are: {wanted}")


def _not_an_array(name: str, value: object, spec: TensorSpec) -> InputError:
    hint = f"pass an array ({spec}), for example numpy.asarray(...), or use predict() for files and photographs"
    return InputError(f"the input `{name}` is a {type(value).__name__}, not an array", hint=hint)


def _check_shape(spec: TensorSpec, dtype: str, shape: Any) -> None:
    wanted = spec.shape or ()
    if len(shape) != len(wanted) or any(w not in (ANY, s) for w, s in zip(wanted, shape, strict=True)):
        _refuse(spec, dtype, shape)


def _refuse(spec: TensorSpec, dtype: str, shape: Any) -> None:
    got = f"{dtype}[{', '.join(map(str, shape))}]"
    raise InputError(f"the input `{spec.name}` is {got}; the model takes {spec} (* is any size)")


def _check_rows(tensors: Tensors) -> None:
    rows = {name: tensor.shape[0] for name, tensor in tensors.items()}
    if len(set(rows.values())) > 1:
        sizes = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise InputError(f"the inputs differ in batch size: {sizes}")
