"""The protocol's element types, and tensors as bytes.

Source: Open Inference Protocol v2, "Tensor Data Types", and its extension "binary tensor data": row-major,
little-endian, BOOL as one byte, BYTES as a uint32 length before each element.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from deepseek.plugin import InputError, TensorSpec
from deepseek_serving.oip.nesting import DEPTH

Tensor = np.ndarray[Any, Any]

#: The protocol's name -> NumPy's. BYTES has no size of its own.
NUMPY = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BF16": "bfloat16", "BYTES": "str",
}  # fmt: skip
PROTOCOL = {name: datatype for datatype, name in NUMPY.items()}
#: More elements than any machine has memory for: where a product of dimensions stops to make sense.
_MOST = 1 << 48
#: Dimensions of a tensor, and lists within lists.
_RANK, _DEPTH = 32, DEPTH
_LENGTH = struct.Struct("<I")
#: Tensors of fewer bytes are copied sooner than they are looked at.
SMALL = 16 << 10


def protocol_name(spec: TensorSpec) -> str:
    """The protocol's name of a tensor's element type; BYTES where the model does not say."""
    return PROTOCOL.get(spec.dtype, "BYTES")


@cache
def dtype_of(datatype: str) -> np.dtype[Any]:
    """The NumPy dtype of one of the protocol's element types. Raises InputError."""
    name = NUMPY.get(datatype)
    if name is None:
        raise InputError(f"there is no datatype `{datatype}`", hint=f"known: {', '.join(NUMPY)}")
    if name == "str":
        return np.dtype(object)
    if name == "bfloat16":
        # NumPy has none of its own.
        try:
            import ml_dtypes
        except ImportError as exc:
            raise InputError("BF16 needs the library ml_dtypes", hint="pip install ml_dtypes, or send FP32") from exc
        found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return found
    dtype: np.dtype[Any] = np.dtype(name).newbyteorder("<")
    return dtype


def elements(name: str, shape: Sequence[int]) -> int:
    """How many elements a shape holds. Raises InputError for what is no shape of a tensor that could be."""
    count = whole = 1
    for size in shape:
        if size < 0:
            raise InputError(f"the input `{name}` has a negative dimension: {list(shape)}", hint="send actual sizes")
        count *= size
        whole *= size or 1
        if whole > _MOST:
            raise InputError(f"the input `{name}` claims too many elements: {str(list(shape))[:80]}")
    if len(shape) > _RANK:
        raise InputError(f"the input `{name}` has {len(shape)} dimensions, more than {_RANK}")
    return count


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: memoryview, *, keep: bool) -> Tensor:
    """A tensor from its binary form.

    Args:
        name: the tensor's, for errors.
        datatype: the protocol's element type.
        shape: its sizes.
        raw: exactly its bytes.
        keep: use the memory itself where its alignment allows; else copy it.

    Raises:
        InputError: the bytes are not as many as the shape needs, or texts are cut short.
    """
    if datatype == "BYTES":
        return _texts(name, shape, raw)
    dtype, count = dtype_of(datatype), elements(name, shape)
    if len(raw) != count * dtype.itemsize:
        needs = f"{datatype}{list(shape)} needs {count * dtype.itemsize} bytes, {len(raw)} came"
        raise InputError(f"the input `{name}`: {needs}")
    array = np.frombuffer(raw, dtype)
    if datatype == "BOOL":
        # Any byte but 0 is true; NumPy's own bools are 0 and 1 alone.
        array = array.view(np.uint8) != 0
    elif not (keep and array.flags.aligned):
        array = array.copy()
    return array.reshape(shape)


