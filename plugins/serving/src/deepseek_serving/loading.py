"""New pipelines of models: built one at a time, on threads of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import deepseek
from deepseek.plugin import DeepSeekError
from deepseek_serving.allocator import trim
from deepseek_serving.errors import NotReadyError
from deepseek_serving.opening import Opened, Plugins, open_pipeline
from deepseek_serving.prints import Print
from deepseek_serving.served import Served
from deepseek_serving.statistics import Statistics
from deepseek_serving.threads import off_loop

logger = logging.getLogger("deepseek.serving")


class Loading:
    """All versions of a model, or none: what is served is never a part of what was asked for.

    Args:
        name: the model's.
        lock: the model's, which is held.

    Attributes:
        print: what its files look like.
        versions: that it will have, and their pipelines' files.
        built: the pipelines, and whose they are.
    """

    def __init__(self, name: str, lock: asyncio.Lock) -> None:
        self.name, self.lock = name, lock
        self.print: Print = ()
        self.versions: dict[int, Path] = {}
        self.built: list[tuple[Served, Opened]] = []


class Builder:
    """Opens and closes pipelines. Lives on the loop.

    Args:
        overrides, plugins: as for `deepseek.build`.
        patience: seconds that one may take; 0: any number.
    """

    def __init__(self, overrides: Sequence[str], plugins: Plugins, patience: float) -> None:
        self._overrides, self._plugins = overrides, plugins
        self._patience = patience
        # One at a time: each takes all the cores that there are.
        self._one = asyncio.Lock()

    async def build(self, path: Path, statistics: Statistics) -> Opened:
        """A pipeline that is ready to serve. Raises DeepSeekError, whatever goes wrong."""
        async with self._one:
            work = partial(open_pipeline, path, statistics, self._overrides, self._plugins)
            coming = off_loop(work, "deepseek-loader")
            try:
                done, _ = await asyncio.wait({coming}, timeout=self._patience or None)
            except asyncio.CancelledError:
                coming.add_done_callback(self._too_late)
                raise
            if not done:
                # Nobody can end a thread that hangs in native code; others are not to wait for it.
                coming.add_done_callback(self._too_late)
                raise NotReadyError(f"{path} was not loaded after {self._patience}, the limit `server.loading`")
            try:
                return coming.result()
            except DeepSeekError:
                raise
            except Exception as exc:
                logger.exception("%s could not be loaded", path)
                raise DeepSeekError(f"{path} could not be loaded: {type(exc).__name__}: {exc}") from exc

    def close(self, pipeline: deepseek.Pipeline | None) -> asyncio.Future[None] | None:
        """Close a pipeline, which may wait for what it executes; nobody has to wait for that."""
        if pipeline is None:
            return None

        def close() -> None:
            pipeline.close()
            trim(0)

        return off_loop(close, "deepseek-closer")

    def _too_late(self, coming: asyncio.Future[Opened]) -> None:
        if coming.exception() is None:
            self.close(coming.result().pipeline)
