"""The bases of all records: frozen values with named fields."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, dataclass_transform

import msgspec


@dataclass_transform(frozen_default=True)
class Record(msgspec.Struct, frozen=True):
    """Base of the records: frozen, compared by value. Copy one with changes by `dataclasses.replace`'s
    counterpart ``msgspec.structs.replace``. (Structs, because a dataclass takes a millisecond to define.)
    """


class Stated(Record):
    """Base of the records that plugins answer hooks with: their fields are checked, so that a slip is seen where it
    was made. Raises TypeError.
    """

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not _is_a(value, kind):
                raise TypeError(f"{type(self).__name__}.{name} is {value!r}, which is no {kind}")


def _is_a(value: object, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, arm) for arm in arguments)
    if origin in (frozenset, tuple):
        return isinstance(value, origin) and all(_is_a(item, arguments[0]) for item in value)
    if origin is float:
        return isinstance(value, float | int)
    return callable(value) if origin is Callable else isinstance(value, origin)
