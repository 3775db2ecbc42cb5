"""plugin new: write a whole working plugin distribution."""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import click

from deepseek.errors import OutputError
from deepseek.files import exists, output_errors
from deepseek.plugins import discover
from deepseek.registry import Registry
from deepseek.settings import KernelSettings
from deepseek.versions import API, VERSIONS

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


#: Names whose distributions, ``deepseek-NAME``, are DeepSeek's own, those that are not written yet included.
OURS = {"core", "deepseek", "fifo", "all"} | {name for _, added in VERSIONS.values() for name in added}
#: A plugin's template makes an engine and a kind of file of its name: these are others'.
KINDS = {"bin", "ckpt", "fake", "json", "keras", "onnx", "pb", "pt", "pt2", "pth", "safetensors", "saved_model"}
#: Text that YAML takes for something else.
YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null"}


@click.group()
def plugin() -> None:
    """Write plugins of your own."""


@plugin.command()
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path), default=Path(), help="Parent folder; default: here.")
def new(name: str, into: Path) -> None:
    """Write a working plugin distribution called NAME: package, hooks, settings, tests, README."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise click.UsageError(f"`{name}` must start with a letter, end with none of _, and hold only a-z, 0-9 and _")
    plugins = discover()
    registry = Registry(plugins, optional=[found.name for found in plugins])
    taken = {found.name for found in plugins} | set(registry.sections()) | set(KernelSettings.__struct_fields__)
    if name in taken | OURS | KINDS | YAML_WORDS:
        what = "by a plugin, a section, a key of the kernel, a kind of file, YAML, or a distribution of ours"
        raise click.UsageError(f"`{name}` is taken: {what}; choose another name")
    target = into / f"deepseek-{name.replace('_', '-')}"
    write(name, target)
    print(f"wrote {target}\n\nnext:\n  pip install -e '{target}[test]'\n  pytest {target}\n  deepseek plugins")


def write(name: str, target: Path) -> None:
    """Fill the template into `target`, all of it or nothing.

    Raises:
        OutputError: `target` exists, or can't be written.
    """
    if exists(target):
        raise OutputError("there is something already", where=str(target), hint="remove it, or choose another --into")
    from importlib.resources import files

    words = {
        "name": name,
        "dashed": name.replace("_", "-"),
        "Name": "".join(part.capitalize() for part in name.split("_")),
        "api": f"{API[0]}.{API[1]}",
    }
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        scratch.mkdir()
        try:
            _fill(files("deepseek") / "templates" / "plugin", scratch, words)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _fill(template: Traversable, folder: Path, words: dict[str, str]) -> None:
    """Copy a folder, with ``$name`` filled in in contents and ``NAME`` in file names; ``.tmpl`` goes."""
    for item in template.iterdir():
        path = folder / item.name.replace("NAME", words["name"]).removesuffix(".tmpl")
        if item.is_dir():
            path.mkdir()
            _fill(item, path, words)
        else:
            path.write_text(Template(item.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
