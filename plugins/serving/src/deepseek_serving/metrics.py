"""What Prometheus scrapes, made from the counts of the models when it asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from deepseek_serving.admin import usage_rows
from deepseek_serving.reports import Classes, Report
from deepseek_serving.statistics import SIZES, TIMES

_MODEL = ("model", "version")
_TIMES = {
    "queue": "Time of requests from being taken to the start of their execution.",
    "execute": "Time of requests in the executor.",
    "total": "Time of requests from their last byte to the first of their answer.",
}


class Metrics(Collector):
    """Tells of a server.

    Args:
        report: what its processes counted.
        tenant: whose usage is told; None: everybody's.
    """

    def __init__(self, report: Report, tenant: str | None = None) -> None:
        self._report = report
        self._tenant = tenant

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, as the scraper accepts it."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        encode, kind = choose_encoder(accept)
        return encode(registry), kind

    def collect(self) -> Iterator[Any]:
        """All families, in the library's words."""
        yield from self._counts()
        yield from self._states()
        yield from self._histograms()
        yield from self._usage()

    def _counts(self) -> Iterator[Any]:
        requests = CounterMetricFamily("deepseek_requests", "Requests answered.", labels=(*_MODEL, "outcome"))
        errors = CounterMetricFamily("deepseek_errors", "Requests that got an error.", labels=(*_MODEL, "cause"))
        rows = CounterMetricFamily("deepseek_rows", "Rows computed.", labels=_MODEL)
        batches = CounterMetricFamily("deepseek_batches", "Batches executed.", labels=_MODEL)
        loads = CounterMetricFamily("deepseek_loads", "Times that the model was loaded (cold starts).", labels=_MODEL)
        for model in self._report.models:
            key, counts = (model.name, model.version), model.counts
            requests.add_metric((*key, "success"), counts.success.count)
            requests.add_metric((*key, "error"), counts.fail.count)
            for cause, count in counts.errors.items():
                errors.add_metric((*key, cause), count)
            rows.add_metric(key, counts.rows)
            batches.add_metric(key, counts.executions)
            loads.add_metric(key, counts.loads)
        refusals = CounterMetricFamily(
            "deepseek_error_answers", "Answers that are errors, whatever was asked.", labels=("protocol", "status")
        )
        for status, count in self._report.refusals.items():
            refusals.add_metric(status.split(), count)
        failures = CounterMetricFamily(
            "deepseek_load_failures", "Times that the model could not be loaded.", labels=("model",)
        )
        for name, count in self._report.failures.items():
            failures.add_metric((name,), count)
        yield from (requests, errors, rows, batches, loads, failures, refusals)

    def _states(self) -> Iterator[Any]:
        depth = GaugeMetricFamily("deepseek_inflight", "Requests that wait or run.", labels=_MODEL)
        queue = GaugeMetricFamily("deepseek_queue_depth", "Requests that wait for their execution.", labels=_MODEL)
        ready = GaugeMetricFamily(
            "deepseek_ready", "Whether the model takes requests; 0 also once it is gone.", labels=_MODEL
        )
        load = GaugeMetricFamily("deepseek_load_seconds", "How long the last load took.", labels=_MODEL)
        memory = GaugeMetricFamily(
            "deepseek_model_memory_bytes",
            "Resident memory that its build added; an engine's libraries count for its first model.",
            labels=_MODEL,
        )
        for model in self._report.models:
            ready.add_metric((model.name, model.version), model.state == "READY")
        for model in self._report.served:
            key = (model.name, model.version)
            depth.add_metric(key, model.inflight)
            queue.add_metric(key, model.queued)
            load.add_metric(key, model.counts.load_seconds)
            memory.add_metric(key, model.memory_bytes)
        yield from (depth, queue, ready, load, memory)
        yield GaugeMetricFamily("deepseek_connections", "Open HTTP connections.", self._report.connections)
        workers = GaugeMetricFamily("deepseek_worker_resident_bytes", "Memory of each process.", labels=("worker",))
        for number, size in enumerate(self._report.resident_bytes):
            workers.add_metric((str(number),), size)
        yield workers

    def _histograms(self) -> Iterator[Any]:
        for name, meaning in _TIMES.items():
            family = HistogramMetricFamily(f"deepseek_{name}_seconds", meaning, labels=_MODEL)
            for model in self._report.models:
                _add(family, (model.name, model.version), TIMES, getattr(model.counts, f"{name}_time"))
            yield family
        sizes = HistogramMetricFamily("deepseek_batch_rows", "Rows of a batch.", labels=_MODEL)
        for model in self._report.models:
            _add(sizes, (model.name, model.version), SIZES, model.counts.batch_rows)
        yield sizes

    def _usage(self) -> Iterator[Any]:
        labels = ("tenant", *_MODEL, "device")
        requests = CounterMetricFamily("deepseek_usage_requests", "Requests executed, by tenant.", labels=labels)
        rows = CounterMetricFamily("deepseek_usage_rows", "Rows computed, by tenant.", labels=labels)
        seconds = CounterMetricFamily(
            "deepseek_usage_compute_seconds", "Time in the executor, by tenant.", labels=labels
        )
        for row in usage_rows(self._report, self._tenant):
            key = (row["tenant"], row["model"], row["version"], row["device"])
            requests.add_metric(key, row["requests"])
            rows.add_metric(key, row["rows"])
            seconds.add_metric(key, row["compute_seconds"])
        yield from (requests, rows, seconds)


def _add(family: HistogramMetricFamily, key: tuple[str, str], bounds: Sequence[float], classes: Classes) -> None:
    names = [f"{bound:g}" for bound in bounds] + ["+Inf"]
    family.add_metric(key, list(zip(names, accumulate(classes.counts), strict=True)), classes.total)
