"""What clients over gRPC may take of the server's memory: answers that they do not read, requests that they leave."""

from __future__ import annotations

import contextlib
import gc
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from http2_peer import STREAM, Peer, headers, peer, request

from deepseek_serving.reports import Counts
from kernel_pieces import until
from serving_pieces import Running, held, serving, write_models
from serving_puppets import works

MIB = 1 << 20


@pytest.fixture
def collected() -> Iterator[None]:
    """Memory is to come back though no garbage is collected."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def told(running: Running, model: str) -> Counts:
    counted = running.server.repository.find(model).statistics
    found: Counts = running.on_loop(counted.counts)
    return found


def eager(client: Peer) -> Peer:
    """One that may be sent anything on the whole connection."""
    client.h2.increment_flow_control_window(1 << 30)
    client.send()
    return client


def test_answers_that_are_not_read_are_within_the_limit_of_memory(tmp_path: Path) -> None:
    write_models(tmp_path, {"float": {"onnx": {"shape": ["batch", 16]}}})
    with serving(tmp_path, limits={"memory": "1MiB"}) as running, peer(running.grpc, window=0) as client:
        # Requests that compress well, as it were: the same rows, 256 KiB of them.
        content = request((4096, 16), "float")
        counted = running.server.repository.find("float").statistics
        calls = []
        for _ in range(8):
            stream = client.h2.get_next_available_stream_id()
            client.h2.send_headers(stream, headers())
            at = 0
            while at < len(content):
                size = min(len(content) - at, client.h2.local_flow_control_window(stream), 16384)
                client.h2.send_data(stream, content[at : at + size], end_stream=at + size == len(content))
                at += size
                client.send()
                while at < len(content) and client.h2.local_flow_control_window(stream) == 0:
                    assert client.read()
            calls.append(stream)
            # The first has its answer, which counts, before the others are there to be counted.
            while len(calls) == 1 and not running.on_loop(lambda: counted.counts().success.count):
                pass
        while len(client.ended) < 4:
            assert client.read()
        ends = [client.ended[stream]["grpc-status"] for stream in calls if stream in client.ended]
        # UNAVAILABLE
        assert set(ends) == {"14"}
        assert running.server.memory.held <= 1 << 20
        # Who reads gets what waits for it, and others are served again.
        client.h2.increment_flow_control_window(1 << 20)
        for stream in set(calls) - set(client.ended):
            client.h2.increment_flow_control_window(1 << 19, stream)
        client.send()
        assert {client.wait(stream)["grpc-status"] for stream in calls} == {"0", "14"}
        assert running.infer("float", np.ones((1, 16))).status_code == 200


def test_answers_that_wait_in_the_connection_count_whole(tmp_path: Path) -> None:
    write_models(tmp_path, {"big": ""})
    works["big.puppet"] = lambda inputs: {"y": np.zeros((1, 4 << 20), np.float32)}
    with serving(tmp_path, limits={"memory": "40MiB"}) as running, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(peer(running.grpc, window=1 << 30)) for _ in range(6)]
        counted = running.server.repository.find("big").statistics
        for number, client in enumerate(clients):
            client.h2.increment_flow_control_window(1 << 30)
            assert client.ask(request((1, 4), "big")) == 1
            # Nothing of it is read.
            until(lambda: running.on_loop(lambda: done(counted.counts())) == number + 1)  # noqa: B023
        assert 16 << 20 <= held(running) <= 40 << 20
        ends = []
        for client in clients:
            while 1 not in client.ended and client.read():
                pass
            ends.append(client.ended.get(1, {}).get("grpc-status"))
        # Those that were too many are told, or ended; who reads has his answer.
        assert ends.count("0") == 2
        until(lambda: held(running) == 0)


def done(counts: Counts) -> int:
    return counts.success.count + counts.fail.count


def test_answers_of_one_connection_that_is_not_read_count(tmp_path: Path) -> None:
    write_models(tmp_path, {"some": ""})
    works["some.puppet"] = lambda inputs: {"y": np.zeros((1, MIB // 16), np.float32)}
    with serving(tmp_path, limits={"memory": "16MiB"}) as running, peer(running.grpc, window=1 << 30) as client:
        eager(client)
        content = request((1, 4), "some")
        for _ in range(200):
            stream = client.h2.get_next_available_stream_id()
            client.h2.send_headers(stream, headers())
            client.h2.send_data(stream, content, end_stream=True)
        # At once: who reads nothing is not read, either.
        client.send()
        # 50 MiB in all, of which the system has taken some.
        until(lambda: told(running, "some").fail.count > 50)
        assert 8 * MIB < held(running) <= 16 * MIB
        assert client.wait(1)["grpc-status"] == "0"


def test_responses_of_a_stream_that_are_not_read_count(tmp_path: Path, collected: None) -> None:
    write_models(tmp_path, {"big": ""})
    works["big.puppet"] = lambda inputs: {"y": np.zeros((1, MIB), np.float32)}
    with serving(tmp_path, limits={"memory": "10MiB"}) as running:
        with peer(running.grpc, window=0) as client:
            streams = [client.ask(request((1, 4), "big"), end=False, path=STREAM) for _ in range(4)]
            until(lambda: done(told(running, "big")) == 4)
            assert 4 * MIB <= held(running) <= 10 * MIB
            ends = [client.wait(stream)["grpc-status"] for stream in streams[2:]]
            assert ends == ["14", "14"]
        until(lambda: held(running) == 0)


def test_an_answer_that_is_refused_is_not_kept(tmp_path: Path, collected: None) -> None:
    write_models(tmp_path, {"big": ""})
    lives: list[weakref.ref[np.ndarray]] = []

    def work(inputs: object) -> dict[str, np.ndarray]:
        array = np.zeros((1, MIB), np.float32)
        lives.append(weakref.ref(array))
        return {"y": array}

    works["big.puppet"] = work
    with serving(tmp_path, limits={"memory": "1MiB"}, inline="0us") as running, peer(running.grpc, window=0) as client:
        assert client.wait(client.ask(request((1, 4), "big")))["grpc-status"] == "14"
        until(lambda: [array() for array in lives] == [None])


@pytest.mark.parametrize("how", ["reset", "close"])
def test_half_a_message_counts_no_longer_than_its_client_is_there(tmp_path: Path, how: str, collected: None) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path) as running, peer(running.grpc) as client:
        # The server's windows have come with its answer.
        client.ping()
        half = struct.pack(">BI", 0, 40 * MIB) + bytes(500_000)
        stream = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream, headers(STREAM))
        for at in range(0, len(half), 16384):
            client.h2.send_data(stream, half[at : at + 16384])
            client.send()
        until(lambda: held(running) >= 500_000)
        if how == "reset":
            client.h2.reset_stream(stream)
            client.send()
        else:
            client.close()
        until(lambda: held(running) == 0)
