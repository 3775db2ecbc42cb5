"""Binary requests of which all but the tensors has come before, byte for byte: clients that ask again.

What follows from it - names, types, shapes, places, wishes - is found once.
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
        offset: where it begins, in bytes of the whole body.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
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

    def read(
        self, body: bytes | memoryview, length: int, *, keep: bool, tenant: str = "", deadline: float | None = None
    ) -> Question | None:
        """A request whose first `length` bytes, all but its tensors, have come before; None: they have not."""
        recipe = self._known.get(bytes(body[:length]))
        if recipe is None or recipe.size != len(body):
            return None
        tensors = {}
        for place in recipe.places:
            array: datatypes.Tensor = np.ndarray(place.shape, place.dtype, body, place.offset)
            tensors[place.name] = array if keep and array.flags.aligned else array.copy()
        options = recipe.options
        if tenant or deadline is not None:
            options = Options(deadline, options.priority, tenant, options.parameters)
        return Question(tensors, "", options, recipe.wishes, recipe.binary)

    def learn(self, body: bytes | memoryview, length: int, question: Question) -> None:
        """Keep what the JSON part of a request says, if it says nothing of that request alone."""
        if question.id or question.sequence or length > _LONGEST:
            return
        request = requests.decode(bytes(body[:length]))
        if "timeout" in (request.parameters or {}):
            return
        places, offset = [], length
        for tensor in request.inputs:
            size = (tensor.parameters or {}).get("binary_data_size")
            if type(size) is not int or tensor.datatype in ("BYTES", "BOOL"):
                return
            places.append(_place(tensor.name, question.inputs[tensor.name], offset))
            offset += size
        self._keep(bytes(body[:length]), offset, tuple(places), question)

    def learn_message(self, message: bytes | memoryview, begin: int, question: Question, *, timeout: bool) -> None:
        """Keep what a message says before its one raw tensor, which fills it from `begin` on.

        Args:
            timeout: whether the message has a deadline of its own.
        """
        if question.id or question.sequence or timeout or begin > _LONGEST or len(question.inputs) != 1:
            return
        [(name, tensor)] = question.inputs.items()
        if tensor.dtype.kind in "fiu" and tensor.nbytes == len(message) - begin:
            self._keep(bytes(message[:begin]), len(message), (_place(name, tensor, begin),), question)

    def _keep(self, known: bytes, size: int, places: tuple[Place, ...], question: Question) -> None:
        if len(self._known) >= _MOST:
            self._known.clear()
        options = question.options
        # Who asks, and until when, is no part of it.
        lasting = Options(None, options.priority, "", options.parameters)
        self._known[known] = Recipe(size, places, lasting, question.wishes, question.binary)


def _place(name: str, tensor: datatypes.Tensor, offset: int) -> Place:
    return Place(name, tensor.dtype, tensor.shape, offset)
