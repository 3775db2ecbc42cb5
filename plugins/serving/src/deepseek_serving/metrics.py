"""What Prometheus scrapes, made from the counts of the models when it asks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from deepseek_serving.statistics import Histogram

if TYPE_CHECKING:
    from deepseek_serving.server import Server

_MODEL = ("model", "version")
_TIMES = {
    "queue": "Time of requests from being taken to the start of their execution.",
    "execute": "Time of requests in the executor.",
    "total": "Time of requests from their last byte to the first of their answer.",
}


class Metrics(Collector):
    """Tells of a server's models.

    Args:
        server: whose.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, as the scraper accepts it."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def collect(self) -> Iterator[Any]:
        """All families, in the library's words."""
        for served in self._server.repository:
            served.statistics.fold()
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
        for served in self._server.repository:
            key, counted = (served.name, served.version), served.statistics
            requests.add_metric((*key, "success"), counted.success.count)
            requests.add_metric((*key, "error"), counted.fail.count)
            for cause, count in counted.errors.items():
                errors.add_metric((*key, cause), count)
            rows.add_metric(key, counted.rows)
            batches.add_metric(key, counted.executions)
            loads.add_metric(key, counted.loads)
        yield from (requests, errors, rows, batches, loads)

    def _states(self) -> Iterator[Any]:
        depth = GaugeMetricFamily("deepseek_inflight", "Requests that wait or run.", labels=_MODEL)
        ready = GaugeMetricFamily("deepseek_ready", "Whether the model takes requests.", labels=_MODEL)
        load = GaugeMetricFamily("deepseek_load_seconds", "How long the last load took.", labels=_MODEL)
        memory = GaugeMetricFamily(
            "deepseek_model_memory_bytes", "Resident memory that its build added.", labels=_MODEL
        )
        for served in self._server.repository:
            key = (served.name, served.version)
            depth.add_metric(key, len(served.calls))
            ready.add_metric(key, served.state == "READY")
            load.add_metric(key, served.statistics.load_seconds)
            memory.add_metric(key, served.memory_bytes)
        yield from (depth, ready, load, memory)
        yield GaugeMetricFamily("deepseek_connections", "Open HTTP connections.", self._server.front.connections)

    def _histograms(self) -> Iterator[Any]:
        for name, meaning in _TIMES.items():
            family = HistogramMetricFamily(f"deepseek_{name}_seconds", meaning, labels=_MODEL)
            for served in self._server.repository:
                _add(family, (served.name, served.version), getattr(served.statistics, f"{name}_time"))
            yield family
        sizes = HistogramMetricFamily("deepseek_batch_rows", "Rows of a batch.", labels=_MODEL)
        for served in self._server.repository:
            _add(sizes, (served.name, served.version), served.statistics.batch_rows)
        yield sizes

    def _usage(self) -> Iterator[Any]:
        labels = ("tenant", *_MODEL, "device")
        requests = CounterMetricFamily("deepseek_usage_requests", "Requests executed, by tenant.", labels=labels)
        rows = CounterMetricFamily("deepseek_usage_rows", "Rows computed, by tenant.", labels=labels)
        seconds = CounterMetricFamily(
            "deepseek_usage_compute_seconds", "Time in the executor, by tenant.", labels=labels
        )
        for row in self._server.admin.usage():
            key = (row["tenant"], row["model"], row["version"], row["device"])
            requests.add_metric(key, row["requests"])
            rows.add_metric(key, row["rows"])
            seconds.add_metric(key, row["compute_seconds"])
        yield from (requests, rows, seconds)


def _add(family: HistogramMetricFamily, key: tuple[str, str], histogram: Histogram) -> None:
    bounds = [f"{bound:g}" for bound in histogram.bounds] + ["+Inf"]
    family.add_metric(key, list(zip(bounds, accumulate(histogram.counts.tolist()), strict=True)), histogram.total)
