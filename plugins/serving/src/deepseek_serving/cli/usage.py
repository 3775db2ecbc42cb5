"""`deepseek usage`: who used how much of what."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from deepseek_serving.cli import options

if TYPE_CHECKING:
    from deepseek_serving.cli.asking import Client

_COLUMNS = ("tenant", "model", "version", "device", "requests", "rows", "compute_seconds")


@click.command()
@options.server
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", help="How to print.")
def usage(client: Client, form: str) -> None:
    """Print what each tenant used of each model on the server at URL, since it started."""
    told = client.json("/usage", field="usage")
    rows = told["usage"]
    if form == "json":
        click.echo(json.dumps(told, indent=2))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    else:
        _table(rows)


def _table(rows: list[dict[str, Any]]) -> None:
    cells = [_COLUMNS, *(tuple(_cell(row[column]) for column in _COLUMNS) for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(_COLUMNS))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value) or "-"
