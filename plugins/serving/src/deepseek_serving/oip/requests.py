"""Inference requests over HTTP: the JSON part, and the tensors that follow it in binary form.

Source: Open Inference Protocol v2, "Inference", with the extensions binary tensor data, classification, sequence,
schedule policy and shared memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from deepseek.plugin import NO_OPTIONS, InputError, Options
from deepseek_serving.oip import datatypes
from deepseek_serving.oip.datatypes import Tensor
from deepseek_serving.oip.nesting import check_depth, uncollected

Parameter = str | bool | int | float
Parameters = dict[str, Parameter]
#: A shared-memory region's name, offset and size to its bytes.
Region = Callable[[str, int, int], memoryview]


class JsonInput(msgspec.Struct):
    """A tensor that comes in."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: Any = msgspec.UNSET


class JsonOutput(msgspec.Struct):
    """A tensor that is asked for."""

    name: str
    parameters: Parameters | None = None


class JsonRequest(msgspec.Struct):
    """The JSON part of an inference request."""

    inputs: list[JsonInput]
    id: str = ""
    parameters: Parameters | None = None
    outputs: list[JsonOutput] | None = None


class Wish(msgspec.Struct, frozen=True):
    """An output as the client wants it.

    Attributes:
        name: the output's.
        binary: in binary form.
        classes: as the N most likely classes; 0: the tensor itself.
        region: into a shared-memory region: its name, offset and size.
    """

    name: str
    binary: bool = False
    classes: int = 0
    region: tuple[str, int, int] | None = None


class Question(msgspec.Struct):
    """An inference request, whatever it came in.

    Attributes:
        inputs: the tensors.
        id: the client's name for it, given back.
        options: deadline, priority, tenant and parameters.
        wishes: the outputs that are wanted; empty: all, as `binary` says.
        binary: whether outputs without a wish are wanted in binary form.
        sequence: the sequence that it belongs to; 0 or "": none.
    """

    inputs: dict[str, Tensor]
    id: str = ""
    options: Options = NO_OPTIONS
    wishes: tuple[Wish, ...] = ()
    binary: bool = False
    sequence: int | str = 0


#: Inputs, or outputs, of one request.
MOST = 1024
#: Parameters of the reserved kind that clients may send. (The last chunk of a stream says that it is the last.)
_OPEN = ("triton_enable_empty_final_response",)
_decode = msgspec.json.Decoder(JsonRequest).decode


def parse(body: memoryview, header: int | None, *, keep: bool, tenant: str = "", region: Region | None = None,
          deadline: float | None = None) -> Question:  # fmt: skip
    """An inference request from its body.

    Args:
        body: JSON, then the binary tensors.
        header: how many bytes are JSON (`Inference-Header-Content-Length`); None: all.
        keep: whether the body's memory may be used as the tensors'.
        tenant: who asks.
        region: gives the bytes of shared-memory regions; None: there are none.
        deadline: `time.monotonic()` seconds; an earlier one may stand in the request's own `timeout`.

    Raises:
        InputError: the request is not as the protocol has it.
    """
    with uncollected(len(body) if header is None else header):
        return _parse(body, header, keep, tenant, region, deadline)


def _parse(
    body: memoryview, header: int | None, keep: bool, tenant: str, region: Region | None, deadline: float | None
) -> Question:
    if header is not None and not 0 < header <= len(body):
        raise InputError(f"Inference-Header-Content-Length is {header}, the body has {len(body)} bytes")
    request = decode(body if header is None else body[:header])
    binary = memoryview(b"") if header is None else body[header:]
    inputs: dict[str, Tensor] = {}
    position = 0
    for tensor in request.inputs:
        if tensor.name in inputs:
            raise InputError(f"the input `{tensor.name}` is given twice")
        if tensor.parameters is None:
            inputs[tensor.name] = _from_json(tensor)
        else:
            inputs[tensor.name], size = _from_elsewhere(tensor, tensor.parameters, binary[position:], region, keep=keep)
            position += size
    if position != len(binary):
        raise InputError(f"{len(binary) - position} bytes follow the last binary tensor")
    if request.parameters is None and request.outputs is None:
        options = Options(deadline, 0, tenant) if tenant or deadline is not None else NO_OPTIONS
        return Question(inputs, request.id, options)
    return _with_parameters(request, inputs, tenant, deadline)


