"""`deepseek serve` as a process: signals, mistakes, and the memory that it gives back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx2 as httpx
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving_pieces import Running, body, identity


class Process:
    """`deepseek serve` as a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "deepseek", "serve", *arguments, "--port", "0", "--grpc-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.line = self.process.stdout.readline()
        assert self.line.startswith("serving "), self.process.communicate()[1]
        self.url = next(word for word in self.line.split() if word.startswith("http"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    identity(tmp_path / "model.onnx")
    (tmp_path / "pipeline.yaml").write_text("model: model.onnx\n")
    running = Process(str(tmp_path / "pipeline.yaml"), "--name", "same")
    content = body([20000, 16], [1.0] * 320000)
    answers: list[int] = []
    with httpx.Client(base_url=running.url) as client:
        assert client.get("/v2/models/same").status_code == 200
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/v2/models/same/infer", content=content).status_code)
        )
        asking.start()
        asking.join(0.02)
        os.kill(running.process.pid, number)
        asking.join(30)
    _, errors = running.process.communicate(timeout=30)
    assert running.process.returncode == 0, errors
    assert answers == [200]
    assert "Traceback" not in errors


def test_an_answer_on_its_way_is_sent_whole_before_the_end(tmp_path: Path) -> None:
    identity(tmp_path / "model.onnx", shape=["batch", 4000])
    (tmp_path / "pipeline.yaml").write_text("model: model.onnx\n")
    running = Process(str(tmp_path / "pipeline.yaml"), "--name", "same")
    content = body([400, 4000], [0.5] * 1_600_000)
    host, _, port = running.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 60) as slow:
        slow.sendall(
            b"POST /v2/models/same/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(content)
            + content
        )
        got = slow.recv(1000)
        os.kill(running.process.pid, signal.SIGTERM)
        length = int(got.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(got.partition(b"\r\n\r\n")[2]) < length and (block := slow.recv(1 << 20)):
            got += block
    assert len(got.partition(b"\r\n\r\n")[2]) == length
    assert running.process.wait(30) == 0
    running.process.communicate()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.yaml"], "no such pipeline file"),
        (["pipeline.yaml", "--set", "server.http.prot=1"], "did you mean `server.http.port`"),
        (["pipeline.yaml", "--name", "../x"], "can't be a model's name"),
        ([".", "--name", "x"], "for a single pipeline"),
        (["broken.yaml", "--port", "0", "--grpc-port", "0"], "no model could be loaded"),
        (["broken.yaml", "--port", "0", "--grpc-port", "0", "--workers", "2"], "names `y`, which is no input"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    identity(tmp_path / "model.onnx")
    (tmp_path / "pipeline.yaml").write_text("model: model.onnx\n")
    (tmp_path / "broken.yaml").write_text("model: model.onnx\nserving: {warmup_shapes: {y: [1, 16]}}\n")
    command = [sys.executable, "-m", "deepseek", "serve", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, 70)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken(tmp_path: Path, shared: Running) -> None:
    identity(tmp_path / "model.onnx")
    (tmp_path / "pipeline.yaml").write_text("model: model.onnx\n")
    port = shared.address.partition(":")[2]
    command = [sys.executable, "-m", "deepseek", "serve", "pipeline.yaml", "--port", port]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "can't listen" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.slow
def test_unloading_gives_the_memory_back(tmp_path: Path) -> None:
    identity(tmp_path / "small.onnx")
    (tmp_path / "small.yaml").write_text("model: small.onnx\n")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 6000]) for name in "xy")
    weights = numpy_helper.from_array(np.random.default_rng(0).random((6000, 6000), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "big", [x], [y], [weights])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "big.onnx")
    (tmp_path / "big.yaml").write_text("model: big.onnx\n")
    running = Process(str(tmp_path), "--set", "server.allow=[load]")
    process = psutil.Process(running.process.pid)
    without = []
    with httpx.Client(base_url=running.url, timeout=60) as client:
        for _ in range(5):
            loaded = process.memory_info().rss
            assert client.post("/v2/repository/models/big/unload").status_code == 200
            without.append(process.memory_info().rss)
            assert loaded - without[-1] > 0.9 * weights.ByteSize()
            assert client.post("/v2/repository/models/big/load").status_code == 200
    # Allocators keep some for later; a second time would be a leak.
    assert max(without) < without[0] + 0.15 * weights.ByteSize()
    running.process.terminate()
    assert running.process.wait(30) == 0
    running.process.communicate()