def _texts(name: str, shape: Sequence[int], raw: memoryview) -> Tensor:
    count = elements(name, shape)
    texts: list[bytes] = []
    position, end = 0, len(raw)
    while position < end:
        start = position + 4
        length = _LENGTH.unpack_from(raw, position)[0] if start <= end else end
        if start + length > end:
            raise InputError(f"the input `{name}`: its BYTES end in the middle of element {len(texts)}")
        texts.append(bytes(raw[start : start + length]))
        position = start + length
    if len(texts) != count:
        raise InputError(f"the input `{name}`: BYTES{list(shape)} needs {count} elements, {len(texts)} came")
    return objects(texts, shape)


def objects(items: Sequence[object], shape: Sequence[int]) -> Tensor:
    """An array of Python objects, which NumPy must not look into."""
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


def to_bytes(array: Tensor, datatype: str) -> memoryview | bytes:
    """The binary form of a tensor; of a large one that lies in row-major order already, without a copy."""
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in map(as_bytes, array.ravel().tolist()))
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.nbytes < SMALL:
        return array.tobytes()
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1).data


def as_bytes(text: object) -> bytes:
    """An element of a BYTES tensor."""
    return text if isinstance(text, bytes) else str(text).encode()


def from_list(name: str, datatype: str, shape: Sequence[int], data: object) -> Tensor:
    """A tensor from JSON: nested or flat lists, row-major.

    Raises:
        InputError: ragged lists, values of another kind than the datatype's, out of its range, or not as many
            as the shape needs.
    """
    if datatype in ("FP16", "BF16"):
        raise InputError(f"the input `{name}`: {datatype} travels in binary form only", hint="send it so, or as FP32")
    if not isinstance(data, list):
        raise InputError(f"the input `{name}`: its data must be a list, not a {type(data).__name__}")
    count = elements(name, shape)
    items = _flat(name, data, count)
    if len(items) != count:
        raise InputError(f"the input `{name}`: {datatype}{list(shape)} needs {count} elements, {len(items)} came")
    kinds = set(map(type, items))
    if datatype == "BYTES":
        if kinds - {str}:
            raise InputError(f"the input `{name}`: BYTES are given as texts", hint='write "data": ["text", ...]')
        return objects(items, shape)
    return _numbers(name, datatype, items, kinds).reshape(shape)


def _numbers(name: str, datatype: str, items: list[Any], kinds: set[type]) -> Tensor:
    dtype = dtype_of(datatype)
    allowed, words = _GIVEN[dtype.kind]
    if kinds - allowed:
        odd = next(item for item in items if type(item) not in allowed)
        raise InputError(f"the input `{name}`: {datatype} is given as {words} (got {odd!r:.40})")
    try:
        with np.errstate(over="raise"):
            return np.array(items, dtype)
    except (OverflowError, FloatingPointError) as exc:
        raise InputError(f"the input `{name}`: a value is out of {datatype}'s range") from exc


#: How JSON gives the kinds of elements.
_GIVEN: dict[str, tuple[set[type], str]] = {
    "b": ({bool}, "true and false"), "f": ({int, float}, "numbers"), "i": ({int}, "whole numbers"),
    "u": ({int}, "whole numbers"),
}  # fmt: skip


def _flat(name: str, data: list[Any], count: int) -> list[Any]:
    """All leaves of nested lists, in order. Raises InputError, before it goes on where there are more than `count`."""
    for _ in range(_DEPTH):
        kinds = set(map(type, data))
        if list not in kinds:
            return data
        if kinds != {list} or len(set(map(len, data))) > 1:
            raise InputError(f"the input `{name}`: its data is no tensor: lists of different lengths")
        if len(data) > max(1, count):
            raise InputError(f"the input `{name}`: its data are {len(data)} lists, where {count} elements are needed")
        data = list(chain.from_iterable(data))
    raise InputError(f"the input `{name}`: its data is nested more than {_DEPTH} deep")


def to_list(array: Tensor, datatype: str) -> list[Any]:
    """A tensor's elements for JSON, flat, row-major; what is not finite becomes null."""
    flat = array.ravel()
    if datatype == "BYTES":
        return [as_bytes(text).decode("utf-8", "replace") for text in flat.tolist()]
    return flat.tolist()
