"""Measuring two ways of doing one thing side by side: in one process, in turn, medians of many rounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

#: Resamplings of a bootstrap interval (Efron 1979, percentile method).
RESAMPLED = 4000


def side_by_side(
    ours: Callable[[], Any], bare: Callable[[], Any], seconds: float, calls: int = 1, least: int = 30
) -> dict[str, Any]:
    """Seconds per call of both, and how they compare round by round.

    A round measures three things one after another: `bare`, `ours`, and `bare` again as a control, which shows what
    the machine makes of no difference at all. Each round begins with the next of the three, so that drift of the
    machine's speed and what one leaves in the caches fall on all alike.

    Args:
        ours: what is measured.
        bare: what it is measured beside.
        seconds: go on for so long.
        calls: of each in a round.
        least: rounds, however long they take.

    Returns:
        ``bare_s``, ``ours_s`` (medians of seconds per call); ``ratio`` of ours to bare, ``control`` of bare to bare
        and ``extra_us`` (ours less bare, microseconds), each with ``median`` of the rounds and ``low`` and ``high`` of
        its 95% interval; ``rounds``, ``calls``.
    """
    for _ in range(3):
        ours(), bare()
    works = (bare, ours, bare)
    times: list[list[float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < least:
        row = [0.0, 0.0, 0.0]
        for step in range(3):
            which = (len(times) + step) % 3
            row[which] = _seconds(works[which], calls)
        times.append(row)
    first, mine, second = np.array(times).T
    return {
        "bare_s": float(np.median(first)),
        "ours_s": float(np.median(mine)),
        # Against the geometric mean of both bare times: less noise than either.
        "ratio": interval(mine / np.sqrt(first * second)),
        "control": interval(second / first),
        "extra_us": interval((mine - (first + second) / 2) * 1e6),
        "rounds": len(times),
        "calls": calls,
    }


def interval(values: Any) -> dict[str, float]:
    """The median, and the 95% bootstrap interval of it."""
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLED, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), (0.025, 0.975))
    return {"median": float(np.median(values)), "low": float(low), "high": float(high)}


def _seconds(work: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls
