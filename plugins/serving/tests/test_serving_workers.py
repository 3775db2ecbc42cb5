"""Several worker processes: one port, one set of counts, and a death that costs no more than what it must."""

from __future__ import annotations

import collections
import http.client
import os
import signal
import socket
import threading
from pathlib import Path

import httpx2 as httpx
import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from deepseek_serving import keys
from deepseek_serving.reports import Report
from deepseek_serving.workers.changes import Changes
from deepseek_serving.workers.held import Held
from deepseek_serving.workers.lookout import Lookout
from deepseek_serving.workers.slots import ASKED, IDLE, PART, Slots
from serving_fleet import CONTENT, URL, Workers
from serving_pieces import Running, serving, triton_client, write_models
from serving_puppets import works


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
def test_a_tenants_rate_holds_for_all_workers_together(tmp_path: Path) -> None:
    secret = keys.add(tmp_path / "keys.json", "us", rate=0.001, burst=6)
    workers = Workers(tmp_path, "--set", f"server.keys={tmp_path / 'keys.json'}")
    seen: collections.Counter[int] = collections.Counter()
    try:
        # Each over a connection of its own: they go to the workers in turn.
        for _ in range(12):
            seen[httpx.post(workers.url + URL, content=CONTENT, headers={"X-API-Key": secret}).status_code] += 1
    finally:
        workers.process.terminate()
        workers.process.communicate(timeout=30)
    assert seen == {200: 6, 429: 6}


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


@pytest.mark.slow
def test_a_new_worker_does_what_the_others_did(workers: Workers) -> None:
    with httpx.Client(base_url=workers.url, timeout=30) as client:
        assert client.post("/v2/repository/models/same/unload").status_code == 200
        before = workers.pids()
        os.kill(before[0], signal.SIGKILL)
        while len([pid for pid in workers.pids() if pid not in before[:1]]) < 2:
            pass
        # Until the new one serves, the other has all connections.
        statuses = {httpx.post(workers.url + URL, content=CONTENT, timeout=30).status_code for _ in range(200)}
        assert statuses == {404}


@pytest.mark.slow
def test_connections_outlive_a_worker_that_is_told_to_end(workers: Workers) -> None:
    host = workers.url.removeprefix("http://")
    clients = [http.client.HTTPConnection(host, timeout=30) for _ in range(6)]
    try:
        before = workers.pids()
        for turn in range(2):
            for client in clients:
                client.request("POST", URL, CONTENT)
                answer = client.getresponse()
                answer.read()
                assert answer.status == 200
            if not turn:
                os.kill(before[0], signal.SIGTERM)
                while before[0] in workers.pids() or len(workers.pids()) < 2:
                    pass
    finally:
        for client in clients:
            client.close()


@pytest.mark.slow
def test_a_worker_that_says_nothing_is_replaced(tmp_path: Path) -> None:
    running = Workers(tmp_path, "--set", "server.stall=1s")
    try:
        before = running.pids()
        os.kill(before[0], signal.SIGSTOP)
        while before[0] in running.pids() or len(running.pids()) < 2:
            pass
        for _ in range(20):
            assert httpx.post(running.url + URL, content=CONTENT, timeout=30).status_code == 200
    finally:
        running.process.terminate()
        running.process.communicate(timeout=30)


def test_what_the_dead_had_counted_is_kept(shared: Running) -> None:
    shared.infer("float", [[1.0] * 16])
    lookout = Lookout([], 0)
    for _ in range(2):
        dead = Held(None)  # type: ignore[arg-type]
        dead.report = shared.on_loop(shared.server.own_report)
        lookout.bury(dead)
    rows = sum(model.counts.rows for model in shared.on_loop(shared.server.own_report).models)
    [past] = [msgspec.convert(each, Report, str_keys=True) for each in lookout.past]
    assert sum(model.counts.rows for model in past.models) == 2 * rows > 0
    assert (past.served, past.resident_bytes, past.connections) == ([], [], 0)


def test_an_answer_in_parts_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    write_models(tmp_path, {"many": {"puppet": {"chunks": 2}}})
    slots, ends = Slots.make(1), socket.socketpair()
    with serving(tmp_path) as running:
        runs, go = iter(range(2)), threading.Event()
        # The second part is held up.
        works["many.puppet"] = lambda inputs: (next(runs) == 0 or go.wait(60)) and {"y": inputs["x"]}

        async def adopt() -> None:
            connection = running.server.front.connection(0, slots, lambda slot: None)
            await running.loop.connect_accepted_socket(lambda: connection, ends[0])

        running.on_loop(adopt)
        content = b'{"x":[1,1,1,1]}'
        top = b"POST /v2/models/many/generate_stream HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
        ends[1].sendall(top % len(content) + content)
        assert slots.state(0, ends[0]) in (IDLE, ASKED)
        came = b""
        while b"data: " not in came:
            came += ends[1].recv(65536)
        assert slots.state(0, ends[0]) == PART
        go.set()
        while b"\r\n0\r\n\r\n" not in came:
            came += ends[1].recv(65536)
        while slots.states[0] != IDLE:
            pass
        ends[1].close()


def test_changes_that_are_undone_are_forgotten() -> None:
    changes = Changes()
    for call, arguments in [
        ("unload", {"name": "a"}), ("unload", {"name": "b"}), ("load", {"name": "a"}),
        ("log", {"given": {"log_info": False}}), ("log", {"given": {"log_error": False}}),
        ("register", {"name": "m", "key": "/m"}), ("register", {"name": "n", "key": "/n"}), ("unregister", {"name": "m"}),
    ]:  # fmt: skip
        changes.note(call, arguments)
    assert changes.calls() == [
        {"call": "unload", "arguments": {"name": "b"}},
        {"call": "log", "arguments": {"given": {"log_info": False, "log_error": False}}},
        {"call": "register", "arguments": {"name": "n", "key": "/n"}},
    ]
    changes.note("unregister", {"name": ""})
    assert len(changes.calls()) == 2
