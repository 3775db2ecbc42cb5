"""Several worker processes are one server: what changes, changes in all of them or in none."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from deepseek_serving.reports import Report
from deepseek_serving.workers.held import Held
from deepseek_serving.workers.lookout import Lookout
from deepseek_serving.workers.together import Together
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


class Fake:
    """A worker that answers as it is told."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.held = Held(None)  # type: ignore[arg-type]
        self.held.channel = self  # type: ignore[assignment]
        self.held.ready = self.held.able = True
        self.asked: list[str] = []
        self.answered: Any = None
        self._answers = answers

    async def ask(self, message: dict[str, Any]) -> list[str]:
        self.asked.append(message["call"])
        if self._answers.get(message["call"]) == ["died"]:
            raise ConnectionError
        return self._answers.get(message["call"], [])

    def answer(self, message: dict[str, Any], content: Any) -> None:
        self.answered = content


@pytest.mark.parametrize("wrong", [["InputError", "no model", ""], ["died"]])
def test_a_load_that_fails_in_one_worker_changes_none(wrong: list[str]) -> None:
    good, bad = Fake({}), Fake({"prepare": wrong})
    workers = [good.held, bad.held]
    together = Together(workers, Lookout(workers, 0))
    load = {"call": "load", "arguments": {"name": "same"}}
    asyncio.run(together.change(good.held, load))
    assert good.asked == bad.asked == ["prepare", "discard"]
    assert good.answered[0] == ("NotReadyError" if wrong == ["died"] else "InputError")


def test_counts_of_a_worker_that_is_leaving_are_not_left_out() -> None:
    asker, leaving, quiet = Fake({}), Fake({}), Fake({})
    leaving.held.able = False
    quiet.held.asked = 0.0
    for number, worker in enumerate((leaving, quiet)):
        worker.held.report = Report(started=0.0, ready=True, connections=number, resident_bytes=[], models=[])
    workers = [one.held for one in (asker, leaving, quiet)]
    asyncio.run(Together(workers, Lookout(workers, 0)).report(asker.held, {"call": "report"}))
    assert [report["connections"] for report in asker.answered] == [0, 1]
    assert leaving.asked == quiet.asked == []


def test_a_load_is_made_up_for_by_who_was_not_ready(tmp_path: Path) -> None:
    old, new = Fake({}), Fake({})
    new.held.ready = False
    workers = [old.held, new.held]
    together = Together(workers, Lookout(workers, 0))

    async def work() -> None:
        await together.change(old.held, {"call": "unload", "arguments": {"name": "a"}})
        await together.change(old.held, {"call": "load", "arguments": {"name": "b"}})
        assert await together.join(new.held, [])

    asyncio.run(work())
    assert (old.asked, new.asked) == (["unload", "prepare", "commit"], ["unload", "load"])
    assert new.held.ready
