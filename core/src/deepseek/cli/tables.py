"""Tables for people: aligned columns, wrapped to the terminal; plain when the output is not one."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings. In a pipe nothing is cut or wrapped, so that scripts see whole values."""
    if not rows:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        # Values are data: a name in square brackets is not markup.
        table.add_row(*(value.replace("[", r"\[") for value in row))
    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=10_000)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines() if line.strip()))
