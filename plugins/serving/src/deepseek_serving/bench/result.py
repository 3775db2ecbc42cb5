"""What a load came to: rates and percentiles, as a table, JSON and a plot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from deepseek.plugin import MissingLibraryError, atomic_write
from deepseek_serving.bench.load import Sample

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
NAMES = tuple(f"p{percentile:g}" for percentile in PERCENTILES)


class Result(msgspec.Struct):
    """One load, and its outcome.

    Attributes:
        load: what it was (``closed, 64 clients``).
        seconds: how long it lasted.
        requests: answered with 200.
        rate: of those, per second.
        wanted: requests per second that should have been sent; 0: a closed loop.
        errors: status -> how many; 0: the connection broke.
        latency_ms: percentile -> milliseconds from the time when a request was due.
        service_ms: the same from the time when it was sent: what a client that waits would see.
        client_cpu: share of a core that the load itself took.
    """

    load: str
    seconds: float
    requests: int
    rate: float
    wanted: float
    errors: dict[str, int]
    latency_ms: dict[str, float]
    service_ms: dict[str, float]
    client_cpu: float


def evaluate(load: str, samples: list[Sample], seconds: float, wanted: float, cpu: float) -> Result:
    """The outcome of a load."""
    good = [sample for sample in samples if sample.status == 200]
    errors = Counter(str(sample.status) for sample in samples if sample.status != 200)
    lasted = max([seconds, *(sample.done for sample in good)])
    late = np.array([sample.done - sample.due for sample in good])
    served = np.array([sample.done - sample.sent for sample in good])
    return Result(
        load, lasted, len(good), len(good) / lasted, wanted, dict(errors), _percentiles(late), _percentiles(served),
        cpu / lasted,
    )  # fmt: skip


def _percentiles(seconds: np.ndarray[Any, Any]) -> dict[str, float]:
    if not len(seconds):
        return {}
    values = np.percentile(seconds, PERCENTILES) * 1000
    return {f"p{share:g}": round(float(value), 3) for share, value in zip(PERCENTILES, values, strict=True)}


def line(result: Result) -> str:
    """One line for people."""
    times = "  ".join(f"{name} {value:.2f}" for name, value in result.latency_ms.items() if name != "p95")
    errors = ", ".join(f"{count} x {'broken' if status == '0' else status}" for status, count in result.errors.items())
    return f"{result.load:<28} {result.rate:>9.1f}/s  {times} ms  {errors or 'no errors'}"


def write(path: Path, about: dict[str, Any], results: list[Result]) -> None:
    """All of it as JSON. Raises OutputError."""
    content = msgspec.json.format(msgspec.json.encode({**about, "results": results}), indent=2)
    with atomic_write(path) as scratch:
        scratch.write_bytes(content + b"\n")


def plot(path: Path, title: str, results: list[Result]) -> None:
    """Latency against the rate that was reached. Raises OutputError, MissingLibraryError."""
    try:
        import matplotlib as mpl
    except ImportError as exc:
        hint = "pip install 'deepseek-serving[bench]'"
        raise MissingLibraryError("a plot needs matplotlib, which is not installed", hint=hint) from exc
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    ordered = sorted(results, key=lambda result: result.wanted or result.rate)
    for name in ("p50", "p90", "p99"):
        points = [(result.rate, result.latency_ms[name]) for result in ordered if name in result.latency_ms]
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set(xlabel="answered requests per second", ylabel="latency, ms", title=title, yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    with atomic_write(path) as scratch:
        figure.savefig(scratch, format=path.suffix.removeprefix(".") or "png", dpi=120)
    pyplot.close(figure)
