"""Tells observers about every batch. Put around an executor only when there are observers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

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
        self._observers = [observer.batch for observer in observers]
        self._device = device

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        start = time.perf_counter()
        error: BaseException | None = None
        try:
            return self._execute(inputs, shares)
        except BaseException as exc:
            error = exc
            raise
        finally:
            batch = Batch(shares, self._device, time.perf_counter() - start, error)
            for observe in self._observers:
                _tell(observe, batch)

    def __getattr__(self, name: str) -> Any:
        # What an executor does beyond the protocol stays in reach.
        return getattr(self._executor, name)


def _tell(observe: Callable[[Batch], None], batch: Batch) -> None:
    try:
        observe(batch)
    # An observer's fault must not cost anybody an answer.
    except Exception:
        logger.exception("the observer %r raised; the request is answered all the same", observe)
