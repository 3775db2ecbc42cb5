"""Distributions of one module, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deepseek.errors import DeepSeekError, PluginError
from deepseek.plugins import discover, select
from deepseek.registry import Registry
from deepseek.settings import PluginSettings, Selection

HEAD = "from deepseek.plugin import *\n"


Make = Callable[..., None]


def registry(version: str = "", **settings: list[str]) -> Registry:
    plugins = PluginSettings(**settings)  # type: ignore[arg-type]
    chosen = Selection(version=version, plugins=plugins)  # type: ignore[arg-type]
    return Registry(select(discover(), chosen), plugins.optional)


def states(found: Registry) -> dict[str, str]:
    return {plugin.name: plugin.state for plugin in found.plugins}


def refused(error: type[DeepSeekError] = PluginError, **settings: list[str]) -> str:
    with pytest.raises(error) as caught:
        registry(**settings)
    return str(caught.value)
