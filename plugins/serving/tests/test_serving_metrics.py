"""The metrics are true: each tells of what is the case."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepseek_serving.asking import predict
from deepseek_serving.calls import CodedCall
from deepseek_serving.oip.requests import Question
from kernel_pieces import until
from serving_pieces import Running, later, serving, write_models
from serving_puppets import Blocked, gates

ROW = [[1.0, 2.0, 3.0, 4.0]]


def told(running: Running, family: str, **labels: str) -> float | None:
    """A number of ``/metrics``; None: it is not there."""
    for name, given, value in re.findall(r"^(\w+)(?:{(.*)})? (\S+)$", running.http.get("/metrics").text, re.M):
        if name == family and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', given)).items():
            return float(value)
    return None


def test_what_waits_is_in_the_queue_and_what_finds_it_full_is_told_apart(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": {"fifo": {"max_queue": 2}}})
    model = Blocked("slow.puppet")
    with serving(tmp_path, inline="0us") as running:
        first = later(running, 1.0)
        model.entered.acquire()
        waiting = [later(running, value) for value in (2.0, 3.0)]
        until(lambda: told(running, "deepseek_inflight", model="slow") == 3)
        assert told(running, "deepseek_queue_depth", model="slow") == 2
        refused = running.infer("slow", ROW)
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert told(running, "deepseek_errors_total", model="slow", cause="overloaded") == 1
        model.go.set()
        assert [future.result().status_code for future in (first, *waiting)] == [200] * 3
        assert told(running, "deepseek_queue_depth", model="slow") == 0
        assert told(running, "deepseek_requests_total", model="slow", outcome="success") == 3
        assert told(running, "deepseek_requests_total", model="slow", outcome="error") == 1
        assert told(running, "deepseek_batches_total", model="slow") == 3
        assert told(running, "deepseek_rows_total", model="slow") == 3
        assert told(running, "deepseek_batch_rows_bucket", model="slow", le="1") == 3
        assert told(running, "deepseek_usage_compute_seconds_total", model="slow", device="cpu") > 0
        # Two of them waited for the first.
        assert told(running, "deepseek_queue_seconds_sum", model="slow") > 0
        assert told(running, "deepseek_execute_seconds_count", model="slow") == 3


def test_states_and_loads(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": "", "float": {"onnx": {}}})
    with serving(tmp_path, allow=["load"], watch=0) as running:
        assert running.infer("echo", ROW).status_code == 200
        assert told(running, "deepseek_loads_total", model="echo") == 1
        assert told(running, "deepseek_load_seconds", model="echo") > 0
        assert told(running, "deepseek_model_memory_bytes", model="float") > 0
        assert told(running, "deepseek_load_failures_total", model="echo") is None
        (tmp_path / "echo" / "echo.puppet").write_text("broken")
        assert running.http.post("/v2/repository/models/echo/load").status_code == 500
        assert told(running, "deepseek_load_failures_total", model="echo") == 1
        assert told(running, "deepseek_ready", model="echo") == 1
        [row] = [row for row in running.http.post("/v2/repository/index").json() if row["name"] == "echo"]
        assert (row["state"], "its new files could not be loaded" in row["reason"]) == ("READY", True)
        (tmp_path / "echo" / "echo.puppet").write_text("")
        assert running.http.post("/v2/repository/models/echo/load").status_code == 200
        assert told(running, "deepseek_loads_total", model="echo") == 2
        assert {row["reason"] for row in running.http.post("/v2/repository/index").json()} == {""}
        assert running.http.post("/v2/repository/models/echo/unload").status_code == 200
        # Counters that vanish would count backwards when it comes again.
        assert told(running, "deepseek_ready", model="echo") == 0
        assert told(running, "deepseek_requests_total", model="echo", outcome="success") == 1
        assert told(running, "deepseek_inflight", model="echo") is None


def test_nothing_is_ready_before_everything_is(tmp_path: Path) -> None:
    write_models(tmp_path, {"alpha": "", "zulu": "hang"})
    go = gates["zulu.puppet"] = threading.Event()
    with serving(tmp_path, early=True) as running:
        until(lambda: running.http.get("/v2/models/alpha/ready").status_code == 200)
        assert running.http.get("/v2/health/live").status_code == 200
        assert running.http.get("/v2/health/ready").status_code == 400
        assert running.http.get("/v2/models/zulu/ready").status_code == 400
        assert running.infer("alpha", ROW).status_code == 200
        go.set()
        until(lambda: running.http.get("/v2/health/ready").status_code == 200)
        assert running.http.get("/v2/models/zulu/ready").status_code == 200


def test_reading_a_picture_is_a_part_of_its_time(coded_models: Path) -> None:
    large = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), np.uint8)).save(large, "PNG")
    with serving(coded_models) as running:
        assert running.http.post("/v2/models/color/predict", content=large.getvalue()).status_code == 200
        [stats] = running.http.get("/v2/models/color/stats").json()["model_stats"]
        spans = stats["inference_stats"]
        assert spans["compute_input"]["ns"] > spans["compute_infer"]["ns"] + spans["queue"]["ns"]
        assert spans["success"]["ns"] > spans["compute_input"]["ns"]
        assert told(running, "deepseek_total_seconds_sum", model="color") * 1e9 > spans["compute_input"]["ns"]
        # What can't be read has failed.
        assert running.http.post("/v2/models/color/predict", content=b"no picture").status_code == 400
        assert told(running, "deepseek_requests_total", model="color", outcome="error") == 1


def test_a_client_that_goes_as_the_outputs_come_is_counted(coded_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle = CodedCall.settle
    with serving(coded_models) as running:
        served = running.server.repository.find("embed")

        async def asked() -> None:
            task = asyncio.ensure_future(predict(served, b"hello", Question({})))

            def settling(call: CodedCall, error: BaseException | None) -> None:
                settle(call, error)
                task.cancel()

            monkeypatch.setattr(CodedCall, "settle", settling)
            with pytest.raises(asyncio.CancelledError):
                await task

        running.on_loop(asked)
        assert told(running, "deepseek_requests_total", model="embed", outcome="error") == 1
        assert told(running, "deepseek_errors_total", model="embed", cause="gone") == 1
        assert told(running, "deepseek_inflight", model="embed") == 0
