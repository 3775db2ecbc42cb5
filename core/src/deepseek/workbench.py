"""Doing the steps of a build: blamed on their plugins, measured, and undone in reverse order."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from deepseek import devices
from deepseek.errors import HookError
from deepseek.files import output_errors
from deepseek.guarded import REPORT, guarded
from deepseek.pipeline import BuildStep
from deepseek.registry import Registry
from deepseek.types import Model

T = TypeVar("T")


class Workbench:
    """Where a pipeline is put together.

    Args:
        registry: knows the plugins' names.
        stack: what is to be undone when the pipeline closes, or when the build fails.
    """

    def __init__(self, registry: Registry, stack: ExitStack) -> None:
        self.steps: list[BuildStep] = []
        self._registry = registry
        self._stack = stack

    def do(self, name: str, plugin: str, work: Callable[[], T], kind: type = object, *, reading: bool = False) -> T:
        """The work of one plugin, which must give a `kind` back; what it raises is blamed on the plugin."""
        with self._registry.blamed(plugin, f"while it did its part of the build ({name})", reading=reading):
            result = work()
        if result is None or not isinstance(result, kind):
            found = "nothing" if result is None else f"a {type(result).__name__}"
            raise HookError(f"{self._registry.describe(plugin)} gave {found} back when asked to {name}", hint=REPORT)
        return result

    def step(self, name: str, plugin: str, work: Callable[[], T], kind: type = object) -> T:
        """The same for work on the model, with its time and the growth of resident memory noted."""
        start, before = time.perf_counter(), devices.resident_bytes()
        result = self.do(name, plugin, work, kind, reading=True)
        self.steps.append(BuildStep(name, time.perf_counter() - start, devices.resident_bytes() - before))
        return result

    def model(self, name: str, plugin: str, work: Callable[[], Model], form: str) -> Model:
        """A step that gives a model, in the format that the plugin promised."""
        model = self.step(name, plugin, work, Model)
        if model.format != form:
            what = f"{self._registry.describe(plugin)} gave a model of the format `{model.format}` back, not `{form}`"
            raise HookError(f"{what}, when asked to {name}", hint=REPORT)
        return model

    def note(self, text: str) -> None:
        """Put a finding to the last step."""
        self.steps[-1] = replace(self.steps[-1], note=text)

    def folder(self) -> Path:
        """A new folder that lives as long as the pipeline."""
        with output_errors(tempfile.gettempdir()):
            path = Path(tempfile.mkdtemp(prefix="deepseek-"))
        self._stack.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    def keep(self, plugin: str, made: Any) -> None:
        """Close what a plugin made when the pipeline closes, before what was kept earlier."""
        name = type(made).__name__
        close = self.do(f"give {name} a close()", plugin, lambda: made.close)
        self._stack.callback(guarded(close, HookError, self._registry.describe(plugin), f"while its {name} closed"))

    def guard(self, guard: Callable[[Any, str], T], plugin: str, made: Any) -> T:
        """What a plugin made, behind a guard; the plugin is blamed for what its object lacks."""
        work = partial(guard, made, self._registry.describe(plugin))
        return self.do(f"give a whole {type(made).__name__}", plugin, work)
