"""What a process tells of its models, and what several processes tell together.

Metrics, statistics, usage and the dashboard are all made from reports, so that it makes no difference how many worker
processes there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec


class Span(msgspec.Struct):
    """How often, and for how long in all: the protocol's "statistic duration"."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count more."""
        self.count += count
        self.ns += int(seconds * 1e9)


class Classes(msgspec.Struct):
    """A histogram: how often values fell into which class, and the sum of all values."""

    counts: list[int]
    total: float = 0.0


class Used(msgspec.Struct):
    """What a tenant used of a model on a device: the basis of billing."""

    tenant: str
    device: str
    requests: int = 0
    rows: int = 0
    seconds: float = 0.0


class Counts(msgspec.Struct):
    """All that is counted of one version of a model, since the server started.

    Attributes:
        success, fail, queue, compute_input, compute_infer, compute_output: as the protocol's extension "statistics".
        queue_time, execute_time, total_time: classes of seconds.
        batch_rows: classes of rows.
        batches: rows of a batch -> how long such batches took.
        rows, executions: of all batches.
        errors: cause -> requests that failed of it.
        usage: what tenants used.
        last: when the last request was answered, in milliseconds since the epoch.
        loads, load_seconds: how often it was loaded, and how long the last time took.
    """

    success: Span
    fail: Span
    queue: Span
    compute_input: Span
    compute_infer: Span
    compute_output: Span
    queue_time: Classes
    execute_time: Classes
    total_time: Classes
    batch_rows: Classes
    batches: dict[int, Span]
    rows: int
    executions: int
    errors: dict[str, int]
    usage: list[Used]
    last: int
    loads: int
    load_seconds: float


class ModelReport(msgspec.Struct):
    """A version of a model, as it is now. `state` is empty for one that is there no longer.

    Attributes:
        inflight: requests that were taken and not yet answered.
        queued: those of them that are not executed yet.
    """

    name: str
    version: str
    counts: Counts
    state: str = ""
    reason: str = ""
    platform: str = ""
    device: str = ""
    memory_bytes: int = 0
    inflight: int = 0
    queued: int = 0
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []


class Report(msgspec.Struct):
    """A process, or all of a server's.

    Attributes:
        started: when the first of them did, in seconds since the epoch.
        ready: whether all of them take requests.
        resident_bytes: memory of each process.
        models: those that are, and those that were.
        refusals: answers that are errors, by protocol and status.
        failures: how often models could not be loaded, by name.
    """

    started: float
    ready: bool
    connections: int
    resident_bytes: list[int]
    models: list[ModelReport]
    refusals: dict[str, int] = {}
    failures: dict[str, int] = {}

    @property
    def served(self) -> list[ModelReport]:
        """The models that are there."""
        return [model for model in self.models if model.state]


def together(reports: Iterable[Report]) -> Report:
    """Reports of several processes as one."""
    first, *others = reports
    for other in others:
        first.started = min(first.started, other.started)
        first.ready = first.ready and other.ready
        first.connections += other.connections
        first.resident_bytes += other.resident_bytes
        for mine, theirs in ((first.refusals, other.refusals), (first.failures, other.failures)):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
        known = {(model.name, model.version): model for model in first.models}
        for model in other.models:
            own = known.get((model.name, model.version))
            if own is None:
                first.models.append(model)
            else:
                _add_model(own, model)
    return first


def _add_model(mine: ModelReport, other: ModelReport) -> None:
    if not mine.state or (mine.state == "READY" and other.state):
        # The worse state counts.
        for name in ("state", "reason", "platform", "device", "inputs", "outputs"):
            setattr(mine, name, getattr(other, name) or getattr(mine, name))
    mine.memory_bytes += other.memory_bytes
    mine.inflight += other.inflight
    mine.queued += other.queued
    _add(mine.counts, other.counts)


def _add(mine: Counts, other: Counts) -> None:
    for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        _add_span(getattr(mine, name), getattr(other, name))
    for name in ("queue_time", "execute_time", "total_time", "batch_rows"):
        ours, theirs = getattr(mine, name), getattr(other, name)
        ours.counts = [a + b for a, b in zip(ours.counts, theirs.counts, strict=True)]
        ours.total += theirs.total
    for rows, span in other.batches.items():
        _add_span(mine.batches.setdefault(rows, Span()), span)
    for cause, count in other.errors.items():
        mine.errors[cause] = mine.errors.get(cause, 0) + count
    users = {(used.tenant, used.device): used for used in mine.usage}
    for used in other.usage:
        own = users.setdefault((used.tenant, used.device), Used(used.tenant, used.device))
        own.requests += used.requests
        own.rows += used.rows
        own.seconds += used.seconds
    mine.usage = list(users.values())
    mine.rows += other.rows
    mine.executions += other.executions
    mine.loads += other.loads
    mine.last = max(mine.last, other.last)
    mine.load_seconds = max(mine.load_seconds, other.load_seconds)


def _add_span(mine: Span, other: Span) -> None:
    mine.count += other.count
    mine.ns += other.ns
