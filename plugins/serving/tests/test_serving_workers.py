"""Several worker processes: one port, one set of counts, and a death that costs no more than what it must."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc

from serving_pieces import body, identity, triton_client

CONTENT = body([1, 16], [1.0] * 16)
URL = "/v2/models/same/infer"


class Workers:
    """`deepseek serve --workers 2` of one identity."""

    def __init__(self, folder: Path, *more: str) -> None:
        identity(folder / "same.onnx")
        (folder / "same.yaml").write_text("model: same.onnx\n")
        command = [sys.executable, "-m", "deepseek", "serve", str(folder), "--workers", "2", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--grpc-port", "0", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.line = self.process.stdout.readline()
        assert self.line.startswith("serving same/1 on http://"), self.process.communicate()[1]
        words = self.line.split()
        self.url, self.grpc = words[3], words[5].removeprefix("grpc://")

    def pids(self) -> list[int]:
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                found += [child.pid] if child.status() != "zombie" else []
        return found


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    running = Workers(tmp_path, "--set", "server.allow=[load]")
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.communicate(timeout=30)


@pytest.mark.slow
def test_workers_share_the_port_and_count_together(workers: Workers) -> None:
    assert workers.line.rstrip().endswith("with 2 workers")
    clients = [httpx.Client(base_url=workers.url) for _ in range(4)]
    for client in clients:
        assert client.post(URL, content=CONTENT).status_code == 200
    stats = [client.get("/v2/models/same/stats").json()["model_stats"][0]["inference_count"] for client in clients]
    assert stats == [4, 4, 4, 4]
    assert clients[0].get("/metrics").text.count("deepseek_worker_resident_bytes{") == 2
    tensor = triton_grpc.InferInput("x", [1, 16], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 16), np.float32))
    with triton_client(triton_grpc, workers.grpc) as client:
        assert client.infer("same", [tensor]).as_numpy("y").sum() == 16
    # What one worker does on request, all of them do.
    assert clients[0].post("/v2/repository/models/same/unload").status_code == 200
    assert [client.post(URL, content=CONTENT).status_code for client in clients] == [404] * 4
    assert clients[1].post("/v2/repository/models/same/load").status_code == 200
    assert [client.post(URL, content=CONTENT).status_code for client in clients] == [200] * 4
    for client in clients:
        client.close()
    os.kill(workers.process.pid, signal.SIGTERM)
    _, errors = workers.process.communicate(timeout=30)
    assert (workers.process.returncode, errors) == (0, "")


@pytest.mark.slow
def test_the_death_of_a_worker_costs_its_requests_in_flight_alone(workers: Workers) -> None:
    seen: collections.Counter[object] = collections.Counter()
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=workers.url, timeout=30) as client:
            while not ended.is_set():
                try:
                    seen[client.post(URL, content=CONTENT).status_code] += 1
                except httpx.TransportError as exc:
                    seen[type(exc).__name__] += 1

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        before = workers.pids()
        many = seen[200] + 500
        while seen[200] < many:
            pass
        os.kill(before[0], signal.SIGKILL)
        # Back to full capacity by itself.
        while len([pid for pid in workers.pids() if pid != before[0]]) < 2:
            pass
    many = seen[200] + 500
    while seen[200] < many:
        pass
    ended.set()
    for thread in threads:
        thread.join()
    assert set(seen) <= {200, 503}, seen
    assert seen[503] <= 16
