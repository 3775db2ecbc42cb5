"""What the files of models look like, and whether they have changed since they were loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

from deepseek.plugin import ConfigError
from deepseek_serving.folder import PIPELINE, Folder

#: Paths of a model's files with their times, sizes and inodes: other files, other print.
Print = tuple[tuple[str, int, int, int], ...]


class Changes(NamedTuple):
    """What a look at the folder found: models that changed or are new, with their prints, and models that are gone."""

    changed: dict[str, Print]
    gone: list[str]


class Prints:
    """What the files of each model looked like when they were last read, and when those that serve were.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._noted: dict[str, Print] = {}
        self._loaded: dict[str, Print] = {}
        #: Models of which it is not known what they lack.
        self._lacking: set[str] = set()

    def now(self, name: str, sources: Iterable[Path], *, lacking: bool | None = None) -> Print:
        """What a model's files look like.

        Args:
            name: the model's.
            sources: of its pipelines, as far as they are known.
            lacking: whether what the pipelines may lack counts, too; None: where it is not known what they lack.
        """
        try:
            pipelines = self._folder.versions(name).values()
        except ConfigError:
            return ()
        wide = name in self._lacking if lacking is None else lacking
        return fingerprint(pipelines, sources, _lacked(pipelines) if wide else ())

    def loaded(self, name: str, print_: Print) -> None:
        """What looked like this serves."""
        self._noted[name] = self._loaded[name] = print_
        self._lacking.discard(name)

    def failed(self, name: str, print_: Print) -> None:
        """What looks like this can't be loaded: it is not worth another try before it, or what it lacks, has changed.

        What it lacks nobody knows then: the model that its file names, and whatever lies beside the file, are followed,
        and are a part of the print.
        """
        self._noted[name] = print_
        self._lacking.add(name)

    def unloaded(self, name: str, print_: Print) -> None:
        """It serves no longer, and is loaded again when it has changed, or when that is asked for."""
        self._noted[name] = print_
        self._loaded.pop(name, None)
        self._lacking.discard(name)

    def differ(self, name: str, print_: Print) -> bool:
        """Whether other files would be read now than those of which it serves."""
        return self._loaded.get(name) != print_

    def digests(self) -> dict[str, str]:
        """What serves, by name: alike in processes that read the same files."""
        return {name: hashlib.sha256(repr(print_).encode()).hexdigest() for name, print_ in self._loaded.items()}

    def changes(self, known: Iterable[str], now: Callable[[str], Print]) -> Changes:
        """How the folder differs from what was noted, and from the models that are known."""
        there = self._folder.names()
        changed = {name: print_ for name in there if (print_ := now(name)) != self._noted.get(name)}
        return Changes(changed, [name for name in known if name not in there])


def as_read(before: Print, after: Print, since: int) -> Print:
    """What files looked like when they were read, of which some may have been changed meanwhile.

    Args:
        before: before that, as far as it was known which files they are.
        after: after it, all of them.
        since: when it began, in nanoseconds since the epoch.
    """
    known = {item[0]: item for item in before}
    # One that was not known, and is younger: as no file is.
    return tuple(known.get(item[0], item if item[1] < since else (item[0], 0, 0, 0)) for item in after)


def fingerprint(pipelines: Iterable[Path], sources: Iterable[Path], lacked: Iterable[Path] = ()) -> Print:
    """What the files of a model's versions look like; changes when one of them does.

    Args:
        pipelines: their pipeline files; where such a file has a folder to itself, all that is in it counts.
        sources: their models, wherever they are.
        lacked: what they may lack, of which no folder is looked into: it may be any.
    """
    found: dict[str, tuple[int, int, int]] = {}
    own = (item.parent if item.name == PIPELINE else item for item in pipelines)
    for file in (*(file for path in (*own, *sources) for file in _files(path)), *lacked):
        # Whatever a file names: also what can't be a path.
        with suppress(OSError, ValueError):
            known = file.stat()
            found[str(file)] = (known.st_mtime_ns, known.st_size, known.st_ino)
    return tuple((name, *known) for name, known in sorted(found.items()))


def _lacked(pipelines: Iterable[Path]) -> Iterator[Path]:
    """What pipelines may lack: the models that they name, and files in their folders, other pipelines excepted."""
    for pipeline in pipelines:
        # What is wrong with it, which may be anything, is told by who loads it.
        with suppress(Exception):
            model = yaml.safe_load(pipeline.read_text())["model"]
            yield pipeline.parent / (model["source"] if isinstance(model, dict) else model)
    for folder in {path.parent for path in pipelines}:
        with suppress(OSError):
            yield from (item for item in folder.iterdir() if item.suffix != ".yaml" and item.is_file())


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)
