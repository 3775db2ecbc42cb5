"""Answers over HTTP: JSON, with binary tensors after it where they were asked for; and the best classes of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np

from deepseek.plugin import InputError
from deepseek_serving.oip import datatypes
from deepseek_serving.oip.datatypes import PROTOCOL, Tensor
from deepseek_serving.oip.requests import Parameters, Question, Wish


class JsonTensor(msgspec.Struct, omit_defaults=True):
    """A tensor that goes out."""

    name: str
    datatype: str
    shape: Sequence[int]
    parameters: Parameters | None = None
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class JsonAnswer(msgspec.Struct, omit_defaults=True):
    """The JSON part of an answer."""

    model_name: str
    model_version: str
    outputs: list[JsonTensor]
    id: str = ""
    parameters: Parameters | None = None


#: What a tensor is written to when the client wants it in shared memory; takes region, offset, size.
Region = Callable[[str, int, int], memoryview]
#: An answer's JSON part, and the binary tensors that follow it.
Answer = tuple[bytes, list[memoryview | bytes]]
_encode = msgspec.json.Encoder().encode


def named(tensor: Any, wish: Wish | None, labels: Sequence[str]) -> tuple[Tensor, str]:
    """An output as it goes out, with the protocol's name of its element type. Raises InputError."""
    array = tensor if type(tensor) is np.ndarray else np.asarray(tensor)
    if wish is not None and wish.classes:
        array = best(array, wish.classes, labels)
    return array, _datatype(array.dtype)


