"""What `deepseek bench` counts: arrivals, percentiles, and the highest rate that meets a goal."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek_serving.bench import run
from deepseek_serving.bench.load import Sample, Target, arrivals
from deepseek_serving.bench.result import Result, evaluate

TARGET = Target("127.0.0.1", 1, b"")


def test_arrivals_come_at_their_rate() -> None:
    assert [round(at, 6) for at in arrivals(10, 0.45, poisson=False)] == [0, 0.1, 0.2, 0.3, 0.4]
    gaps = np.diff(list(arrivals(1000, 20, poisson=True)))
    assert abs(gaps.mean() - 1e-3) < 5e-5
    # Of a Poisson process the gaps' deviation is their mean.
    assert abs(gaps.std() - 1e-3) < 1e-4


def test_a_stall_is_seen_by_every_request_that_was_due_meanwhile() -> None:
    # Due each 10 ms, over one connection that was held for a second: all but the first were sent late, and quick.
    stalled = [Sample(0.0, 0.0, 1.0, 200)]
    stalled += [Sample(turn / 100, 1.0, 1.001, 200) for turn in range(1, 100)]
    result = evaluate("constant", [*stalled, Sample(1.0, 1.0, 1.5, 503)], 2.0, 100.0, 0.5)
    assert result.latency_ms["p50"] == pytest.approx(506, abs=1)
    assert result.latency_ms["p99"] == pytest.approx(991, abs=1)
    assert (result.service_ms["p50"], result.service_ms["p90"]) == (1, 1)
    assert (result.requests, result.rate, result.errors, result.client_cpu) == (100, 50, {"503": 1}, 0.25)


@pytest.mark.parametrize("capacity", [30, 730, 5200])
def test_the_highest_rate_that_meets_a_goal_is_found(capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def opened(target: Target, rate: float, seconds: float, *, poisson: bool) -> Result:
        asked.append(rate)
        # A server that carries so many requests a second, and keeps those beyond waiting.
        late = 0.001 if rate <= capacity else 0.5
        answered = min(rate, capacity)
        return evaluate("open", [Sample(0, 0, late, 200)] * int(answered * seconds), seconds, rate, 0.1)

    monkeypatch.setattr(run, "opened", opened)
    goal = run.Goal.parse("p99<50ms")
    results = list(run.ramp(TARGET, goal, 10.0, poisson=True))
    assert 0.95 * capacity <= run.best(results, goal) <= capacity
    # In steps that double, and then halve what is left.
    assert len(asked) <= 2 * np.log2(capacity)


def test_a_load_with_errors_meets_no_goal() -> None:
    good = [Sample(0, 0, 0.001, 200)] * 1000
    goal = run.Goal.parse("p50<10ms")
    assert goal.met(evaluate("open", [*good, Sample(0, 0, 0.001, 503)], 1.0, 100.0, 0.1))
    assert not goal.met(evaluate("open", good + [Sample(0, 0, 0.001, 503)] * 2, 1.0, 100.0, 0.1))
    assert not goal.met(evaluate("open", [Sample(0, 0, 0.02, 200)] * 1000, 1.0, 100.0, 0.1))
