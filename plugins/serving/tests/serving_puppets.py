"""A plugin whose models do what a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deepseek.plugin import (
    ANY,
    Config,
    Engine,
    Executor,
    Loader,
    Model,
    Policy,
    Request,
    Settings,
    Share,
    Signature,
    Source,
    Tensors,
    TensorSpec,
    hookimpl,
)

#: What a puppet's executor does, by the model file's name; tests put functions here.
works: dict[str, Callable[[Tensors], Mapping[str, Any]]] = {}


#: What a puppet whose file says `hang` waits for when it is built.
gates: dict[str, threading.Event] = {}


class PuppetSettings(Settings):
    chunks: int = 0
    shape: tuple[int, ...] = (ANY, 4)
    dtype: str = "float32"
    output: str = ""
    concurrency: int = 1


class PuppetExecutor:
    def __init__(self, path: Path, settings: PuppetSettings) -> None:
        self._name = path.name
        self.concurrency = settings.concurrency
        spec = TensorSpec("x", settings.dtype, tuple(settings.shape))
        self.signature = Signature(
            (spec,), (TensorSpec("y", settings.output or settings.dtype, tuple(settings.shape)),)
        )
        # A mistake in a file is an error of the build.
        if path.read_text() == "broken":
            raise RuntimeError("the puppet is broken")
        if path.read_text() == "hang":
            gates[path.name].wait(60)
        self._gift = path.read_text()

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        work = works.get(self._name)
        if work is not None and shares:
            return dict(work(inputs))
        if self._gift.startswith("add "):
            return {"y": inputs["x"] + np.float32(self._gift[4:])}
        return {"y": inputs["x"]}

    def close(self) -> None:
        pass


class Chunks:
    """A scheduler of a model that answers in parts: the smallest generator."""

    def __init__(self, executor: Executor, count: int) -> None:
        self._executor, self._count = executor, count

    def run(self, inputs: Tensors, share: Share) -> dict[str, Any]:
        return self._executor.run(inputs, (share,))

    def submit(self, request: Request) -> None:
        threading.Thread(target=self._answer, args=(request,), daemon=True).start()

    def _answer(self, request: Request) -> None:
        if not request.sink.start():
            return
        try:
            for step in range(1, self._count + 1):
                outputs = self.run(request.inputs, request.share)
                chunk = {name: value * step for name, value in outputs.items()}
                if not request.sink.put(chunk, last=step == self._count):
                    return
        except Exception as exc:
            request.sink.fail(exc)

    def close(self) -> None:
        pass


def puppet() -> ModuleType:
    """The plugin: loads files ending in ``.puppet``."""
    module = ModuleType("puppet")

    @hookimpl
    def sections() -> dict[str, type[Settings]]:
        return {"puppet": PuppetSettings}

    @hookimpl
    def load(source: Source) -> Loader | None:
        if source.path.suffix != ".puppet":
            return None
        return Loader("puppet", "puppet", lambda: Model("puppet", source.path, Signature()))

    @hookimpl
    def execute(config: Config) -> Engine:
        settings = config[PuppetSettings]
        return Engine("puppet", frozenset({"puppet"}), lambda model: PuppetExecutor(model.native, settings))

    @hookimpl
    def schedule(config: Config) -> Policy | None:
        chunks = config[PuppetSettings].chunks
        return Policy("chunks", lambda executors: Chunks(executors[0], chunks)) if chunks else None

    module.__dict__.update(sections=sections, load=load, execute=execute, schedule=schedule)
    return module


class Blocked:
    """A puppet that waits in its executor until it is let go."""

    def __init__(self, name: str) -> None:
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.runs: list[float] = []
        works[name] = self.work

    def work(self, inputs: Any) -> Any:
        self.runs.append(float(inputs["x"][0, 0]))
        self.entered.release()
        assert self.go.wait(60)
        return {"y": inputs["x"]}
