"""Fixtures of the kernel's own tests."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

Plug = Callable[..., ModuleType]


@pytest.fixture
def plug() -> Plug:
    """Make a plugin module out of functions: ``plug("acme", load=..., execute=...)``."""
    from deepseek.plugin import hookimpl

    def make(name: str, **hooks: Any) -> ModuleType:
        module = ModuleType(name)
        for hook, function in hooks.items():
            setattr(module, hook, hookimpl(function))
        return module

    return make
