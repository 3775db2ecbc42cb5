"""Requests and models over time: deadlines, full queues, clients that go, models that hang, servers that end."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from serving_pieces import Running, body, later, serving, triton_client, write_models
from serving_puppets import Blocked, works

ROW = [[1.0, 2.0, 3.0, 4.0]]


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Running]:
    write_models(tmp_path, {"slow": {"fifo": {"max_queue": 2}}, "echo": ""})
    with serving(tmp_path, stall="20s") as running:
        yield running


def waiting(running: Running, count: int) -> None:
    """Until so many requests are with the model."""
    while running.on_loop(lambda: len(running.server.repository.find("slow").calls)) != count:
        pass


def test_a_full_queue_says_when_to_come_again(slow: Running) -> None:
    blocked = Blocked("slow.puppet")
    first = later(slow, 1)
    blocked.entered.acquire()
    waiters = [later(slow, 2), later(slow, 3)]
    waiting(slow, 3)
    refused = slow.infer("slow", ROW)
    assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (503, True)
    assert "queue is full" in refused.json()["error"]
    blocked.go.set()
    assert [item.result().status_code for item in (first, *waiters)] == [200, 200, 200]


@pytest.mark.parametrize("how", ["timeout", "header", "grpc"])
def test_what_is_late_is_answered_in_time_and_never_executed(slow: Running, how: str) -> None:
    blocked = Blocked("slow.puppet")
    first = later(slow, 1)
    blocked.entered.acquire()
    if how == "timeout":
        late = slow.infer("slow", [[9.0] * 4], parameters={"timeout": 50_000})
        assert (late.status_code, "deadline" in late.json()["error"]) == (503, True)
    elif how == "header":
        late = slow.http.post(
            "/v2/models/slow/infer", content=body([1, 4], [9.0] * 4), headers={"X-Request-Timeout": "0.05"}
        )
        assert (late.status_code, "deadline" in late.json()["error"]) == (503, True)
    else:
        tensor = triton_grpc.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.full((1, 4), 9, np.float32))
        with triton_client(triton_grpc, slow.grpc) as client:
            with pytest.raises(InferenceServerException) as caught:
                client.infer("slow", [tensor], client_timeout=0.05)
            assert "DEADLINE_EXCEEDED" in str(caught.value.status())
    blocked.go.set()
    assert first.result().status_code == 200
    assert slow.infer("slow", ROW).status_code == 200
    assert 9.0 not in blocked.runs


def test_a_client_that_goes_takes_its_request_back(slow: Running) -> None:
    blocked = Blocked("slow.puppet")
    first = later(slow, 1)
    blocked.entered.acquire()
    host, _, port = slow.address.partition(":")
    content = body([1, 4], [9.0] * 4)
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(
            b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(content)
            + content
        )
        waiting(slow, 2)
    waiting(slow, 1)
    blocked.go.set()
    assert first.result().status_code == 200
    assert slow.infer("slow", ROW).status_code == 200
    assert 9.0 not in blocked.runs
    stats = slow.http.get("/v2/models/slow/stats").json()["model_stats"][0]["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"]) == (2, 1)


def test_a_failing_model_fails_its_request_alone(slow: Running) -> None:
    def fail(inputs: Any) -> Any:
        raise RuntimeError("a secret of the engine")

    works["slow.puppet"] = fail
    answer = slow.infer("slow", ROW)
    assert answer.status_code == 500
    del works["slow.puppet"]
    assert slow.infer("slow", ROW).json()["outputs"][0]["data"] == ROW[0]


def test_loading_that_fails_leaves_what_served(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, allow=["load"]) as running:
        assert running.http.get("/v2/health/ready").json() == {"ready": True}
        (tmp_path / "echo/echo.puppet").write_text("broken")
        failed = running.http.post("/v2/repository/models/echo/load")
        assert failed.status_code == 500
        # What served before serves still.
        assert running.infer("echo", ROW).status_code == 200


def test_an_incomplete_request_is_given_up(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, limits={"read_timeout": "200ms", "idle_timeout": "400ms"}) as running:
        host, _, port = running.address.partition(":")
        for start in (b"POST /v2", b"POST /v2 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nabc"):
            with socket.create_connection((host, int(port)), 30) as half:
                half.sendall(start)
                assert half.recv(100).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection((host, int(port)), 30) as idle:
            assert idle.recv(100) == b""


def test_too_many_connections_are_refused(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, limits={"connections": 2}) as running:
        host, _, port = running.address.partition(":")
        several = [socket.create_connection((host, int(port)), 30) for _ in range(3)]
        assert several[2].recv(100).startswith(b"HTTP/1.1 503 ")
        for connection in several:
            connection.close()


def test_answers_are_written_even_if_json_is_large(shared: Running) -> None:
    rows = np.arange(16 * 5000, dtype=np.float32).reshape(-1, 16)
    answer = shared.http.post("/v2/models/float/infer", content=body(rows.shape, rows.ravel().tolist()))
    assert json.loads(answer.content)["outputs"][0]["data"] == rows.ravel().tolist()


def test_an_answer_that_can_not_be_written_costs_nobody_else_theirs(slow: Running) -> None:
    # No array at all, and one of a type that the protocol does not have.
    for odd in ({"y": object()}, {"y": np.zeros((1, 4), np.complex64)}):
        works["slow.puppet"] = lambda inputs, odd=odd: odd
        answer = slow.infer("slow", ROW)
        assert answer.status_code in (200, 400, 500)
    del works["slow.puppet"]
    assert slow.infer("slow", ROW).status_code == 200


def test_requests_behind_a_slow_one_are_not_late_themselves(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": "", "echo": ""})
    with serving(tmp_path, limits={"read_timeout": "1s"}) as running:
        blocked = Blocked("slow.puppet")
        host, _, port = running.address.partition(":")
        content = body([1, 4], [1.0] * 4)
        with socket.create_connection((host, int(port)), 30) as connection:
            line = b"POST /v2/models/%b/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b"
            connection.sendall(line % (b"slow", len(content), content))
            blocked.entered.acquire()
            connection.sendall(line % (b"echo", len(content), content) * 50)
            # Longer than a request may take to come.
            looks = running.server.front.looks
            while running.server.front.looks < looks + 3:
                pass
            blocked.go.set()
            came = b""
            while came.count(b"HTTP/1.1 200 ") < 51:
                block = connection.recv(65536)
                assert block, came[-300:]
                came += block


def test_who_still_waits_at_the_end_is_told(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": ""})
    with serving(tmp_path, drain="200ms") as running:
        blocked = Blocked("slow.puppet")
        first = later(running, 1)
        blocked.entered.acquire()
        running.end()
        answer = first.result()
        assert (answer.status_code, answer.json()["error"]) == (503, "the server is ending")
        blocked.go.set()
