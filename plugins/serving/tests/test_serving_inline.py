"""Small models are executed on the event loop, once they have shown that they are small."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_serving.quickness import Quickness
from serving_pieces import Running, serving, write_models
from serving_puppets import works

ROW = [[1.0, 2.0, 3.0, 4.0]]


def where(running: Running, seen: set[int], **more: Any) -> bool:
    """Whether a request is executed on the loop."""
    seen.clear()
    assert running.infer("small", ROW, **more).status_code == 200
    return seen == {running.on_loop(threading.get_ident)}


def test_a_model_that_is_quick_is_executed_where_its_requests_are_read(tmp_path: Path) -> None:
    write_models(tmp_path, {"small": {"puppet": {"concurrency": 0}}})
    seen: set[int] = set()
    works["small.puppet"] = lambda inputs: seen.add(threading.get_ident()) or {"y": inputs["x"] * 2}  # type: ignore[func-returns-value]
    with serving(tmp_path, inline="1s") as running:
        assert not where(running, seen)
        for _ in range(1100):
            running.infer("small", ROW)
        assert where(running, seen)
        assert running.infer("small", ROW).json()["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0]
        # What may have to be stopped is not: one with a deadline, one that is large.
        assert not where(running, seen, parameters={"timeout": 10_000_000})
        large = np.ones((2000, 4), np.float32)
        seen.clear()
        assert running.infer("small", large).status_code == 200
        assert running.on_loop(threading.get_ident) not in seen
        # A failure is its request's alone.
        works["small.puppet"] = lambda inputs: 1 / 0  # type: ignore[return-value, arg-type]
        assert running.infer("small", ROW).status_code == 500
        stats = running.http.get("/v2/models/small/stats").json()["model_stats"][0]["inference_stats"]
        assert (stats["success"]["count"], stats["fail"]["count"]) == (1105, 1)


HANG = """
import sys, threading
sys.path.insert(0, {tests!r})
from pathlib import Path
from serving_pieces import serving, write_models
from serving_puppets import works
folder = Path({folder!r})
write_models(folder, {{"small": {{"puppet": {{"concurrency": 0}}}}}})
with serving(folder, inline="1s", stall="300ms") as running:
    for _ in range(1100):
        running.infer("small", [[1.0] * 4])
    works["small.puppet"] = lambda inputs: threading.Event().wait()
    running.infer("small", [[1.0] * 4])
"""


@pytest.mark.slow
def test_one_that_hangs_there_ends_the_process_for_a_supervisor_to_start_again(tmp_path: Path) -> None:
    script = HANG.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "models"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 75, done.stderr
    assert "hangs" in done.stderr


def looks(quickness: Quickness, count: int, runs: int, seconds: float) -> list[bool]:
    """What so many looks say, before each of which so many executions took so long."""
    said = []
    for _ in range(count):
        quickness.took += [seconds] * runs
        said.append(quickness.look(50e-6))
    return said


def test_one_slow_execution_among_thousands_says_nothing_of_the_model() -> None:
    quickness = Quickness()
    quickness.alone = 10e-6
    assert all(looks(quickness, 50, 300, 10e-6))
    # Not before somebody has looked, and then again: when much is known of the model, and when little is.
    for seen in (300, 0, 1):
        assert all(looks(quickness, 500, seen, 10e-6))
        quickness.took.append(0.1)
        assert all(looks(quickness, 50, seen, 10e-6))


def test_a_model_that_was_slow_is_not_executed_there_for_a_minute() -> None:
    quickness = Quickness()
    quickness.alone = 10e-6
    assert all(looks(quickness, 50, 300, 10e-6))
    quickness.took.append(1.0)
    said = looks(quickness, 3100, 0, 0.0)
    assert (said[0], said.index(True)) == (False, 2999)
    # Not by much, but always.
    assert not looks(quickness, 20, 100, 60e-6)[-1]


def test_a_model_that_was_slow_alone_is_never_executed_there() -> None:
    quickness = Quickness()
    assert not quickness.look(50e-6)
    quickness.alone = 60e-6
    assert not any(looks(quickness, 10, 100, 10e-6))
