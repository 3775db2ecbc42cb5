"""Where the models of a server are: one pipeline file, or a folder of pipelines with versions.

models/
  server.yaml                  settings of the server, if any
  classify.yaml                the model `classify`, version 1
  embed/pipeline.yaml          the model `embed`, version 1
  rank/1/pipeline.yaml         the model `rank`, versions 1 and 2
  rank/2/pipeline.yaml
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from deepseek.plugin import ConfigError
from deepseek_serving.settings import ServerSettings

PIPELINE = "pipeline.yaml"
SERVER = "server.yaml"
#: What a model may be called: one part of a path and of a URL, which can't lead out of the folder.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


class Folder(Protocol):
    """What a repository asks of the place where its pipelines are."""

    def names(self) -> list[str]:
        """The models that are there."""

    def versions(self, name: str) -> dict[int, Path]:
        """The versions of a model that are to be served, with their pipeline files; empty: no such model.

        Raises:
            ConfigError: they can't be looked at.
        """

    def hint(self) -> str:
        """What to look at when a model is not there."""


class OneFile:
    """A single pipeline file: one model, of the file's name.

    Args:
        path: the file.
        name: what clients call it; empty: the file's name without its ending.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self._path, self._name = path, name or re.sub(r"[^A-Za-z0-9_.\-]", "_", path.stem) or "model"

    def names(self) -> list[str]:
        return [self._name]

    def versions(self, name: str) -> dict[int, Path]:
        return {1: self._path} if name == self._name else {}

    def hint(self) -> str:
        return f"the only model here is `{self._name}`"


class Tree:
    """A folder of pipelines.

    Args:
        root: the folder.
        settings: the server's, which say which versions are served.
    """

    def __init__(self, root: Path, settings: ServerSettings) -> None:
        self._root = root
        self._settings = settings

    def names(self) -> list[str]:
        found = set()
        for item in self._root.iterdir():
            name = item.stem if item.suffix == ".yaml" and item.is_file() else item.name
            if item.name != SERVER and NAME.fullmatch(name) and self._has(name):
                found.add(name)
        return sorted(found)

    def versions(self, name: str) -> dict[int, Path]:
        if not NAME.fullmatch(name):
            return {}
        try:
            found = self._found(name)
        except OSError as exc:
            raise ConfigError(
                f"the model `{name}` can't be looked at: {exc.strerror}", where=str(exc.filename)
            ) from exc
        policy = self._settings.models.get(name, self._settings.versions)
        return {version: found[version] for version in policy.pick(list(found))}

    def hint(self) -> str:
        return f"it has: {', '.join(self.names()) or 'no models'}"

    def _has(self, name: str) -> bool:
        try:
            return bool(self.versions(name))
        except ConfigError:
            # It is there, and can't be loaded.
            return True

    def _found(self, name: str) -> dict[int, Path]:
        folder = self._root / name
        file = self._root / f"{name}.yaml"
        if file.name != SERVER and file.is_file():
            return {1: file}
        if (folder / PIPELINE).is_file():
            return {1: folder / PIPELINE}
        if not folder.is_dir():
            return {}
        return {
            int(item.name): item / PIPELINE
            for item in folder.iterdir()
            if re.fullmatch(r"[1-9][0-9]{0,8}", item.name) and (item / PIPELINE).is_file()
        }
