"""Looks at the folder of models again and again, and loads what has changed."""

from __future__ import annotations

import asyncio
import logging

from deepseek.plugin import DeepSeekError
from deepseek_serving.errors import UnknownError
from deepseek_serving.prints import Print
from deepseek_serving.repository import Change, Repository
from deepseek_serving.threads import off_loop

logger = logging.getLogger("deepseek.serving")


class Watcher:
    """Keeps a repository as its folder is.

    Args:
        repository: the models.
        change: makes changes, wherever the models are.
        interval: seconds between two looks.
    """

    def __init__(self, repository: Repository, change: Change, interval: float) -> None:
        self._repository = repository
        self._change = change
        self._interval = interval
        self._seen: dict[str, Print] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.look()
            # Nothing that is found in a folder ends the looking.
            except Exception as exc:
                logger.error("the folder of models could not be followed: %s", exc)

    async def look(self) -> None:
        """One look. A model is loaded when two looks in a row found the same: files that are being copied change."""
        changes = await off_loop(self._repository.changes, "deepseek-watcher")
        before, self._seen = self._seen, changes.changed
        for name in changes.gone:
            await self._do("unload", name, "is gone from the folder, and was unloaded")
        for name, print_ in changes.changed.items():
            if before.get(name) == print_:
                await self._do("load", name, "has changed, and was loaded")

    async def _do(self, call: str, name: str, told: str) -> None:
        try:
            await self._change(call, name=name)
            logger.info("the model `%s` %s", name, told)
        except UnknownError:
            # Somebody else was quicker.
            pass
        except DeepSeekError as error:
            logger.error("the model `%s` has changed, and can't be %sed: %s", name, call, error)
