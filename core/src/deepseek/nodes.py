"""YAML to plain values. Composing (not loading) keeps each node's place, and executes nothing."""

from __future__ import annotations

import os
import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from deepseek.document import Document, Key, dotted
from deepseek.errors import ConfigError

#: Anchors can make a small file unfold into a huge one; no honest pipeline comes near this.
MAX_NODES = 20_000
MAX_DEPTH = 50

_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class Reader:
    """Builds plain values from YAML nodes; composing (not loading) keeps each node's mark."""

    def __init__(self, document: Document, name: str) -> None:
        self.document = document
        self.name = name
        self.constructor = yaml.constructor.SafeConstructor()
        self.resolver: Any = yaml.resolver.Resolver()
        self.nodes = 0

    def text(self, text: str) -> object:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            self.check_depth(yaml.parse(text, Loader=loader))
            node = yaml.compose(text, Loader=loader)
            return None if node is None else self.build(node, ())
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            where = f"{self.name}:{mark.line + 1}:{mark.column + 1}" if mark else self.name
            raise ConfigError(f"this is not valid YAML: {exc.problem or exc.context}", where=where) from exc
        except (yaml.YAMLError, ValueError) as exc:
            raise ConfigError(f"this is not valid YAML: {exc}", where=self.name) from exc
        except RecursionError:
            raise ConfigError("this is nested too deeply", where=self.name) from None

    def check_depth(self, events: Any) -> None:
        """Refuse deep nesting before it is composed: the composer is recursive, and in C has no limit of its own."""
        depth = 0
        for event in events:
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                where = f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
                raise ConfigError(f"this is nested more than {MAX_DEPTH} deep", where=where)

    def build(self, node: Node, key: Key) -> object:
        where = f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
        self.document.marks[key] = where
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError(f"this unfolds into more than {MAX_NODES} values", where=where, hint="check its anchors")
        if isinstance(node, MappingNode | SequenceNode) and node.tag not in _PLAIN_TAGS:
            hint = "tags such as !!python/object are never executed; write plain values"
            raise ConfigError(f"`{node.tag}` is not a kind of value", where=where, hint=hint)
        if isinstance(node, MappingNode):
            return self.mapping(node, key)
        if isinstance(node, SequenceNode):
            return [self.build(child, (*key, i)) for i, child in enumerate(node.value)]
        return self.scalar(node, where)

    def mapping(self, node: MappingNode, key: Key) -> dict[str, object]:
        result: dict[str, object] = {}
        own: set[str] = set()
        for key_node, value_node in node.value:
            where = f"{self.name}:{key_node.start_mark.line + 1}:{key_node.start_mark.column + 1}"
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged = self.build(value_node, key)
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
            self.document.keys[(*key, text)] = where
            result[text] = self.build(value_node, (*key, text))
        return result

    def scalar(self, node: Any, where: str) -> object:
        if "${" in node.value:
            value = _VARIABLE.sub(lambda match: _variable(match, where), node.value)
            # An unquoted ${N} takes the type of what it stands for, as if it had been written there.
            tag = node.tag if node.style else self.resolver.resolve(ScalarNode, value, (True, False))
            # Not changed in place: an anchor's node is read again at each of its aliases.
            node = ScalarNode(tag, value, node.start_mark, node.end_mark, node.style)
        try:
            return self.constructor.construct_object(node)
        # `!!timestamp foo` and the like fail inside the constructor in ways of their own.
        except (yaml.constructor.ConstructorError, ValueError, KeyError, AttributeError, TypeError) as exc:
            hint = "tags such as !!python/object are never executed; write plain values"
            problem = getattr(exc, "problem", None) or f"`{node.value}` is not a value of the kind `{node.tag}`"
            raise ConfigError(problem, where=where, hint=hint) from exc


def _variable(match: re.Match[str], where: str) -> str:
    if match[0] == "$$":
        return "$"
    value = os.environ.get(match[1], match[2])
    if value is None:
        hint = f"set it, or give a default: ${{{match[1]}:-value}}"
        raise ConfigError(f"the environment variable {match[1]} is not set", where=where, hint=hint)
    return value
