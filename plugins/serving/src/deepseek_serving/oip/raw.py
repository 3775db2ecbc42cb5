"""Requests that are nothing but one tensor's bytes.

Source: the protocol's extension "binary tensor data", "raw binary request".
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek.plugin import ANY, InputError, Options, Signature
from deepseek_serving.oip import datatypes
from deepseek_serving.oip.requests import Question


def parse_raw(body: memoryview, signature: Signature, *, keep: bool, tenant: str = "",
              deadline: float | None = None) -> Question:  # fmt: skip
    """A request whose body is the one tensor itself (`Inference-Header-Content-Length: 0`); the answer is binary.

    Raises:
        InputError: the model has several inputs, or more than one dimension is open.
    """
    if len(signature.inputs) != 1:
        raise InputError("a raw body is for models with one input", hint="send the tensors with a JSON part")
    [spec] = signature.inputs
    datatype = datatypes.protocol_name(spec)
    shape = raw_shape(spec.name, datatype, spec.shape, body)
    inputs = {spec.name: datatypes.from_bytes(spec.name, datatype, shape, body, keep=keep)}
    return Question(inputs, options=Options(deadline, 0, tenant), binary=True)


def raw_shape(name: str, datatype: str, shape: Sequence[int] | None, body: memoryview) -> list[int]:
    """The shape of a tensor of which only the bytes came. Raises InputError."""
    if datatype == "BYTES":
        # One element, the body as it is counted by its own length.
        return [1] * len(shape or (1,))
    open_ = [axis for axis, size in enumerate(shape or ()) if size == ANY]
    if shape is None or len(open_) > 1:
        raise InputError(f"the input `{name}` has more than one open dimension", hint="send it with a JSON part")
    sizes = [1 if size == ANY else size for size in shape]
    row = datatypes.elements(name, sizes) * datatypes.dtype_of(datatype).itemsize
    if open_:
        if row == 0 or len(body) % row:
            raise InputError(f"the input `{name}`: {len(body)} bytes are no whole number of rows of {row} bytes")
        sizes[open_[0]] = len(body) // row
    return sizes