def decode(raw: memoryview | bytes) -> JsonRequest:
    """The JSON part. Raises InputError."""
    check_depth(raw)
    try:
        request = _decode(raw)
    except msgspec.ValidationError as exc:
        raise InputError(f"the request is not as the protocol has it: {exc}") from exc
    # Lists that are begun and not ended end in the last of the three.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InputError(f"the request is not JSON: {exc}") from exc
    if max(len(request.inputs), len(request.outputs or ())) > MOST:
        raise InputError(f"the request has more than {MOST} inputs or outputs")
    return request


def _with_parameters(request: JsonRequest, inputs: dict[str, Tensor], tenant: str, deadline: float | None) -> Question:
    given = request.parameters or {}
    binary = given.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InputError("`binary_data_output` is true or false")
    wishes = tuple(wish(output.name, output.parameters or {}, binary) for output in request.outputs or ())
    options, sequence = ask(given, tenant, deadline)
    return Question(inputs, request.id, options, wishes, binary, sequence)


def ask(given: Mapping[str, Any], tenant: str, deadline: float | None) -> tuple[Options, int | str]:
    """What the parameters of a request say beside its tensors: its options, and its sequence.

    Raises:
        InputError: a reserved name, or a value of the wrong kind.
    """
    others = dict(given)
    others.pop("binary_data_output", None)
    priority = _whole("priority", others.pop("priority", 0))
    timeout = _whole("timeout", others.pop("timeout", 0))
    sequence = others.get("sequence_id", 0)
    for name in others:
        if name.startswith("triton_") and name not in _OPEN:
            raise InputError(f"the parameter `{name}` is reserved")
    for name in ("sequence_start", "sequence_end"):
        if not isinstance(others.get(name, False), bool):
            raise InputError(f"the parameter `{name}` is true or false")
    if isinstance(sequence, bool) or not isinstance(sequence, int | str):
        raise InputError("the parameter `sequence_id` is a number or a text")
    if timeout:
        soonest = time.monotonic() + timeout / 1e6
        deadline = soonest if deadline is None else min(deadline, soonest)
    return Options(deadline, priority, tenant, others), sequence


def _whole(name: str, value: object) -> int:
    # Triton's clients give unsigned numbers as texts where they are large.
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise InputError(f"the parameter `{name}` is a whole number, 0 or more (got {value!r:.40})")
    return value


def wish(name: str, own: Mapping[str, Any], binary: bool) -> Wish:
    """An output as its parameters ask for it. Raises InputError."""
    wanted = own.get("binary_data", binary)
    if not isinstance(wanted, bool):
        raise InputError(f"`binary_data` of the output `{name}` is true or false")
    classes = _whole("classification", own.get("classification", 0))
    return Wish(name, wanted, classes, _place(name, own) if "shared_memory_region" in own else None)


def _place(name: str, own: Mapping[str, Any]) -> tuple[str, int, int]:
    region = own["shared_memory_region"]
    if not isinstance(region, str):
        raise InputError(f"`shared_memory_region` of `{name}` is a text")
    offset = _whole("shared_memory_offset", own.get("shared_memory_offset", 0))
    return region, offset, _whole("shared_memory_byte_size", own.get("shared_memory_byte_size", 0))


def shared(name: str, own: Mapping[str, Any], region: Region | None) -> memoryview:
    """The bytes of an input in shared memory. Raises InputError."""
    if region is None:
        raise InputError("shared memory is not allowed on this server", hint="send the tensor itself")
    return region(*_place(name, own))


def _from_json(tensor: JsonInput) -> Tensor:
    if tensor.data is msgspec.UNSET:
        raise InputError(f"the input `{tensor.name}` has no data")
    return datatypes.from_list(tensor.name, tensor.datatype, tensor.shape, tensor.data)


def _from_elsewhere(
    tensor: JsonInput, own: Parameters, binary: memoryview, region: Region | None, *, keep: bool
) -> tuple[Tensor, int]:
    """A tensor that may lie behind the JSON part or in shared memory, and how many bytes of `binary` are its own."""
    name, size = tensor.name, own.get("binary_data_size")
    if size is not None:
        if tensor.data is not msgspec.UNSET:
            raise InputError(f"the input `{name}` has both data and binary data")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InputError(f"`binary_data_size` of the input `{name}` is a number of bytes")
        if size > len(binary):
            raise InputError(f"the input `{name}` claims {size} bytes, {len(binary)} came")
        raw = binary[:size]
    elif "shared_memory_region" in own:
        raw, size = shared(name, own, region), 0
    else:
        return _from_json(tensor), 0
    return datatypes.from_bytes(name, tensor.datatype, tensor.shape, raw, keep=keep), size
