"""Measuring two ways of doing one thing side by side: in one process, in turn, medians of many rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def side_by_side(ours: Callable[[], Any], bare: Callable[[], Any], rounds: int, calls: int = 1) -> dict[str, float]:
    """Seconds per call of both, and how they compare round by round.

    The two take turns, and in every other round the second goes first, so that drift of the machine's speed
    and what one leaves in the caches fall on both alike.

    Returns:
        ``bare_s``, ``ours_s`` (medians), ``ratio`` (median of the rounds' ratios), ``ratio_low`` and
        ``ratio_high`` (quartiles), ``extra_us`` (median of the rounds' differences, microseconds).
    """
    for _ in range(max(3, rounds // 10)):
        ours(), bare()
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            mine = _seconds(ours, calls)
            theirs = _seconds(bare, calls)
        else:
            theirs = _seconds(bare, calls)
            mine = _seconds(ours, calls)
        times.append((mine, theirs))
    ratios = [mine / theirs for mine, theirs in times]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "bare_s": statistics.median(theirs for _, theirs in times),
        "ours_s": statistics.median(mine for mine, _ in times),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "extra_us": statistics.median(mine - theirs for mine, theirs in times) * 1e6,
        "rounds": rounds,
        "calls": calls,
    }


def _seconds(work: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls
