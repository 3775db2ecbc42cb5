"""The runs before a model is ready: what goes in, and how long one takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic

import numpy as np

import deepseek
from deepseek.plugin import ANY, InputError, Signature
from deepseek_serving.oip.datatypes import NUMPY, PROTOCOL, Tensor


def timed(pipeline: deepseek.Pipeline, inputs: Mapping[str, Tensor]) -> float:
    """Seconds of a run."""
    start = monotonic()
    pipeline.executor.run(inputs, ())
    return monotonic() - start


def zeros(signature: Signature, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Inputs that a model takes: zeros and empty texts, 1 where a size is open and not given. Raises InputError."""
    made: dict[str, Tensor] = {}
    for spec in signature.inputs:
        shape = shapes.get(spec.name)
        if shape is None:
            if spec.shape is None:
                raise InputError(f"the shape of `{spec.name}` is not known", hint="state it in `serving.warmup_shapes`")
            shape = [1 if size == ANY else size for size in spec.shape]
        if spec.dtype == "str":
            made[spec.name] = np.full(shape, "", object)
        elif spec.dtype in PROTOCOL:
            made[spec.name] = np.zeros(shape, NUMPY[PROTOCOL[spec.dtype]])
        else:
            raise InputError(f"`{spec.name}` is of the dtype `{spec.dtype}`, of which no zeros can be made")
    return made
