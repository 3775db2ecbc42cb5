"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def pipeline(command: F) -> F:
    """The pipeline file and what goes over it."""
    overrides = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one key, e.g. --set engine=torch."
    )
    return click.argument("pipeline", type=click.Path(path_type=Path))(overrides(command))


def as_json(command: F) -> F:
    """Machine-readable output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
