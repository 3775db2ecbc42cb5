"""Writes docs/config.md from the settings of the kernel and of this repository's plugins: `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek.plugins import discover
from deepseek.registry import Registry
from deepseek.schema import struct_schema
from deepseek.settings import KernelSettings
from deepseek.versions import PLUGINS

TARGET = Path(__file__).parents[1] / "docs/config.md"
HEAD = """# Configuration reference

Made from the settings by `make docs`; do not edit. Paths are relative to the pipeline file, and any
value may be written `${NAME}` or `${NAME:-default}`, an environment variable.
`deepseek schema` prints the same as a JSON Schema.
"""


def reference() -> str:
    """The whole page."""
    registry = Registry(plugin for plugin in discover() if plugin.name in PLUGINS)
    lines = [HEAD, "## The kernel's keys\n", *rows("", struct_schema(KernelSettings))]
    for name, kind in sorted(registry.sections().items()):
        schema = struct_schema(kind)
        lines += [f"\n## `{name}`\n", f"{schema['description']}\n", *rows(f"{name}.", schema)]
    return "\n".join(lines) + "\n"


def rows(prefix: str, schema: dict[str, Any]) -> Iterator[str]:
    """A table of the keys of one section, nested ones with their whole names."""
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    yield from keys(prefix, schema)


def keys(prefix: str, schema: dict[str, Any]) -> Iterator[str]:
    """One row per key, depth first."""
    for name, field in schema["properties"].items():
        required = name in schema.get("required", ())
        default = "required" if required else f"`{plain(field['default'])}`" if "default" in field else ""
        described = field.get("description", "")
        yield f"| `{prefix}{name}` | {kind(field)} | {default} | {described} |"
        for arm in [field, *field.get("anyOf", [])]:
            if "properties" in arm:
                yield from keys(f"{prefix}{name}.", arm)
            inner = arm.get("additionalProperties")
            if isinstance(inner, dict) and "properties" in inner:
                yield from keys(f"{prefix}{name}.NAME.", inner)


def kind(field: dict[str, Any]) -> str:
    """A field's type in a few words."""
    if "enum" in field:
        return ", ".join(f"`{plain(value)}`" for value in field["enum"] if value != "")
    # Null is said by the default, and that a variable may stand anywhere at the page's head.
    arms = [arm for arm in field.get("anyOf", [field]) if arm.get("type") != "null" and "$ref" not in arm]
    if "examples" in field and any("pattern" in arm for arm in arms):
        return f"such as `{field['examples'][0]}`"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(kind(arm) for arm in arms))
    if field.get("format") == "path":
        return "path"
    if field.get("type") == "array":
        return f"list of {kind(field.get('items', {}))}"
    if field.get("type") == "object":
        return "mapping"
    limits = "".join(
        f" {sign} {field[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if key in field
    )
    return {"boolean": "true or false", "string": "text"}.get(field.get("type", ""), field.get("type", "any")) + limits


def plain(value: Any) -> str:
    """A default as one writes it in YAML."""
    return str(value).lower() if isinstance(value, bool) else '""' if value == "" else str(value)


if __name__ == "__main__":
    TARGET.write_text(reference())
    print(f"wrote {TARGET}", file=sys.stderr)
