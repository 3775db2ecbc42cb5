"""A fake engine, itself a plugin: pass this module as ``plugins=[fakes]``, and no real engine is needed.

Its models are JSON files ending in ``.fake``: ``{"x": {"dtype": "float32", "shape": [-1, 4]}}``. Executing one
gives its inputs back.
"""

from __future__ import annotations

import copy
import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek.plugin import (
    Engine,
    Loader,
    Model,
    ModelError,
    Share,
    Signature,
    Source,
    Tensors,
    TensorSpec,
    hookimpl,
)
from deepseek.sinks import FutureSink

__all__ = ["EchoExecutor", "FutureSink", "execute", "load", "model_file"]

#: Removed when the process ends.
_folders: list[tempfile.TemporaryDirectory[str]] = []

DEFAULT: Mapping[str, Mapping[str, Any]] = {"x": {"dtype": "float32", "shape": [-1, 4]}}


class EchoExecutor:
    """Gives its inputs back; counts calls, and how many overlapped.

    Args:
        signature: what it states of itself.
        concurrency: as in `deepseek.plugin.Executor`.
        work: called with the inputs on each run; may block or raise, to play a slow or failing engine.
    """

    def __init__(
        self, signature: Signature | None = None, concurrency: int = 0, work: Callable[[Tensors], object] | None = None
    ) -> None:
        self.signature = signature or Signature()
        self.concurrency = concurrency
        self.calls = 0
        self.most_at_once = 0
        self.closed = False
        self._work = work
        self._now = 0
        self._lock = threading.Lock()

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        """The inputs, after `work`."""
        with self._lock:
            self.calls += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            if self._work:
                self._work(inputs)
            return {name: _own(value) for name, value in inputs.items()}
        finally:
            with self._lock:
                self._now -= 1

    def close(self) -> None:
        """Remembered in `closed`."""
        self.closed = True


def _own(value: Any) -> Any:
    """A copy, as a NumPy array where the value is another library's: what a model answers is the caller's own."""
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        import numpy as np

        return np.from_dlpack(value).copy()
    return copy.copy(value)


def model_file(tensors: Mapping[str, Mapping[str, Any]] = DEFAULT, folder: Path | None = None) -> str:
    """Write a model for the fake engine; returns its path.

    Args:
        tensors: name to ``{"dtype", "shape"}``, inputs and outputs alike.
        folder: where to put it; omitted: a temporary folder that goes with the process.
    """
    if folder is None:
        _folders.append(tempfile.TemporaryDirectory(prefix="deepseek-fake-"))
        folder = Path(_folders[-1].name)
    path = folder / "model.fake"
    path.write_text(json.dumps(tensors))
    return str(path)


@hookimpl
def load(source: Source) -> Loader | None:
    if source.path.suffix != ".fake":
        return None
    return Loader("fake file", "fake", lambda: _read(source.path), source.size_bytes)


@hookimpl
def execute() -> Engine:
    return Engine("fake", frozenset({"fake"}), lambda model: EchoExecutor(model.signature))


def _read(path: Path) -> Model:
    try:
        tensors = json.loads(path.read_text())
        specs = tuple(TensorSpec(name, t["dtype"], tuple(t["shape"])) for name, t in tensors.items())
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ModelError(f"this is not a fake model: {exc}", where=str(path)) from exc
    return Model("fake", path, Signature(specs, specs))
