"""Plugins in one line each, and pipelines of nothing but them."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import deepseek
from deepseek.plugin import (
    Engine,
    Loader,
    Model,
    Pass,
    Settings,
    Signature,
    Stage,
    TensorSpec,
)
from deepseek.plugins import discover
from deepseek.testing import EchoExecutor

Plug = Callable[..., ModuleType]


X = Signature((TensorSpec("x", "float32", (-1, 2)),), (TensorSpec("x", "float32", (-1, 2)),))


#: Keeps what is installed on the machine out of a test.
ONLY = {"plugins": {"disable": [plugin.name for plugin in discover()]}}


def until(true: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end


def loads(format_: str) -> Callable[[], Loader]:
    return lambda: Loader(f"{format_} loader", format_, lambda: Model(format_, None, X), 7)


def runs(name: str, *formats: str, executor: Callable[[], Any] = lambda: EchoExecutor(X)) -> Callable[[], Engine]:
    return lambda: Engine(name, frozenset(formats), lambda model: executor())


def converts(name: str, takes: str, gives: str) -> Pass:
    return Pass(name, Stage.CONVERT, frozenset({takes}), lambda m, f: Model(gives, None, m.signature), yields=gives)


def build(model: str, *plugins: ModuleType, **config: Any) -> deepseek.Pipeline:
    return deepseek.build({"model": model, **ONLY, **config}, plugins=plugins)


def plan(model: str, *plugins: ModuleType, **config: Any) -> deepseek.Plan:
    return deepseek.explain({"model": model, **ONLY, **config}, plugins=plugins)


class Answered(Settings):
    pass
