"""Libraries that talk while they work: their graphs, notes and progress are of no use to whoever runs a pipeline."""

from __future__ import annotations

import importlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TextIO

#: Streams and warning filters belong to the process, and so does what PyTorch's exporter traces with.
_one_at_a_time = threading.RLock()


@contextmanager
def unlogged(library: str) -> Iterator[None]:
    """A block in which what this thread makes `library` log goes nowhere: what it raises is ours to report."""
    me = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != me

    speak: list[logging.Filterer] = []
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == library:
            # What loggers say that are made within the block comes to these handlers.
            speak += [logger, *logger.handlers]
    with ExitStack() as stack:
        for filterer in speak:
            filterer.addFilter(others)
            stack.callback(filterer.removeFilter, others)
        # The progress bars that libraries make, even those that are not shown, start a thread which never ends.
        with suppress(ImportError):
            tqdm = importlib.import_module("tqdm").tqdm
            stack.callback(setattr, tqdm, "monitor_interval", tqdm.monitor_interval)
            tqdm.monitor_interval = 0
        yield


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """The same, and what this thread prints or warns of goes nowhere either. One thread at a time enters."""
    me = threading.get_ident()
    with _one_at_a_time, unlogged(library), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(_Others(sys.stdout, me)), redirect_stderr(_Others(sys.stderr, me)):
            yield


class _Others(io.TextIOBase):
    """A stream that passes on what other threads write."""

    def __init__(self, stream: TextIO | None, me: int) -> None:
        self._stream = stream
        self._me = me

    def write(self, text: str) -> int:
        if self._stream is not None and threading.get_ident() != self._me:
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()
