"""explain, plugins, versions, schema: look at what is there; nothing is loaded or run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from deepseek import reader
from deepseek.cli import options
from deepseek.cli.tables import print_table
from deepseek.config import first_look
from deepseek.plugins import Plugin, discover, select
from deepseek.registry import Registry
from deepseek.versions import API, PLUGINS, VERSIONS, distribution, members, unwritten


@click.command()
@options.pipeline
@options.as_json
def explain(pipeline: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the plan of PIPELINE: who does what, who declined and why; load and run nothing."""
    from deepseek.kernel import explain as plan_of

    plan = plan_of(pipeline, overrides=overrides)
    print(json.dumps(plan.to_dict(), indent=2, default=str) if as_json else plan)


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path), required=False)
@options.as_json
def plugins(pipeline: Path | None, as_json: bool) -> None:
    """List installed plugins, and with PIPELINE which of them it uses, and why not the others."""
    found = discover()
    document = reader.read(pipeline if pipeline else {})
    chosen = first_look(document)
    # Every plugin is optional here: a broken one is a row of the table.
    registry = Registry(select(found, chosen, document.where), optional=[plugin.name for plugin in found])
    registry.sections()
    if as_json:
        print(json.dumps([_row(plugin) for plugin in registry.plugins], indent=2))
        return
    rows = [
        [item.name, str(item), item.api or "-", ", ".join(item.hooks) or "-", item.state, item.why]
        for item in registry.plugins
    ]
    print_table(["name", "distribution", "api", "hooks", "state", "why"], rows)
    if not rows:
        print("no plugin is installed; start with: pip install 'deepseek[v1]'")


def _row(plugin: Plugin) -> dict[str, Any]:
    return {name: getattr(plugin, name) for name in plugin.__struct_fields__ if name != "module"}


@click.command()
@options.as_json
def versions(as_json: bool) -> None:
    """List the curated plugin sets v1 to v6, and what of each is installed here."""
    installed = {plugin.name for plugin in discover()}
    rows = [_version(name, meaning, installed) for name, (meaning, _) in VERSIONS.items()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print_table(
        ["version", "stands for", "plugins", "state"],
        [[row["version"], row["stands_for"], ", ".join(row["plugins"]), row["state"]] for row in rows],
    )
    print(f"plugin API {API[0]}.{API[1]}")


def _version(name: str, meaning: str, installed: set[str]) -> dict[str, Any]:
    absent = unwritten(name)
    lacking = [distribution(plugin) for plugin in members(name) if plugin in PLUGINS and plugin not in installed]
    if absent:
        state = f"not complete: {', '.join(absent)} not written yet"
    elif lacking:
        state = f"not installed: {', '.join(lacking)} (pip install 'deepseek[{name}]')"
    else:
        state = "installed"
    return {"version": name, "stands_for": meaning, "plugins": list(members(name)), "state": state}


@click.command()
def schema() -> None:
    """Print the JSON Schema of a pipeline file, with the sections of every installed plugin."""
    from deepseek.schema import json_schema

    found = discover()
    registry = Registry(found, optional=[plugin.name for plugin in found])
    print(json.dumps(json_schema(registry.sections()), indent=2))
