"""Inference over gRPC: messages to questions, and outputs to messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deepseek.plugin import InputError
from deepseek_serving.grpc.schema import ModelInferResponse
from deepseek_serving.oip import answers, datatypes, requests
from deepseek_serving.oip.datatypes import Tensor
from deepseek_serving.oip.requests import Question, Wish
from deepseek_serving.served import Served

#: The field of `InferTensorContents` that holds a datatype. FP16 and BF16 have none.
_FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
Region = Callable[[str, int, int], memoryview]


def question(request: Any, tenant: str, deadline: float | None, region: Region | None) -> Question:
    """A `ModelInferRequest` as a question. Raises InputError."""
    inputs: dict[str, Tensor] = {}
    raw: Sequence[bytes] = request.raw_input_contents
    elsewhere = 0
    if max(len(request.inputs), len(request.outputs)) > requests.MOST:
        raise InputError(f"the request has more than {requests.MOST} inputs or outputs")
    for position, tensor in enumerate(request.inputs):
        name = tensor.name
        if name in inputs:
            raise InputError(f"the input `{name}` is given twice")
        own = _plain(tensor.parameters) if tensor.parameters else {}
        if "shared_memory_region" in own:
            elsewhere += 1
            memory = requests.shared(name, own, region)
            inputs[name] = datatypes.from_bytes(name, tensor.datatype, tensor.shape, memory, keep=True)
        elif raw:
            if tensor.HasField("contents"):
                raise InputError(f"the input `{name}` has contents, and the request raw contents", hint="give one")
            if position - elsewhere >= len(raw):
                raise InputError(f"{len(request.inputs)} inputs, but {len(raw)} raw contents")
            content = memoryview(raw[position - elsewhere])
            inputs[name] = datatypes.from_bytes(name, tensor.datatype, tensor.shape, content, keep=len(content) > 65536)
        else:
            inputs[name] = _typed(tensor)
    if len(raw) > len(request.inputs) - elsewhere:
        raise InputError(f"{len(request.inputs)} inputs, but {len(raw)} raw contents")
    options, sequence = requests.ask(_plain(request.parameters), tenant, deadline)
    wishes = tuple(requests.wish(item.name, _plain(item.parameters), binary=True) for item in request.outputs)
    return Question(inputs, request.id, options, wishes, True, sequence)


def _plain(parameters: Any) -> dict[str, Any]:
    """Parameters as plain values."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param") for name, value in parameters.items()
    }


def _typed(tensor: Any) -> Tensor:
    name, datatype, shape = tensor.name, tensor.datatype, tensor.shape
    count = datatypes.elements(name, shape)
    dtype = datatypes.dtype_of(datatype)
    field = _FIELDS.get(datatype)
    if field is None:
        raise InputError(f"the input `{name}`: {datatype} travels in raw_input_contents only")
    contents = tensor.contents
    for descriptor, _ in contents.ListFields():
        if descriptor.name != field:
            raise InputError(f"the input `{name}`: {datatype} belongs in {field}, not in {descriptor.name}")
    values = getattr(contents, field)
    if len(values) != count:
        raise InputError(f"the input `{name}`: {datatype}{list(shape)} needs {count} elements, {len(values)} came")
    if datatype == "BYTES":
        return datatypes.objects(list(values), shape)
    array = np.array(values)
    if array.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InputError(f"the input `{name}`: a value is out of {datatype}'s range")
    return array.astype(dtype).reshape(shape)


def answer(model: Served, asked: Question, outputs: Mapping[str, Any], region: Region | None) -> Any:
    """Outputs as a `ModelInferResponse`, its tensors raw. Raises InputError."""
    response = ModelInferResponse(model_name=model.name, model_version=model.version, id=asked.id)
    for name, value, wish in answers.chosen(outputs, asked):
        array, datatype = answers.named(value, wish, model.labels.get(name, ()))
        tensor = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if wish is not None and wish.region is not None:
            _place(tensor, array, wish, region)
        else:
            raw = datatypes.to_bytes(array, datatype)
            response.raw_output_contents.append(raw if isinstance(raw, bytes) else raw.tobytes())
    return response


def _place(tensor: Any, array: Tensor, wish: Wish, region: Region | None) -> None:
    for key, value in answers.write(tensor.name, array, tensor.datatype, wish, region).items():
        if isinstance(value, str):
            tensor.parameters[key].string_param = value
        else:
            tensor.parameters[key].int64_param = int(value)
