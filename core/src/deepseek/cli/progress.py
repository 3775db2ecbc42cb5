"""A progress bar on standard error, for people who wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Called with the number of finished files, or with None for one more item of the present file.
Tell = Callable[["int | None"], None]


@contextmanager
def progress(files: int, *, shown: bool) -> Iterator[Tell]:
    """Show files done of all, items answered, their rate and the time left; gone when the block ends.

    Args:
        files: how many there are in all.
        shown: False (no terminal): nothing is printed, and nothing imported.
    """
    if not shown:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[items]} items"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, items = bar.add_task("", total=files, items=0), 0

        def tell(done: int | None) -> None:
            nonlocal items
            items += done is None
            bar.update(task, completed=done, items=items)

        yield tell
