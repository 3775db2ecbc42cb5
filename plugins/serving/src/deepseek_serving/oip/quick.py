"""Requests as most are: JSON alone, numbers alone, no parameters. Read with the model's types in mind, in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from deepseek.plugin import Signature
from deepseek_serving.oip.datatypes import NUMPY, PROTOCOL
from deepseek_serving.oip.requests import Question

#: The largest number that FP32 holds.
_FP32 = float(np.finfo(np.float32).max)

Reader = Callable[["bytes | memoryview"], Question | None]


class FloatInput(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor of numbers."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class WholeInput(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor of whole numbers."""

    name: str
    shape: list[int]
    datatype: str
    data: list[int]


class FloatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request of the first."""

    inputs: list[FloatInput]
    id: str = ""


class WholeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request of the second."""

    inputs: list[WholeInput]
    id: str = ""


def reader(signature: Signature) -> Reader:
    """A function that reads a model's requests; it gives None for those that need the slower, exact one.

    Whatever is wrong or unusual is left to that one, which also says what it is.
    """
    datatypes = {spec.name: PROTOCOL.get(spec.dtype, "") for spec in signature.inputs}
    kinds = set(datatypes.values())
    if not kinds or not (kinds <= {"FP32", "FP64"} or all(kind.startswith(("INT", "UINT")) for kind in kinds)):
        return lambda body: None
    decode: Any = msgspec.json.Decoder(FloatRequest if kinds <= {"FP32", "FP64"} else WholeRequest).decode
    dtypes = {datatype: np.dtype(NUMPY[datatype]) for datatype in kinds}

    def read(body: bytes | memoryview) -> Question | None:
        try:
            request = decode(body)
            tensors = {}
            for tensor in request.inputs:
                data, shape, datatype = tensor.data, tensor.shape, tensor.datatype
                if datatype != datatypes[tensor.name] or (shape and min(shape) < 0):
                    return None
                if datatype == "FP32" and data and (max(data) > _FP32 or min(data) < -_FP32):
                    return None
                tensors[tensor.name] = np.array(data, dtypes[datatype]).reshape(shape)
        # Not JSON, not of these types, an unknown name, out of range, of another size.
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, ValueError, OverflowError):
            return None
        return Question(tensors, request.id) if len(tensors) == len(request.inputs) else None

    return read
