"""Messages of gRPC on our own carrier: not whole, too large, compressed."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from http2_peer import answer, message, peer, request

from deepseek_serving.grpc import schema
from serving_pieces import Running, serving, write_models
from serving_puppets import Blocked


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "none came"), (b"\0\0", "in the middle"), (request()[:-1], "in the middle"),
        (request() * 2, "one message"), (b"\x02" + request()[1:], "neither 0 nor 1"),
        (b"\x01" + request()[1:], "does not say how"),
    ],
)  # fmt: skip
def test_messages_that_are_not_whole(shared: Running, content: bytes, words: str) -> None:
    with peer(shared.grpc) as client:
        found = client.wait(client.ask(content))
        assert (found["grpc-status"], words in found["grpc-message"]) == ("3", True), found


def test_messages_that_are_too_large(shared: Running) -> None:
    with peer(shared.grpc) as client:
        assert client.wait(client.ask(struct.pack(">BI", 0, 65 << 20), end=False))["grpc-status"] == "8"
        bomb = gzip.compress(bytes(65 << 20))
        assert client.wait(client.ask(message(bomb, packed=1), grpc_encoding="gzip"))["grpc-status"] == "8"
        broken = message(b"no gzip", packed=1)
        assert client.wait(client.ask(broken, grpc_encoding="gzip"))["grpc-status"] == "3"


def test_compressed_messages(shared: Running) -> None:
    plain = request()
    with peer(shared.grpc) as client:
        stream = client.ask(message(gzip.compress(plain[5:]), packed=1), grpc_encoding="gzip")
        assert client.wait(stream)["grpc-status"] == "0"
        np.testing.assert_array_equal(answer(client.data[stream]), np.arange(16))


def test_compressed_messages_count_by_what_they_unfold_to(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": {"puppet": {"shape": [-1, 65536]}}})
    blocked = Blocked("slow.puppet")
    with serving(tmp_path, limits={"memory": 6 << 20}) as running, peer(running.grpc, window=1 << 24) as client:
        # Answers, which would count as well, need not wait.
        client.h2.increment_flow_control_window(1 << 24)
        tensor = {"name": "x", "datatype": "FP32", "shape": (4, 65536)}
        asked = schema.ModelInferRequest(model_name="slow", inputs=[tensor], raw_input_contents=[bytes(4 << 18)])
        content = message(gzip.compress(asked.SerializeToString()), packed=1)
        streams = [client.ask(content, grpc_encoding="gzip") for _ in range(8)]
        client.wait(streams[-1])
        blocked.go.set()
        statuses = [client.wait(stream)["grpc-status"] for stream in streams]
        assert (statuses[0], statuses[-1], set(statuses)) == ("0", "14", {"0", "14"})
