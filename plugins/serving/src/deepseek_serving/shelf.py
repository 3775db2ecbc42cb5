"""The models of the server: which there are, and which take requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepseek_serving.errors import NotReadyError, UnknownError
from deepseek_serving.folder import Folder
from deepseek_serving.served import Served


class Shelf:
    """Models by name and version, and what is known of those that are not there.

    Args:
        folder: where their pipelines are.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._models: dict[str, dict[int, Served]] = {}
        #: name -> why it could not be loaded, of models of which no version is known.
        self._failed: dict[str, str] = {}
        #: Models that are being loaded, or will be.
        self._coming: set[str] = set()
        #: Whether the server is ending.
        self._closed = False

    def find(self, name: str, version: str = "") -> Served:
        """A model; the highest version that is ready where none is named. Raises UnknownError, NotReadyError."""
        versions = self._models.get(name)
        if not versions:
            if self._closed:
                raise NotReadyError("the server is ending")
            if name in self._failed:
                raise NotReadyError(f"the model `{name}` could not be loaded: {self._failed[name]}")
            if name in self._coming:
                raise NotReadyError(f"the model `{name}` is being loaded", retry_after=1)
            names = ", ".join(sorted(self._models)) or "none"
            raise UnknownError(f"there is no model `{name}`", hint=f"models here: {names}")
        if version:
            found = next((served for served in versions.values() if served.version == version), None)
            if found is None:
                has = ", ".join(map(str, sorted(versions)))
                raise UnknownError(f"the model `{name}` has no version `{version[:40]}`", hint=f"its versions: {has}")
            return found
        if len(versions) == 1:
            [only] = versions.values()
            return only
        ready = [number for number, served in versions.items() if served.state == "READY"]
        return versions[max(ready or versions)]

    def versions(self, name: str) -> list[Served]:
        """All versions of a model, ascending."""
        return [served for _, served in sorted(self._models.get(name, {}).items())]

    def __iter__(self) -> Iterator[Served]:
        for name in sorted(self._models):
            yield from self.versions(name)

    @property
    def failed(self) -> dict[str, str]:
        """Models that could not be loaded, and do not serve, and why."""
        return dict(self._failed)

    @property
    def ready(self) -> bool:
        """Whether every model that is known takes requests."""
        return not self._failed and all(served.state == "READY" for served in self)

    def index(self) -> list[dict[str, Any]]:
        """The protocol's repository index: what is loaded, and what could be."""
        rows = [
            {"name": served.name, "version": served.version, "state": served.state, "reason": served.reason}
            for served in self
        ]
        known = {served.name for served in self}
        for name in sorted({*self._folder.names(), *self._failed} - known):
            state = "LOADING" if name in self._coming else "UNAVAILABLE"
            reason = "" if name in self._coming else self._failed.get(name, "unloaded")
            rows.append({"name": name, "version": "", "state": state, "reason": reason})
        return rows
