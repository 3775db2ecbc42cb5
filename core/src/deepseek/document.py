"""YAML to plain values that remember where they stood: the first half of reading a pipeline file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from deepseek.errors import ConfigError

#: A path into the document: keys and list positions.
Key = tuple["str | int", ...]

MAX_BYTES = 1 << 20
#: Anchors can make a small file unfold into a huge one; no honest pipeline comes near this.
MAX_NODES = 20_000

_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass
class Document:
    """A configuration as plain values, with the place of each.

    Attributes:
        data: what the file says, overrides applied.
        name: how the file is called in messages.
        base: the folder that relative paths start from.
        marks: where each value stands.
    """

    data: dict[str, object]
    name: str
    base: Path
    marks: dict[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """``file:line:column`` of a value, or of the nearest enclosing one that has a place."""
        while key and key not in self.marks:
            key = key[:-1]
        return self.marks.get(key, self.name)


def dotted(key: Key) -> str:
    """A path as a reader writes it: ``inputs.image.mean[2]``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read(source: str | Path | Mapping[str, object], overrides: Sequence[str] = ()) -> Document:
    """Read a pipeline from a YAML file, or from a mapping of the same shape.

    Args:
        source: the file, or the mapping; relative paths in a mapping start from the working directory.
        overrides: ``key=value`` strings; dotted keys, values in YAML.

    Raises:
        ConfigError: unreadable, not YAML, a duplicate key, an environment variable that is not set.
    """
    if isinstance(source, Mapping):
        document = Document(_plain(source), "<dict>", Path.cwd())
    else:
        document = _read_file(Path(source))
    for override in overrides:
        _override(document, override)
    return document


def _plain(value: Mapping[str, object]) -> dict[str, object]:
    """Own copies of the containers, so that overrides never reach back into the caller's."""
    return {k: _plain(v) if isinstance(v, Mapping) else list(v) if isinstance(v, list | tuple) else v
            for k, v in value.items()}  # fmt: skip


def _read_file(path: Path) -> Document:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError("the pipeline file is larger than 1 MiB", where=str(path), hint="is it a model's file?")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("there is no such pipeline file", where=str(path), hint=_siblings(path)) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the pipeline file can't be read ({exc})", where=str(path)) from exc
    document = Document({}, str(path), path.resolve().parent)
    data = _Reader(document).text(text, str(path))
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
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"`{override}` is not an override", where="--set", hint="write --set key.subkey=value")
    scratch = Document({}, "--set", document.base)
    value = _Reader(scratch).text(text, f"--set {name}")
    node = document.data
    for index, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            # A shorthand such as `model: file.onnx` becomes the mapping that it stands for.
            child = node[key] = {"source": child} if keys[: index + 1] == ["model"] else {}
        node = child
    node[keys[-1]] = value
    document.marks[tuple(keys)] = f"--set {name}"


class _Reader:
    """Builds plain values from YAML nodes; composing (not loading) keeps each node's mark."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.constructor = yaml.constructor.SafeConstructor()
        self.resolver: Any = yaml.resolver.Resolver()
        self.nodes = 0

    def text(self, text: str, name: str) -> object:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            node = yaml.compose(text, Loader=loader)
            return None if node is None else self.build(node, (), name)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
            raise ConfigError(f"this is not valid YAML: {exc.problem or exc.context}", where=where) from exc
        except (yaml.YAMLError, ValueError) as exc:
            raise ConfigError(f"this is not valid YAML: {exc}", where=name) from exc
        except RecursionError:
            raise ConfigError("this is nested too deeply", where=name) from None

    def build(self, node: Node, key: Key, name: str) -> object:
        where = f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
        self.document.marks[key] = where
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError(f"this unfolds into more than {MAX_NODES} values", where=where, hint="check its anchors")
        if isinstance(node, MappingNode):
            return self.mapping(node, key, name)
        if isinstance(node, SequenceNode):
            return [self.build(child, (*key, i), name) for i, child in enumerate(node.value)]
        return self.scalar(node, where)

    def mapping(self, node: MappingNode, key: Key, name: str) -> dict[str, object]:
        result: dict[str, object] = {}
        own: set[str] = set()
        for key_node, value_node in node.value:
            where = f"{name}:{key_node.start_mark.line + 1}:{key_node.start_mark.column + 1}"
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged = self.build(value_node, key, name)
                for part in merged if isinstance(merged, list) else [merged]:
                    if not isinstance(part, dict):
                        raise ConfigError("`<<` merges mappings only", where=where)
                    result = {**part, **result}
                continue
            if not isinstance(key_node, ScalarNode):
                raise ConfigError("a key must be plain text", where=where)
            text = str(key_node.value)
            if text in own:
                raise ConfigError(f"`{dotted((*key, text))}` stands twice", where=where, hint="remove one of them")
            own.add(text)
            result[text] = self.build(value_node, (*key, text), name)
        return result

    def scalar(self, node: Any, where: str) -> object:
        if "${" in node.value:
            node.value = _VARIABLE.sub(lambda match: _variable(match, where), node.value)
            if not node.style:
                # An unquoted ${N} takes the type of what it stands for, as if it had been written there.
                node.tag = self.resolver.resolve(ScalarNode, node.value, (True, False))
        try:
            return self.constructor.construct_object(node)
        except yaml.constructor.ConstructorError as exc:
            hint = "tags such as !!python/object are never executed; write plain values"
            raise ConfigError(f"{exc.problem}", where=where, hint=hint) from exc


def _variable(match: re.Match[str], where: str) -> str:
    if match[0] == "$$":
        return "$"
    value = os.environ.get(match[1], match[2])
    if value is None:
        hint = f"set it, or give a default: ${{{match[1]}:-value}}"
        raise ConfigError(f"the environment variable {match[1]} is not set", where=where, hint=hint)
    return value
