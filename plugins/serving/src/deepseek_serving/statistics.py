"""What is counted of a model.

On the road of a request only notes are taken; they are folded into the counts later, many at a time.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import copy
from types import ModuleType
from typing import Any

import numpy as np

from deepseek.plugin import Batch, Observer, hookimpl
from deepseek_serving.reports import Classes, Counts, Span, Used

#: Upper bounds of the classes of time, in seconds: 18 us to 100 s, each 1.78 times the one before.
TIMES = tuple(round(10 ** (exponent / 4), 9) for exponent in range(-19, 9))
#: Upper bounds of the classes of batch sizes, in rows.
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
#: Sizes of batches that are counted one by one.
_ROWS = 1024
#: When a request arrived, was queued, was started, ended, and was answered: of one clock, in seconds.
Times = tuple[float, float, float, float, float]
_SPANS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


class Histogram:
    """How often values fell into which class.

    Args:
        bounds: upper bounds of the classes, ascending; one more class takes what is above.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = np.zeros(len(bounds) + 1, np.int64)
        self.total = 0.0

    def add(self, values: np.ndarray[Any, Any]) -> None:
        """Count values."""
        places = np.searchsorted(self.bounds, values)
        self.counts += np.bincount(places, minlength=len(self.counts))
        self.total += float(values.sum())

    def count(self, value: float, times: int) -> None:
        """Count a value so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def classes(self) -> Classes:
        """For a report."""
        return Classes(self.counts.tolist(), self.total)


class Statistics:
    """Counts one version of a model. Outlives its pipelines: a reload goes on counting."""

    def __init__(self) -> None:
        self.loads = 0
        self.load_seconds = 0.0
        self._spans = {name: Span() for name in _SPANS}
        self._times = {name: Histogram(TIMES) for name in ("queue_time", "execute_time", "total_time")}
        self._sizes = Histogram(SIZES)
        self._batches: dict[int, Span] = {}
        self._rows = self._executions = self._last = 0
        self._errors: dict[str, int] = {}
        self._usage: dict[tuple[str, str], Used] = {}
        #: Bare numbers, which are no objects to be kept and looked through until they are folded.
        self._notes = array("d")
        #: Counts a request that was answered; takes its `Times`. On the loop.
        self.succeeded: Callable[[Times], None] = self._notes.extend
        self._seen: list[Batch] = []
        #: As an observer: called on the executing thread with each batch.
        self.batch = self._seen.append

    def failed(self, why: str, seconds: float) -> None:
        """Count a request that got an error."""
        self._spans["fail"].add(seconds)
        self._errors[why] = self._errors.get(why, 0) + 1

    def spoiled(self, why: str) -> None:
        """The request that was counted just now got an error after all."""
        arrived, *_, answered = self._notes[-5:]
        del self._notes[-5:]
        self.failed(why, answered - arrived)

    def close(self) -> None:
        """As an observer: there is nothing to be written."""

    def fold(self) -> None:
        """Bring the counts up to the last note. On the loop."""
        if self._notes:
            self._fold_requests(np.array(self._notes).reshape(-1, 5))
            del self._notes[:]
        count = len(self._seen)
        if count:
            # Another thread appends meanwhile.
            batches = self._seen[:count]
            del self._seen[:count]
            self._fold_batches(batches)

    def counts(self) -> Counts:
        """All of it, for a report, which adds others' counts to its own."""
        self.fold()
        spans: Any = {name: Span(span.count, span.ns) for name, span in self._spans.items()}
        times: Any = {name: histogram.classes() for name, histogram in self._times.items()}
        return Counts(
            **spans, **times,
            batch_rows=self._sizes.classes(), rows=self._rows, executions=self._executions,
            batches={rows: copy(span) for rows, span in self._batches.items()},
            usage=[copy(used) for used in self._usage.values()], errors=dict(self._errors), last=self._last,
            loads=self.loads, load_seconds=self.load_seconds,
        )  # fmt: skip

    def _fold_requests(self, times: np.ndarray[Any, Any]) -> None:
        arrived, queued, started, ended, answered = times.T
        waited, executed, total = started - queued, ended - started, answered - arrived
        for name, seconds in (
            ("success", total), ("queue", waited), ("compute_input", queued - arrived), ("compute_infer", executed),
            ("compute_output", answered - ended),
        ):  # fmt: skip
            self._spans[name].add(float(seconds.sum()), len(times))
        for name, seconds in (("queue_time", waited), ("execute_time", executed), ("total_time", total)):
            self._times[name].add(seconds)
        self._last = int((time.time() - time.monotonic() + float(answered[-1])) * 1000)

    def _fold_batches(self, batches: list[Batch]) -> None:
        # Batches of one request are the most by far: the alike are counted together.
        alike: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
        for batch in batches:
            shares = batch.shares
            # One that failed gave nobody anything, and nobody is billed; one without shares is a warm-up.
            if batch.error is not None or not shares:
                continue
            if len(shares) == 1:
                share = shares[0]
                alike[share.options.tenant, batch.device, share.rows].append(batch.seconds)
                continue
            rows = batch.rows
            self._executed(rows, 1, batch.seconds)
            for share in shares:
                self._use(share.options.tenant, batch.device, 1, share.rows, batch.seconds * share.rows / (rows or 1))
        for (tenant, device, rows), seconds in alike.items():
            self._executed(rows, len(seconds), sum(seconds))
            self._use(tenant, device, len(seconds), rows * len(seconds), sum(seconds))

    def _executed(self, rows: int, count: int, seconds: float) -> None:
        """Count batches of so many rows each."""
        if rows in self._batches or len(self._batches) < _ROWS:
            self._batches.setdefault(rows, Span()).add(seconds, count)
        self._rows += rows * count
        self._executions += count
        self._sizes.count(rows, count)

    def _use(self, tenant: str, device: str, requests: int, rows: int, seconds: float) -> None:
        """Count what a tenant used."""
        key = (tenant, device)
        used = self._usage.get(key) or self._usage.setdefault(key, Used(*key))
        used.requests += requests
        used.rows += rows
        used.seconds += seconds


def meter(statistics: Statistics) -> ModuleType:
    """A plugin of one hook, which lets the statistics see every batch of the pipeline that is built with it."""
    module = ModuleType("deepseek-serving-meter")

    @hookimpl
    def observe() -> Observer:
        return statistics

    module.__dict__["observe"] = observe
    return module
