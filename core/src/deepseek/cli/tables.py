"""Tables for people: aligned columns, folded to the terminal's width; whole values when the output is a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings. In a pipe nothing is cut or folded, so that scripts see whole values."""
    if not rows:
        return
    if sys.stdout.isatty():
        _for_terminals(headings, rows)
        return
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, ["-" * width for width in widths], *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _for_terminals(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Imported here: rich takes longer to load than most commands take.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        # Values are data: a name in square brackets is not markup.
        table.add_row(*map(Text, row))
    Console().print(table)
