"""Binary requests whose JSON part has come before, byte for byte: clients that ask again with other numbers.

What follows from the JSON part - names, types, shapes, places, wishes - is found once.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from deepseek.plugin import Options
from deepseek_serving.oip import datatypes, requests
from deepseek_serving.oip.requests import Question, Wish

#: JSON parts that are kept of a model, and bytes of the longest.
_MOST, _LONGEST = 256, 4096


class Place(msgspec.Struct, frozen=True):
    """Where a tensor lies.

    Attributes:
        name, dtype, shape: of the tensor.
        count: its elements.
        offset: where it begins, in bytes of the whole body.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int
    offset: int


class Recipe(msgspec.Struct, frozen=True):
    """What a JSON part says.

    Attributes:
        size: bytes of the whole body.
        places: of the tensors.
        options, wishes, binary: as in Question.
    """

    size: int
    places: tuple[Place, ...]
    options: Options
    wishes: tuple[Wish, ...]
    binary: bool


class Recipes:
    """The JSON parts that a model has been asked with."""

    def __init__(self) -> None:
        self._known: dict[bytes, Recipe] = {}

    def read(self, body: bytes | memoryview, length: int, *, keep: bool) -> Question | None:
        """A request whose JSON part, the first `length` bytes, has come before; None: it has not."""
        recipe = self._known.get(bytes(body[:length]))
        if recipe is None or recipe.size != len(body):
            return None
        tensors = {}
        for place in recipe.places:
            array = np.frombuffer(body, place.dtype, place.count, place.offset)
            if not (keep and array.flags.aligned):
                array = array.copy()
            tensors[place.name] = array.reshape(place.shape)
        return Question(tensors, "", recipe.options, recipe.wishes, recipe.binary)

    def learn(self, body: bytes | memoryview, length: int, question: Question) -> None:
        """Keep what the JSON part of a request says, if it says nothing of that request alone."""
        options = question.options
        if question.id or question.sequence or options.deadline is not None or options.tenant or length > _LONGEST:
            return
        request = requests.decode(bytes(body[:length]))
        places, offset = [], length
        for tensor in request.inputs:
            size = (tensor.parameters or {}).get("binary_data_size")
            if type(size) is not int or tensor.datatype in ("BYTES", "BOOL"):
                return
            array = question.inputs[tensor.name]
            places.append(Place(tensor.name, datatypes.dtype_of(tensor.datatype), array.shape, array.size, offset))
            offset += size
        if len(self._known) >= _MOST:
            self._known.clear()
        made = Recipe(offset, tuple(places), options, question.wishes, question.binary)
        self._known[bytes(body[:length])] = made
