"""Where a document comes from: a YAML file or a mapping, with overrides on top. The first half of reading one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deepseek.config import SettingsT, convert
from deepseek.document import Document
from deepseek.errors import ConfigError

MAX_BYTES = 1 << 20


def read(source: str | Path | Mapping[str, object], overrides: Sequence[str] = ()) -> Document:
    """Read a pipeline from a YAML file, or from a mapping of the same shape.

    Args:
        source: the file, or the mapping; relative paths in a mapping start from the working directory.
        overrides: ``key=value`` strings; dotted keys, values in YAML.

    Raises:
        ConfigError: unreadable, not YAML, a duplicate key, an environment variable that is not set.
    """
    if isinstance(source, Mapping):
        try:
            document = Document(_plain(source), "<dict>", Path.cwd())
        except RecursionError:
            raise ConfigError("the configuration holds itself, or is nested too deeply") from None
    elif isinstance(source, str | Path):
        document = _read_file(Path(source))
    else:
        hint = "give the path of a YAML file, or a mapping"
        raise ConfigError(f"a {type(source).__name__} is no pipeline configuration", hint=hint)
    for override in overrides:
        _override(document, override)
    return document


def read_settings(
    source: str | Path | Mapping[str, object], section: str, kind: type[SettingsT], overrides: Sequence[str] = ()
) -> SettingsT:
    """One plugin's settings from a file of their own, for what belongs to no single pipeline.

    Args:
        source: a YAML file with the one key `section`, or a mapping of the same shape.
        section: the section's name.
        kind: its settings.
        overrides: ``section.key=value`` strings.

    Raises:
        ConfigError: as a pipeline file's.

    Example:
        >>> Path("queue.yaml").write_text("fifo: {max_queue: 8}")
        20
        >>> read_settings("queue.yaml", "fifo", FifoSettings).max_queue
        8
    """
    document = read(source, overrides)
    for key in document.data:
        if key != section:
            hint = f"this file holds `{section}` alone"
            raise ConfigError(f"`{key}` is not a known key", where=document.where_key((key,)), hint=hint)
    return convert(document, (section,), document.data.get(section) or {}, kind)


def _plain(value: Mapping[str, object]) -> dict[str, object]:
    """Own copies of the containers, so that overrides never reach back into the caller's; paths as text."""

    def copy(item: object) -> object:
        if isinstance(item, Mapping):
            return _plain(item)
        if isinstance(item, list | tuple):
            return [copy(one) for one in item]
        return str(item) if isinstance(item, Path) else item

    return {str(key): copy(item) for key, item in value.items()}


def _read_file(path: Path) -> Document:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError("the pipeline file is larger than 1 MiB", where=str(path), hint="is it a model's file?")
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such pipeline file", where=str(path), hint=_siblings(path)) from None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the pipeline file can't be read ({exc})", where=str(path)) from exc
    # What is no file of a folder (a pipe, `<(...)` of a shell) has the working directory for a base.
    document = Document({}, str(path), path.resolve().parent if path.is_file() else Path.cwd())
    data = _parse(document, text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(
            "a pipeline file is a mapping of keys to values", where=f"{path}:1:1", hint="start with `model:`"
        )
    document.data = data
    return document


def _siblings(path: Path) -> str:
    found = sorted(item.name for item in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    return f"the folder has {', '.join(found)}" if found else "give the path of a YAML file"


def _override(document: Document, override: str) -> None:
    if not isinstance(override, str):
        raise ConfigError(f"an override is text such as `key=value`, not a {type(override).__name__}")
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"`{override}` is not an override", where="--set", hint="write --set key.subkey=value")
    scratch = Document({}, "--set", document.base)
    value = _parse(scratch, text, f"--set {name}")
    node = document.data
    for index, key in enumerate(keys[:-1]):
        if key not in node:
            document.marks[tuple(keys[: index + 1])] = f"--set {name}"
        child = node.setdefault(key, {})
        if isinstance(child, list):
            what = f"`{'.'.join(keys[: index + 1])}` is a list: its items can't be set one by one"
            raise ConfigError(what, where=f"--set {name}", hint="set the whole list: --set key=[1, 2]")
        if not isinstance(child, dict):
            # A shorthand such as `model: file.onnx` becomes the mapping that it stands for.
            child = node[key] = {"source": child} if keys[: index + 1] == ["model"] else {}
        node = child
    node[keys[-1]] = value
    # What stood below the key in the file stands there no longer.
    for mark in [mark for mark in document.marks if mark[: len(keys)] == tuple(keys)]:
        del document.marks[mark]
        document.keys.pop(mark, None)
    document.marks.update({(*keys, *mark): place for mark, place in scratch.marks.items()})
    document.marks[tuple(keys)] = f"--set {name}"


def _parse(document: Document, text: str, name: str) -> object:
    """YAML as plain values, their places noted in the document. Raises ConfigError."""
    # Imported here: mappings need no YAML, and PyYAML is slow to load.
    from deepseek.nodes import Reader

    return Reader(document, name).text(text)
