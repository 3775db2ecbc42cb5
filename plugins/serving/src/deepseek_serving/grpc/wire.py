"""Inference messages at the level of their bytes: tensors are found and placed without a copy through objects.

A `ModelInferRequest` as clients write it ends with its raw tensors, and what comes before them is the same from one
request to the next. Source: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deepseek_serving.grpc.schema import ModelInferResponse
from deepseek_serving.oip import answers, datatypes
from deepseek_serving.oip.requests import Question

#: Tags of the fields that are looked at: a field's number, and "length-delimited".
_NAME, _VERSION, _RAW_INPUT = 0x0A, 0x12, 0x3A
_ID, _RAW_OUTPUT = b"\x1a", b"\x32"
#: Beginnings of messages that are kept, and bytes of the longest.
_MOST, _LONGEST = 1024, 4096

Piece = bytes | memoryview


def varint(data: Piece, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises IndexError for one that is cut short, ValueError for one that is too long."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 35:
            raise ValueError("a length of more than five bytes")


def to_varint(value: int) -> bytes:
    """A number as it is written."""
    if value < 128:
        return bytes((value,))
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def opening(message: Piece) -> tuple[str, str, int] | None:
    """The model's name and version in a request, and where its only raw tensor begins.

    None where the request is not of that kind, or is broken: then the exact reader has to look.
    """
    try:
        if message[0] != _NAME:
            return None
        length, at = varint(message, 1)
        end = at + length
        name, version = str(message[at:end], "utf-8"), ""
        at = end
        while message[at] != _RAW_INPUT:
            tag = message[at]
            if tag & 7 != 2 or tag > 127 or tag == _NAME:
                return None
            length, at = varint(message, at + 1)
            if tag == _VERSION:
                version = str(message[at : at + length], "utf-8")
            at += length
        length, at = varint(message, at + 1)
    except (IndexError, ValueError):
        return None
    return (name, version, at) if at + length == len(message) else None


class Openings:
    """Openings of messages, found once for those that begin alike."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, str, int]] = {}
        #: Bytes of a message -> where the raw tensor of the last of that size began.
        self._begins: dict[int, int] = {}

    def find(self, message: Piece) -> tuple[str, str, int] | None:
        """As `opening`; for a message that was cut short, perhaps as if it were whole."""
        begin = self._begins.get(len(message))
        if begin is not None:
            known = self._known.get(bytes(message[:begin]))
            if known is not None:
                return known
        found = opening(message)
        if found is not None and found[2] <= _LONGEST:
            if len(self._known) >= _MOST:
                self._known.clear()
                self._begins.clear()
            self._known[bytes(message[: found[2]])] = found
            self._begins[len(message)] = found[2]
        return found


class Frames:
    """Beginnings of answers - all but their tensors - written once for each model and its tensors' shapes."""

    def __init__(self) -> None:
        self._known: dict[Any, list[bytes]] = {}

    def answer(self, name: str, version: str, question: Question, outputs: Mapping[str, Any]) -> list[Piece] | None:
        """A `ModelInferResponse` in parts; None where an output has to be looked at (classes, texts, memory)."""
        wishes = question.wishes
        if wishes:
            for wish in wishes:
                if wish.classes or wish.region is not None or wish.name not in outputs:
                    return None
            outputs = {wish.name: outputs[wish.name] for wish in wishes}
        key: list[Any] = [name, version]
        for output, array in outputs.items():
            if type(array) is not np.ndarray:
                return None
            key += (output, array.dtype, array.shape)
        known = tuple(key)
        begins = self._known.get(known)
        if begins is None:
            if not all(array.dtype in answers.PLAIN for array in outputs.values()):
                return None
            begins = self._begin(known, outputs)
        parts: list[Piece] = []
        if question.id:
            text = question.id.encode()
            parts.append(_ID + to_varint(len(text)) + text)
        for begin, array in zip(begins, outputs.values(), strict=True):
            parts += (begin, datatypes.to_bytes(array, ""))
        return parts

    def _begin(self, known: tuple[Any, ...], outputs: Mapping[str, Any]) -> list[bytes]:
        """What stands before each tensor: the rest of the message before the first, and the tensor's length."""
        if len(self._known) >= _MOST:
            self._known.clear()
        message = ModelInferResponse(model_name=known[0], model_version=known[1])
        for output, array in outputs.items():
            message.outputs.add(name=output, datatype=datatypes.PROTOCOL[array.dtype.name], shape=array.shape)
        begins = [_RAW_OUTPUT + to_varint(array.nbytes) for array in outputs.values()]
        if begins:
            begins[0] = message.SerializeToString() + begins[0]
        self._known[known] = begins
        return begins
