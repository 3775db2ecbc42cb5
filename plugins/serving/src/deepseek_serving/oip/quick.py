"""Requests as most are: JSON alone, numbers alone, no parameters. Read with the model's types in mind, in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from deepseek.plugin import Signature
from deepseek_serving.oip.datatypes import NUMPY, PROTOCOL
from deepseek_serving.oip.requests import Question

#: The largest number that FP32 holds.
_FP32 = float(np.finfo(np.float32).max)
_Size = Annotated[int, Meta(ge=0)]
_Single = Annotated[float, Meta(ge=-_FP32, le=_FP32)]

T = TypeVar("T")
Reader = Callable[["bytes | memoryview"], Question | None]


class QuickInput(msgspec.Struct, Generic[T], forbid_unknown_fields=True):
    """A tensor of numbers."""

    name: str
    shape: list[_Size]
    datatype: str
    data: list[T]


class QuickRequest(msgspec.Struct, Generic[T], forbid_unknown_fields=True):
    """A request of such tensors."""

    inputs: list[QuickInput[T]]
    id: str = ""


def reader(signature: Signature) -> Reader:
    """A function that reads a model's requests; it gives None for those that need the slower, exact one.

    Whatever is wrong or unusual is left to that one, which also says what it is.
    """
    datatypes = {spec.name: PROTOCOL.get(spec.dtype, "") for spec in signature.inputs}
    kinds = set(datatypes.values())
    kind: Any
    if kinds == {"FP64"}:
        kind = QuickRequest[float]
    elif kinds and kinds <= {"FP32", "FP64"}:
        kind = QuickRequest[_Single]
    elif kinds and all(kind.startswith(("INT", "UINT")) for kind in kinds):
        kind = QuickRequest[int]
    else:
        return lambda body: None
    decode, array = msgspec.json.Decoder(kind).decode, np.array
    dtypes = {(name, datatype): np.dtype(NUMPY[datatype]) for name, datatype in datatypes.items()}

    def read(body: bytes | memoryview) -> Question | None:
        try:
            request = decode(body)
            tensors = {}
            for tensor in request.inputs:
                name = tensor.name
                tensors[name] = array(tensor.data, dtypes[name, tensor.datatype]).reshape(tensor.shape)
        # Not JSON, not of these types, an unknown name or another datatype, out of range, of another size.
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, ValueError, OverflowError):
            return None
        return Question(tensors, request.id) if len(tensors) == len(request.inputs) else None

    return read
