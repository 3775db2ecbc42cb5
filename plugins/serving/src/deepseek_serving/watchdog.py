"""Looks from outside whether the event loop hangs in a model that is executed on it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from time import monotonic

from deepseek_serving.served import Served

logger = logging.getLogger("deepseek.serving")

#: EX_TEMPFAIL of sysexits.h: it is worth starting the process again.
EXIT_HUNG = 75
_EVERY = 1.0


class Watchdog:
    """A thread that ends the process when the loop hangs: nothing less gets a thread out of native code.

    A supervisor, whether ours or the system's, starts it again.

    Args:
        models: those of the server, as they are at the moment.
        limit: seconds that an execution on the loop may take; 0: any number.
    """

    def __init__(self, models: Iterable[Served], limit: float) -> None:
        self._models = models
        self._limit = limit
        self._ended = threading.Event()
        if limit:
            threading.Thread(target=self._run, name="deepseek-watchdog", daemon=True).start()

    def close(self) -> None:
        """Look no longer."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(min(_EVERY, self._limit / 4)):
            try:
                stuck = [served for served in self._models if served.entered and self._over(served.entered)]
            # The loop changed the models meanwhile: it does not hang.
            except RuntimeError:
                continue
            if stuck:
                logger.critical("the model `%s` hangs, and the server with it: it ends", stuck[0].name)
                os._exit(EXIT_HUNG)

    def _over(self, entered: float) -> bool:
        return monotonic() - entered > self._limit
