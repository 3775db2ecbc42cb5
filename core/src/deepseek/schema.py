"""The JSON Schema of a pipeline file: the kernel's keys and every installed plugin's section."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deepseek.config import KernelSettings, Settings
from deepseek.units import Duration, Percent, Size


def json_schema(sections: Mapping[str, type[Settings]]) -> dict[str, Any]:
    """A JSON Schema (2020-12) that editors use to complete and check a pipeline file."""
    kinds = [KernelSettings, *sections.values()]
    refs, definitions = msgspec.json.schema_components(kinds, schema_hook=_custom, ref_template="#/$defs/{name}")
    root = definitions.pop("KernelSettings")
    for name, ref in zip(sections, refs[1:], strict=True):
        root["properties"][name] = ref
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "title": "DeepSeek pipeline",
        "$defs": definitions,
    }


def _custom(kind: type) -> dict[str, Any]:
    if issubclass(kind, Path):
        return {"type": "string", "format": "path"}
    if issubclass(kind, Duration | Size | Percent):
        return {"type": ["string", "number"], "description": f"{kind.wanted[0].upper()}{kind.wanted[1:]}.", **kind.schema}
    raise NotImplementedError(kind)
