"""The models of the server: how they come and go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from deepseek.plugin import DeepSeekError
from deepseek_serving.errors import NotReadyError, UnknownError
from deepseek_serving.folder import Folder
from deepseek_serving.handover import Handover
from deepseek_serving.loading import Builder, Loading
from deepseek_serving.opening import Opened, Plugins
from deepseek_serving.prints import Changes, Print, Prints, as_read
from deepseek_serving.served import Served
from deepseek_serving.shelf import Shelf
from deepseek_serving.statistics import Statistics

logger = logging.getLogger("deepseek.serving")

#: ``load`` or ``unload``, and a name.
Change = Callable[..., Awaitable[None]]
#: Seconds that models have to close when the server ends.
_ENDING = 2.0
#: The longest wait before a model that hung and can't be loaded is tried again.
_LONGEST = 60.0


class Repository(Shelf):
    """Models that are loaded and let go. Lives on the loop; pipelines are built and closed on threads of their own.

    Args:
        folder: where pipelines are.
        handover: the loop's.
        overrides, plugins: as for `deepseek.build`.
        patience: seconds that the loading of one model may take.
    """

    def __init__(
        self, folder: Folder, handover: Handover, overrides: Sequence[str] = (), plugins: Plugins = (), *,
        patience: float = 600.0,
    ) -> None:  # fmt: skip
        super().__init__(folder)
        self._handover = handover
        self._builder = Builder(overrides, plugins, patience)
        #: Models that were let go, and may still have requests.
        self._gone: set[Served] = set()
        #: What is counted outlives models: who used one that is gone has to pay for it.
        self._counted: dict[tuple[str, str], Statistics] = {}
        self._prints = Prints(folder)
        #: How often models could not be loaded, by name.
        self.failures: Counter[str] = Counter()
        #: Kept while somebody holds or awaits them: clients may name whatever they like.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def look_after(self, limit: float) -> None:
        """Answer those who wait for pipelines that are left behind, and stalled for so many seconds."""
        for served in (*self, *self._gone):
            served.tell(limit)
        self._gone = {served for served in self._gone if served.calls}

    def ever(self) -> Iterator[tuple[str, str, Statistics]]:
        """What was counted of every model that there is or was: name, version, counts."""
        return ((*key, counted) for key, counted in sorted(self._counted.items()))

    async def load_all(self) -> None:
        """Load every model of the folder; those that fail, whatever is wrong with them, are there with the reason."""
        self._coming = set(self._folder.names())
        for name in sorted(self._coming):
            try:
                await self.load(name)
            except Exception as error:
                logger.error("the model `%s` could not be loaded: %s", name, error)

    async def load(self, name: str) -> None:
        """Load a model, or load it anew: what serves goes on until the new one is ready.

        Raises:
            UnknownError: the folder has no such model.
            DeepSeekError: it can't be built; what served before serves still.
        """
        self.commit(await self.prepare(name))

    async def prepare(self, name: str) -> Loading:
        """Build what `commit` lets serve, or `discard` does away with. Raises what `load` does."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        await lock.acquire()
        loading, since = Loading(name, lock), time.time_ns()
        try:
            loading.print = self._print(name, lacking=True)
            loading.versions = self._folder.versions(name)
            if not loading.versions:
                raise UnknownError(f"the repository has no model `{name}`", hint=self._folder.hint())
            logger.debug("the model `%s` is being loaded", name)
            self._coming.add(name)
            for version, path in loading.versions.items():
                served = self._served(name, version, path)
                loading.built.append((served, await self._builder.build(path, served.statistics)))
            # Where the models are is known only now.
            sources = [opened.pipeline.plan.source.path for _, opened in loading.built]
            loading.print = as_read(loading.print, self._prints.now(name, sources, lacking=False), since)
        except BaseException as error:
            why = error.what if isinstance(error, DeepSeekError) else "it was given up"
            self.discard(loading, why, again=isinstance(error, UnknownError))
            raise
        return loading

    def commit(self, loading: Loading) -> None:
        """Let what was built take the requests from now on."""
        name = loading.name
        for served, opened in loading.built:
            self._adopt(served, opened)
        self._failed.pop(name, None)
        self._prints.loaded(name, loading.print)
        for version in set(self._models.get(name, {})) - set(loading.versions):
            self._retire(name, version)
        self._coming.discard(name)
        loading.lock.release()

    def discard(self, loading: Loading, why: str, *, again: bool = False) -> None:
        """Do away with what was built: the model can't be loaded, here or elsewhere.

        Args:
            loading: what was prepared.
            why: not.
            again: whether another try is worth it though its files do not change.
        """
        for _, opened in loading.built:
            self._builder.close(opened.pipeline)
        if not again:
            self._prints.failed(loading.name, loading.print)
            self.failures[loading.name] += 1
            if not self._models.get(loading.name):
                self._failed[loading.name] = why
            for served in self.versions(loading.name):
                if served.state == "READY":
                    served.reason = f"its new files could not be loaded: {why}"
        self._coming.discard(loading.name)
        loading.lock.release()

    async def unload(self, name: str, patience: float, why: str = "") -> None:
        """Let a model go: it takes no more requests, and gives its memory back when those in flight are answered.

        Args:
            name: the model's.
            patience: seconds to wait for that.
            why: what is wrong with it; empty: nothing.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            versions = self._models.get(name)
            if not versions and name not in self._failed:
                raise UnknownError(f"there is no model `{name}`")
            self._failed.pop(name, None)
            closings = [closing for version in list(versions or {}) if (closing := self._retire(name, version))]
            # Without its sources, which are known of models that are loaded alone: it has not changed since.
            self._prints.unloaded(name, self._print(name, lacking=False))
            if why:
                self._failed[name] = why
            if closings:
                # One that hangs does not hold up the name for ever.
                await asyncio.wait(closings, timeout=patience)

    def changes(self) -> Changes:
        """Which models' files are not those that were loaded, and which are gone. May be called on any thread."""
        return self._prints.changes({*self._models, *self._failed}, self._print)

    def digests(self) -> dict[str, str]:
        """What serves, by name: alike in processes that read the same files."""
        return self._prints.digests()

    async def replace(self, served: Served, change: Change) -> None:
        """Give a model that answers no more a new pipeline; its requests are told, and the old one is left behind.

        Args:
            served: the model.
            change: makes changes, wherever the models are.
        """
        # Nobody can end a thread that hangs in native code: closing waits with it, on a thread of its own; a
        # collection of garbage would close it here on the loop.
        self._builder.close(served.retire("it stopped answering and is loaded anew"))
        for call in list(served.calls):
            call.settle(NotReadyError(f"the model `{served.name}` stopped answering", retry_after=1))
        logger.error("the model `%s` stopped answering; it is loaded anew", served.name)
        wait = 1.0
        while not await self._again(served, change):
            # What it lacks may be there later.
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST)

    async def _again(self, served: Served, change: Change) -> bool:
        """Load a model anew whose pipeline was left behind; whether that is done, or has become needless."""
        name = served.name
        try:
            async with self._locks.setdefault(name, asyncio.Lock()):
                if self._closed or served not in self.versions(name) or served.state == "READY":
                    # It was unloaded, or loaded anew, meanwhile.
                    return True
                if not self._prints.differ(name, self._print(name)):
                    served.adopt(await self._builder.build(served.path, served.statistics))
                    return True
            # Other files than those that others serve: everywhere, and all versions, or not at all.
            await change("load", name=name)
        except Exception as error:
            if served.state != "READY":
                served.reason = error.what if isinstance(error, DeepSeekError) else "it could not be loaded anew"
            logger.error("the model `%s` could not be loaded anew: %s", name, error)
            return False
        return True

    async def close(self) -> None:
        """Let every model go."""
        self._closed = True
        closings = [
            closing for served in list(self) if (closing := self._retire(served.name, int(served.version)))
        ]  # fmt: skip
        if closings:
            # What hangs ends with the process.
            await asyncio.wait(closings, timeout=_ENDING)

    def _print(self, name: str, *, lacking: bool | None = None) -> Print:
        sources = [item.source for item in self.versions(name) if item.source]
        return self._prints.now(name, sources, lacking=lacking)

    def _served(self, name: str, version: int, path: Path) -> Served:
        served = self._models.get(name, {}).get(version)
        if served is None or served.path != path:
            counted = self._counted.setdefault((name, str(version)), Statistics())
            served = Served(name, str(version), path, self._handover, counted)
        return served

    def _adopt(self, served: Served, opened: Opened) -> None:
        versions = self._models.setdefault(served.name, {})
        before = versions.get(int(served.version))
        versions[int(served.version)] = served
        self._builder.close(served.adopt(opened))
        if before is not None and before is not served:
            self._builder.close(before.retire("it was replaced"))
            self._gone.add(before)

    def _retire(self, name: str, version: int) -> asyncio.Future[None] | None:
        served = self._models[name].pop(version)
        if not self._models[name]:
            del self._models[name]
        self._gone.add(served)
        return self._builder.close(served.retire("it was unloaded"))
