"""Several worker processes are one server: what changes, changes in all of them or in none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2 as httpx
import pytest

from serving_fleet import CONTENT, URL, Workers
from serving_pieces import identity

LOAD, UNLOAD = (f"/v2/repository/models/same/{what}" for what in ("load", "unload"))


@contextmanager
def many(url: str) -> Iterator[list[httpx.Client]]:
    """Connections, of which each worker has some."""
    clients = [httpx.Client(base_url=url, timeout=30) for _ in range(6)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


def statuses(url: str) -> set[int]:
    with many(url) as clients:
        return {client.post(URL, content=CONTENT).status_code for client in clients}


def newcomer(workers: Workers, before: list[int]) -> int:
    """Another process in the place of one that has ended."""
    while True:
        new = [pid for pid in workers.pids() if pid not in before]
        if new:
            return new[0]


@pytest.mark.slow
def test_reading_counts_changes_none(workers: Workers) -> None:
    with many(workers.url) as clients:
        for client in clients:
            assert client.post(URL, content=CONTENT).status_code == 200
        for client in clients * 3:
            assert [row["requests"] for row in client.get("/usage").json()["usage"]] == [6]
            stats = client.get("/v2/models/same/stats").json()["model_stats"][0]
            assert stats["batch_stats"][0]["compute_infer"]["count"] == stats["execution_count"] == 6


@pytest.mark.slow
def test_what_is_asked_at_once_is_done_everywhere_in_one_order(workers: Workers) -> None:
    with ThreadPoolExecutor(2) as pool, many(workers.url) as clients:
        for _ in range(6):
            answers = [pool.submit(client.post, road) for client, road in zip(clients, (LOAD, UNLOAD), strict=False)]
            assert {answer.result().status_code for answer in answers} <= {200, 404}
            assert len({client.post(URL, content=CONTENT).status_code for client in clients}) == 1
            assert clients[0].post(LOAD).status_code == 200


@pytest.mark.slow
def test_a_worker_that_cannot_load_what_others_serve_does_not_serve(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "same.onnx").write_bytes(b"no model")
    assert httpx.post(workers.url + LOAD, timeout=30).status_code == 500
    before = workers.pids()
    os.kill(before[0], signal.SIGKILL)
    new = newcomer(workers, before)
    while new in workers.pids():
        assert statuses(workers.url) == {200}
    assert statuses(workers.url) == {200}
    # When the model is whole again, so is the server.
    identity(tmp_path / "same.onnx")
    while len(workers.pids()) < 2 or httpx.get(workers.url + "/metrics").text.count("worker_resident_bytes{") < 2:
        pass
    assert statuses(workers.url) == {200}


@pytest.mark.slow
def test_a_new_worker_knows_what_was_loaded_by_watching(tmp_path: Path) -> None:
    running = Workers(tmp_path, "--set", "server.allow=[load]", "--set", "server.watch=100ms")
    try:
        assert httpx.post(running.url + UNLOAD).status_code == 200
        assert statuses(running.url) == {404}
        identity(tmp_path / "same.onnx", shape=("batch", 16))
        (tmp_path / "same.yaml").write_text("model: same.onnx  # anew\n")
        while statuses(running.url) != {200}:
            pass
        before = running.pids()
        os.kill(before[0], signal.SIGKILL)
        newcomer(running, before)
        while httpx.get(running.url + "/metrics").text.count("worker_resident_bytes{") < 2:
            pass
        assert statuses(running.url) == {200}
    finally:
        running.process.terminate()
        running.process.communicate(timeout=30)


@pytest.mark.slow
def test_a_worker_that_is_started_later_is_as_the_others_are(tmp_path: Path) -> None:
    # What is beside the models is not for Python to import.
    (tmp_path / "psutil.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "server.yaml").write_text("server: {limits: {connections: 100}}\n")
    running = Workers(tmp_path)
    try:
        identity(tmp_path / "other.onnx", shape=("batch", 16, 1))
        (tmp_path / "new.yaml").write_text("model: other.onnx\n")
        (tmp_path / "bad.yaml").write_text("model: nowhere.onnx\n")
        (tmp_path / "same.yaml").write_text("model: other.onnx\n")
        (tmp_path / "server.yaml").write_text("server: {allow: [load], limits: {connections: 1000}}\n")
        before = running.pids()
        os.kill(before[0], signal.SIGKILL)
        newcomer(running, before)
        while httpx.get(running.url + "/metrics").text.count("worker_resident_bytes{") < 2:
            pass
        with many(running.url) as clients:
            for road in ("/v2/models/same", "/v2/models/new"):
                assert len({client.get(road).text for client in clients}) == 1
            assert {client.get("/v2/models/new").status_code for client in clients} == {404}
            assert {client.get("/v2/health/ready").status_code for client in clients} == {200}
            assert {client.post(LOAD).status_code for client in clients} == {403}
    finally:
        running.process.terminate()
        running.process.communicate(timeout=30)


@pytest.mark.slow
def test_health_is_told_also_when_all_have_died_and_none_can_load(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "same.onnx").write_bytes(b"no model")
    for pid in workers.pids():
        os.kill(pid, signal.SIGKILL)
    answers = []
    while 200 not in answers:
        with suppress(httpx.TransportError):
            answers.append(httpx.get(workers.url + "/v2/health/live", timeout=30).status_code)
    assert set(answers) <= {200, 503}
    assert httpx.get(workers.url + "/v2/health/ready", timeout=30).status_code == 400


@pytest.mark.slow
def test_a_number_that_no_message_carries(tmp_path: Path) -> None:
    running = Workers(tmp_path, "--set", "server.allow=[shared_memory]")
    try:
        region = {"key": "/a", "offset": 1 << 64, "byte_size": 5}
        road = "/v2/systemsharedmemory/region/a/register"
        assert httpx.post(running.url + road, json=region).status_code == 400
    finally:
        running.process.terminate()
        running.process.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_loads_ends_when_it_is_told_to(tmp_path: Path, workers: int) -> None:
    identity(tmp_path / "same.onnx")
    # Hours of it.
    (tmp_path / "same.yaml").write_text("model: same.onnx\nserving: {warmup: 100000000}\n")
    command = [sys.executable, "-m", "deepseek", "serve", str(tmp_path), "--workers", str(workers)]
    process = subprocess.Popen(
        [*command, "--set", "server.grpc={port: 0}", "--port", str(free_port())],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{process.args[-1]}/v2/models/same/ready"  # type: ignore[index]
        while not loading(url):
            assert process.poll() is None
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def loading(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).json().get("ready") is False
    except httpx.TransportError:
        return False
