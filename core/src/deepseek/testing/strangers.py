"""What a plugin meets of others: plugins that it does not know, and arrays of libraries that it does not know."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from deepseek.plugin import Engine, Loader, hookimpl


class Foreign:
    """An array of a library that nobody has heard of: a shape, a dtype and the DLPack protocol."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        return self._array.__dlpack__(*args, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        place: tuple[int, int] = self._array.__dlpack_device__()
        return place


def neighbour(name: str) -> ModuleType:
    """A plugin of another engine, for models of its own."""
    module = ModuleType(name)
    loader = Loader("neighbour", "neighbour", lambda: pytest.fail("a neighbour was asked to load"))
    module.load = hookimpl(lambda source: loader if source.path.suffix == ".neighbour" else None)  # type: ignore[attr-defined]
    engine = Engine("neighbour", frozenset({"neighbour"}), lambda model: pytest.fail("a neighbour was asked to open"))
    module.execute = hookimpl(lambda: engine)  # type: ignore[attr-defined]
    return module
