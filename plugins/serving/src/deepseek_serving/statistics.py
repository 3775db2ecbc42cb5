"""What is counted of a model.

On the road of a request only notes are taken, two appends; they are folded into the counts later, many at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from deepseek.plugin import Batch

#: Upper bounds of the classes of time, in seconds: 18 us to 100 s, each 1.78 times the one before.
TIMES = tuple(round(10 ** (exponent / 4), 9) for exponent in range(-19, 9))
#: Upper bounds of the classes of batch sizes, in rows.
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
#: Notes that are taken before they are folded.
_NOTES = 4096


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


def percentile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float:
    """The value below which a share of the counted values lies, linear within its class; 0.0 without values."""
    wanted = share * sum(counts)
    if not wanted:
        return 0.0
    below = 0.0
    for index, count in enumerate(counts):
        if below + count >= wanted:
            low = bounds[index - 1] if index else 0.0
            high = bounds[min(index, len(bounds) - 1)]
            return float(low + (high - low) * (wanted - below) / count)
        below += count
    return float(bounds[-1])


class Span(msgspec.Struct):
    """How often, and for how long in all: the protocol's "statistic duration"."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count more."""
        self.count += count
        self.ns += int(seconds * 1e9)


class Usage(msgspec.Struct):
    """What a tenant used of a model on a device: the basis of billing."""

    requests: int = 0
    rows: int = 0
    seconds: float = 0.0


class Statistics:
    """All that is counted of one version of a model. Outlives its pipelines: a reload goes on counting.

    Attributes:
        success, fail, queue, compute_input, compute_infer, compute_output: as the protocol's extension "statistics".
        batches: rows of a batch -> how long such batches took.
        rows, executions: of all batches.
        errors: cause -> requests that failed of it.
        queue_time, execute_time, total_time: classes of seconds.
        usage: (tenant, device) -> what it used.
        last: when the last request was answered, in milliseconds since the epoch.
        loads, load_seconds: how often it was loaded, and how long the last time took.
    """

    def __init__(self) -> None:
        self.success, self.fail, self.queue = Span(), Span(), Span()
        self.compute_input, self.compute_infer, self.compute_output = Span(), Span(), Span()
        self.batches: dict[int, Span] = {}
        self.batch_rows = Histogram(SIZES)
        self.rows = self.executions = self.last = self.loads = 0
        self.load_seconds = 0.0
        self.errors: dict[str, int] = {}
        self.queue_time, self.execute_time, self.total_time = Histogram(TIMES), Histogram(TIMES), Histogram(TIMES)
        self.usage: dict[tuple[str, str], Usage] = {}
        self._answered: list[tuple[float, float, float, float, float]] = []
        self._batches: list[Batch] = []
        #: As an observer: called on the executing thread with each batch.
        self.batch = self._batches.append

    def succeeded(self, arrived: float, queued: float, started: float, ended: float, answered: float) -> None:
        """Count a request from its points in time, all of one clock, in seconds."""
        notes = self._answered
        notes.append((arrived, queued, started, ended, answered))
        if len(notes) >= _NOTES:
            self.fold()

    def failed(self, why: str, seconds: float) -> None:
        """Count a request that got an error."""
        self.fail.add(seconds)
        self.errors[why] = self.errors.get(why, 0) + 1

    def close(self) -> None:
        """As an observer: there is nothing to be written."""

    def fold(self) -> None:
        """Bring the counts up to the last note. On the loop."""
        if self._answered:
            notes, self._answered = self._answered, []
            self._fold_requests(np.array(notes))
        count = len(self._batches)
        if count:
            # Another thread appends meanwhile.
            batches = self._batches[:count]
            del self._batches[:count]
            self._fold_batches(batches)

    def _fold_requests(self, times: np.ndarray[Any, Any]) -> None:
        arrived, queued, started, ended, answered = times.T
        waited, executed, total = started - queued, ended - started, answered - arrived
        count = len(times)
        for span, seconds in (
            (self.success, total), (self.queue, waited), (self.compute_input, queued - arrived),
            (self.compute_infer, executed), (self.compute_output, answered - ended),
        ):  # fmt: skip
            span.add(float(seconds.sum()), count)
        self.queue_time.add(waited)
        self.execute_time.add(executed)
        self.total_time.add(total)
        self.last = int((time.time() - time.monotonic() + float(answered[-1])) * 1000)

    def _fold_batches(self, batches: list[Batch]) -> None:
        sizes = []
        for batch in batches:
            # A run that nobody asked for: a warm-up.
            if not batch.shares:
                continue
            rows = batch.rows
            if batch.error is None:
                sizes.append(rows)
                self.batches.setdefault(rows, Span()).add(batch.seconds)
            for share in batch.shares:
                usage = self.usage.setdefault((share.options.tenant, batch.device), Usage())
                usage.requests += 1
                usage.rows += share.rows
                usage.seconds += batch.seconds * share.rows / (rows or 1)
        self.rows += sum(sizes)
        self.executions += len(sizes)
        if sizes:
            self.batch_rows.add(np.array(sizes))

    def protocol(self, name: str, version: str) -> dict[str, Any]:
        """As the protocol's extension "statistics" has it; batch statistics know the time of inference only."""
        self.fold()
        spans = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
        stats = {span: msgspec.to_builtins(getattr(self, span)) for span in spans}
        none = {"count": 0, "ns": 0}
        return {
            "name": name, "version": version, "last_inference": self.last, "inference_count": self.rows,
            "execution_count": self.executions,
            "inference_stats": {**stats, "cache_hit": none, "cache_miss": none},
            "batch_stats": [
                {"batch_size": rows, "compute_input": none, "compute_infer": msgspec.to_builtins(span),
                 "compute_output": none}
                for rows, span in sorted(self.batches.items())
            ],
        }  # fmt: skip
