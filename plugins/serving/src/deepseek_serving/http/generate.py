"""The protocol's extension "generate": plain JSON in and out, at once or as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import numpy as np

from deepseek.plugin import InputError, TensorSpec
from deepseek_serving.errors import text
from deepseek_serving.oip import datatypes, requests
from deepseek_serving.oip.requests import Question
from deepseek_serving.served import Served


def question(served: Served, body: Mapping[str, Any], tenant: str, deadline: float | None) -> Question:
    """A request of plain values: those named as the model's inputs are tensors, `parameters` the rest.

    Raises:
        InputError: a value that is no input of the model, or can't be one.
    """
    rest = dict(body)
    name, parameters = rest.pop("id", ""), rest.pop("parameters", {})
    if not isinstance(name, str) or not isinstance(parameters, Mapping):
        raise InputError("`id` is a text, and `parameters` an object")
    options, sequence = requests.ask(parameters, tenant, deadline)
    specs = {spec.name: spec for spec in served.signature.inputs}
    for key in rest:
        if key not in specs:
            raise InputError(f"the model has no input `{key}`", hint=f"its inputs are: {', '.join(specs)}")
    return Question(
        {key: _tensor(specs[key], value) for key, value in rest.items()}, name, options, (), False, sequence
    )


def _tensor(spec: TensorSpec, value: object) -> np.ndarray[Any, Any]:
    """A value, or a list of them, with as many dimensions as the model's input has."""
    values = value if isinstance(value, list) else [value]
    datatype = datatypes.protocol_name(spec)
    shape = [len(values)]
    while values and isinstance(values[0], list):
        values = values[0]
        shape.append(len(values))
    rank = len(shape) if spec.shape is None else len(spec.shape)
    shape = [*[1] * (rank - len(shape)), *shape]
    return datatypes.from_list(spec.name, datatype, shape, value if isinstance(value, list) else [value])


def answer(served: Served, asked: Question, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as plain values: one element as itself, several as a list."""
    plain: dict[str, Any] = {"model_name": served.name, "model_version": served.version}
    if asked.id:
        plain["id"] = asked.id
    for name, tensor in outputs.items():
        array = np.asarray(tensor)
        items = datatypes.to_list(array, "BYTES" if array.dtype.kind in "OSU" else "")
        plain[name] = items[0] if array.size == 1 else items
    return plain


async def events(
    served: Served, asked: Question, chunks: AsyncIterator[Mapping[str, Any]]
) -> AsyncIterator[bytes]:  # fmt: skip
    """Chunks as server-sent events; an error is the last."""
    try:
        async for chunk in chunks:
            yield event(answer(served, asked, chunk))
    # The head is sent: nothing else can tell of it.
    except Exception as error:
        yield event({"error": text(error)})


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event. Source: the HTML standard, "server-sent events"."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
