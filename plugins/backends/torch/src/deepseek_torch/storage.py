"""Whose memory a tensor stands in: the caller's, or the module's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.dlpack import from_dlpack

from deepseek.plugin import InputError


@contextlib.contextmanager
def buffers_kept(module: Any) -> Iterator[None]:
    """A block that leaves a module's buffers (counters, caches) as they were."""
    kept = [(part, *found) for part in module.modules() for found in part.named_buffers(recurse=False)]
    values = [buffer.clone() for _, _, buffer in kept]
    try:
        yield
    finally:
        with torch.no_grad():
            for (part, name, buffer), value in zip(kept, values, strict=True):
                # In place, and back in its place: a module may have done either.
                setattr(part, name, buffer.copy_(value))


def adopt(name: str, value: Any) -> torch.Tensor:
    """A tensor over the array's own memory. Raises InputError."""
    try:
        if isinstance(value, np.ndarray):
            return _from_numpy(value)
        if "str" in str(value.dtype):
            # TensorFlow ends the process when its text is asked for in this way.
            raise TypeError("PyTorch has no text")
        tensor: torch.Tensor = value.detach() if isinstance(value, torch.Tensor) else from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as exc:
        raise InputError(f"PyTorch can't take the input `{name}`: {exc}") from exc
    if tensor.layout is not torch.strided:
        raise InputError(f"the input `{name}` is sparse", hint="pass it dense: tensor.to_dense()")
    return tensor


def _from_numpy(array: np.ndarray[Any, Any]) -> torch.Tensor:
    if min(array.strides, default=0) < 0:
        # from_numpy refuses these, and from_dlpack ends the process (not the call).
        array = np.ascontiguousarray(array)
    if array.dtype.name == "bfloat16":
        # Of ml_dtypes, which PyTorch does not know: the same two bytes.
        return _from_numpy(array.view(np.int16)).view(torch.bfloat16)
    # What may not be written to (a file that is mapped, a bytes object) is copied: a module that works in place would
    # end the process.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def held(module: Any) -> list[torch.Tensor]:
    """Every tensor that a module keeps: parameters, buffers, plain attributes (in lists and dictionaries too)."""
    values: list[Any] = [*module.parameters(), *module.buffers()]
    if isinstance(module, torch.jit.ScriptModule):
        values += _script_values(module)
    else:
        values += [value for part in module.modules() for value in vars(part).values()]
    return [leaf for value in values for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _script_values(module: Any) -> list[Any]:
    """What a script reads: its attributes, which it does not list, and the constants of its graph."""
    graph = module.inlined_graph
    names = {node.s("name") for node in graph.findAllNodes("prim::GetAttr", True)}
    constants = [node for node in graph.findAllNodes("prim::Constant", True) if "value" in node.attributeNames()]
    values = [getattr(part, name, None) for part in module.modules() for name in names]
    return values + [node.t("value") for node in constants if node.kindOf("value") == "t"]
