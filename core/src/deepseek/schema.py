"""The JSON Schema of a pipeline file: the kernel's keys and every installed plugin's section.

Settings are walked by hand, as in `deepseek.config`: msgspec describes the leaves, but can't state
defaults of types of our own (durations, sizes, paths).
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Union

import msgspec
from msgspec import Meta

from deepseek.settings import KernelSettings, Settings
from deepseek.units import Duration, Percent, Size


def json_schema(sections: Mapping[str, type[Settings]]) -> dict[str, Any]:
    """A JSON Schema (2020-12) that editors use to complete and check a pipeline file."""
    root = struct_schema(KernelSettings)
    own = root["properties"]
    own |= {name: struct_schema(kind) for name, kind in sections.items()}
    # What is named and left empty has its defaults.
    own |= {name: {**own[name], "type": ["object", "null"]} for name in ("plugins", *sections)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "title": "DeepSeek pipeline",
        "$defs": {"variable": {"type": "string", "pattern": r"\$\{", "description": "An environment variable."}},
    }


def struct_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """One settings class: its fields with types, limits, defaults and descriptions."""
    fields = msgspec.structs.fields(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    properties = {field.encode_name: _field(field, hints[field.name]) for field in fields}
    required = [field.encode_name for field in fields if field.required]
    return {
        "type": "object",
        "description": inspect.cleandoc(vars(kind).get("__doc__") or "").partition("\n")[0],
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _field(field: msgspec.structs.FieldInfo, kind: Any) -> dict[str, Any]:
    schema = _schema(kind)
    default = field.default_factory() if callable(field.default_factory) else field.default
    if default is not msgspec.NODEFAULT and default is not None and not isinstance(default, msgspec.Struct):
        own = isinstance(default, Path | Duration | Size | Percent)
        schema["default"] = str(default) if own else msgspec.to_builtins(default)
    return schema


def _schema(kind: Any) -> dict[str, Any]:
    if typing.get_origin(kind) is Annotated:
        bare, *extras = typing.get_args(kind)
        if not _holds_struct(bare):
            return _leaf(kind)
        described = [extra.description for extra in extras if isinstance(extra, Meta) and extra.description]
        return {**_schema(bare), **({"description": described[0]} if described else {})}
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return struct_schema(kind)
    if origin in (Union, types.UnionType) and _holds_struct(kind):
        return {"anyOf": [_schema(arm) for arm in args]}
    if origin is dict and _holds_struct(kind):
        return {"type": "object", "additionalProperties": _schema(args[1])}
    if origin is list and _holds_struct(kind):
        return {"type": "array", "items": _schema(args[0])}
    return _leaf(kind)


def _leaf(kind: Any) -> dict[str, Any]:
    """What msgspec says of a plain value; what is not any text may be written as ``${NAME}`` too."""
    schema = dict(msgspec.json.schema(kind, schema_hook=_custom))
    if schema.get("type") == "null" or (schema.get("type") == "string" and not {"enum", "pattern"} & schema.keys()):
        return schema
    told: dict[str, Any] = {key: schema.pop(key) for key in ("description", "examples", "title") if key in schema}
    arms = schema["anyOf"] if list(schema) == ["anyOf"] else [schema]
    return {"anyOf": [*arms, {"$ref": "#/$defs/variable"}], **told}


def _holds_struct(kind: Any) -> bool:
    if isinstance(kind, type) and not typing.get_args(kind):
        return issubclass(kind, msgspec.Struct)
    return any(_holds_struct(arm) for arm in typing.get_args(kind))


def _custom(kind: type) -> dict[str, Any]:
    if issubclass(kind, Path):
        return {"type": "string", "format": "path", "minLength": 1}
    if issubclass(kind, Duration | Size | Percent):
        examples = {"examples": list(kind.examples)}
        return {"anyOf": [{"type": "string", "pattern": kind.pattern}, dict(kind.plain)], **examples}
    raise NotImplementedError(kind)