@cache
def _datatype(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "OSU":
        return "BYTES"
    if dtype.name not in PROTOCOL:
        raise InputError(f"the protocol has no datatype for {dtype.name}", hint="convert it in the model")
    return PROTOCOL[dtype.name]


def chosen(outputs: Mapping[str, Any], question: Question) -> list[tuple[str, Any, Wish | None]]:
    """The outputs that a request wants, in its order. Raises InputError for one that the model does not have."""
    if not question.wishes:
        return [(name, tensor, None) for name, tensor in outputs.items()]
    check_wishes(question, outputs)
    return [(wish.name, outputs[wish.name], wish) for wish in question.wishes]


def check_wishes(question: Question, outputs: Collection[str]) -> None:
    """Raises InputError for an output that is named twice, or that the model, if it is known, does not have."""
    if len({wish.name for wish in question.wishes}) != len(question.wishes):
        raise InputError("an output is asked for twice")
    for wish in question.wishes:
        if outputs and wish.name not in outputs:
            hint = f"its outputs are: {', '.join(sorted(outputs))}"
            raise InputError(f"the model has no output `{wish.name}`", hint=hint)


def best(scores: Tensor, count: int, labels: Sequence[str]) -> Tensor:
    """The `count` highest scores of each row as texts ``value:index[:label]``, descending.

    Args:
        scores: numbers, ``[batch, classes]`` or ``[classes]``.
        count: how many.
        labels: names of the classes, by index; empty: none.

    Returns:
        BYTES ``[batch, count]`` or ``[count]``.

    Source: the protocol's extension "classification".
    """
    if scores.dtype.kind not in "fiu" or scores.ndim == 0:
        raise InputError("classification is for tensors of numbers")
    rows = scores.reshape(-1, scores.shape[-1]) if scores.ndim > 1 else scores[None]
    order = np.argsort(-rows.astype(np.float64), axis=-1, kind="stable")[:, :count]
    texts = [_class(row, int(index), labels) for row, indices in zip(rows, order, strict=True) for index in indices]
    return datatypes.objects(texts, (*scores.shape[:-1], order.shape[1]))


def _class(row: Tensor, index: int, labels: Sequence[str]) -> str:
    value = f"{row[index]:f}" if row.dtype.kind == "f" else str(row[index])
    return f"{value}:{index}:{labels[index]}" if index < len(labels) else f"{value}:{index}"


class Frame:
    """What is the same in all answers of a model, written once.

    Args:
        name, version: the model's.
    """

    def __init__(self, name: str, version: str) -> None:
        self._name, self._version = name, version
        # `{"model_name":"...","model_version":"...","outputs":[`
        self._open = _encode(JsonAnswer(name, version, [])).removesuffix(b"]}")
        self._tensors: dict[tuple[str, np.dtype[Any], tuple[int, ...]], bytes] = {}
        self._tops: dict[Any, bytes] = {}

    def whole(self, tensors: list[JsonTensor], name: str) -> bytes:
        """An answer from its parts."""
        return _encode(JsonAnswer(self._name, self._version, tensors, name))

    def answer(self, question: Question, outputs: Mapping[str, Any]) -> Answer | None:
        """An answer as most are: all tensors as numbers, in JSON or in binary form; None where one is not so."""
        if question.id:
            return None
        if question.wishes or question.binary:
            return self._binary(question, outputs)
        parts = [self._open]
        for name, array in outputs.items():
            if type(array) is not np.ndarray:
                return None
            top = self._tensors.get((name, array.dtype, array.shape))
            if top is None:
                if array.dtype not in PLAIN:
                    return None
                top = self._top(name, array)
            parts += (top, _encode(array.ravel().tolist()), b"},")
        parts[-1] = b"}]}"
        return (b"".join(parts), []) if outputs else None

    def _top(self, name: str, array: Tensor) -> bytes:
        """What stands before a tensor's numbers."""
        if len(self._tensors) > _SHAPES:
            self._tensors.clear()
        made = _encode(JsonTensor(name, _datatype(array.dtype), array.shape)).removesuffix(b"}") + b',"data":'
        self._tensors[name, array.dtype, array.shape] = made
        return made

    def _binary(self, question: Question, outputs: Mapping[str, Any]) -> Answer | None:
        wishes = question.wishes
        if wishes:
            for wish in wishes:
                if not wish.binary or wish.classes or wish.region is not None or wish.name not in outputs:
                    return None
            named_ = [(wish.name, outputs[wish.name]) for wish in wishes]
        else:
            named_ = list(outputs.items())
        parts: list[memoryview | bytes] = []
        key: list[Any] = []
        for name, array in named_:
            if type(array) is not np.ndarray or array.dtype not in PLAIN:
                return None
            key.append((name, array.dtype, array.shape))
            # Small ones without a call more.
            parts.append(array.tobytes() if array.nbytes < datatypes.SMALL else datatypes.to_bytes(array, ""))
        known = tuple(key)
        top = self._tops.get(known)
        if top is None:
            if len(self._tops) > _SHAPES:
                self._tops.clear()
            tensors = [
                JsonTensor(name, _datatype(dtype), shape, {"binary_data_size": len(part)})
                for (name, dtype, shape), part in zip(known, parts, strict=True)
            ]
            top = self._tops[known] = self.whole(tensors, "")
        return top, parts


#: Element types whose values JSON has as they are, and how many shapes of tensors a frame knows.
PLAIN = frozenset(np.dtype(name) for name in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"))
_SHAPES = 1024


def render(
    frame: Frame, question: Question, outputs: Mapping[str, Any], labels: Mapping[str, Sequence[str]],
    region: Callable[[str], Region | None],
) -> Answer:  # fmt: skip
    """Any answer.

    Args:
        frame: the model's.
        question: what was asked.
        outputs: what the model gave.
        labels: names of the classes, by output.
        region: gives what gives bytes of a tenant's shared memory.

    Raises:
        InputError: an output that the model does not have, or that can't travel as asked.
    """
    tensors: list[JsonTensor] = []
    parts: list[memoryview | bytes] = []
    for output, value, wish in chosen(outputs, question):
        array, datatype = named(value, wish, labels.get(output, ()))
        binary = question.binary if wish is None else wish.binary
        if wish is not None and wish.region is not None:
            place = write(output, array, datatype, wish, region(question.options.tenant))
            tensors.append(JsonTensor(output, datatype, array.shape, place))
        elif binary or datatype in ("FP16", "BF16"):
            raw = datatypes.to_bytes(array, datatype)
            parts.append(raw)
            tensors.append(JsonTensor(output, datatype, array.shape, {"binary_data_size": len(raw)}))
        else:
            tensors.append(JsonTensor(output, datatype, array.shape, None, datatypes.to_list(array, datatype)))
    return frame.whole(tensors, question.id), parts


def write(output: str, array: Tensor, datatype: str, wish: Wish, region: Region | None) -> Parameters:
    """Put a tensor into shared memory; the parameters that say where it is."""
    if region is None or wish.region is None:
        raise InputError("shared memory is not allowed on this server", hint="take the tensor itself")
    raw = datatypes.to_bytes(array, datatype)
    target = region(*wish.region)
    if len(raw) > len(target):
        raise InputError(f"the output `{output}` has {len(raw)} bytes, its shared memory {len(target)}")
    target[: len(raw)] = raw
    name, offset, _ = wish.region
    return {"shared_memory_region": name, "shared_memory_offset": offset, "shared_memory_byte_size": len(raw)}
