"""Tells observers about every batch. Put around an executor only when there are observers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from deepseek.errors import NOBODYS_FAULT
from deepseek.protocols import Executor, Observer
from deepseek.types import Batch, Share, Tensors

logger = logging.getLogger("deepseek")


class Observed:
    """An executor that reports each batch to its observers, failed ones included."""

    def __init__(self, executor: Executor, observers: Sequence[Observer], device: str) -> None:
        self.signature = executor.signature
        self.concurrency = executor.concurrency
        self.close = executor.close
        self._executor = executor
        self._execute = executor.run
        self._observers = list(observers)
        self._failed: set[int] = set()
        self._device = device

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        start = perf_counter()
        try:
            answer = self._execute(inputs, shares)
        except BaseException as exc:
            self._tell(Batch(shares, self._device, perf_counter() - start, exc))
            raise
        self._tell(Batch(shares, self._device, perf_counter() - start, None))
        return answer

    def __getattr__(self, name: str) -> Any:
        # What an executor does beyond the protocol stays in reach.
        return getattr(self._executor, name)

    def _tell(self, batch: Batch) -> None:
        for observer in self._observers:
            try:
                observer.batch(batch)
            except NOBODYS_FAULT:
                raise
            # An observer's fault must not cost anybody an answer.
            except BaseException as exc:
                self._note(observer, exc)

    def _note(self, observer: Observer, error: BaseException) -> None:
        """An observer has failed, which must not fill the log."""
        level = logging.DEBUG if id(observer) in self._failed else logging.WARNING
        self._failed.add(id(observer))
        text = "the observer %s raised %s: %s; requests are answered all the same"
        logger.log(level, text, type(observer).__name__, type(error).__name__, error)
