"""What clients may take of the server: memory, and the time that its one loop has."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek.plugin import InputError
from deepseek_serving.oip.nesting import check_depth
from deepseek_serving.writing import write_parts
from serving_pieces import body, held, serving, write_models
from serving_puppets import Blocked, works

MIB = 1 << 20


@pytest.mark.parametrize(
    "text",
    [
        "[" * 101 + "]" * 101,
        '{"a":' * 101 + "1" + "}" * 101,
        '[{"a":' * 51 + '"]}"' + "}]" * 51,
        json.dumps([[[]] * 3, '"' * 9 + "\\" * 5]) [:-1] + "," + "[" * 100 + "]" * 101,
    ],
    ids=["lists", "objects", "both", "after-texts"],
)  # fmt: skip
def test_what_is_nested_deeply_is_found(text: str) -> None:
    json.loads(text)
    with pytest.raises(InputError):
        check_depth(text.encode())
    with pytest.raises(InputError):
        check_depth(memoryview(text.encode()))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100 + "]" * 100, json.dumps([[[1]]] * 200), json.dumps(["[" * 300, "\\", '"[' * 200, "{\\" * 300]),
        json.dumps({"[" * 200: ["\\" * 3 + '"' + "[" * 200] * 2}), "]" * 300 + "[",
    ],
    ids=["just-so", "broad", "texts", "keys", "no-json"],
)  # fmt: skip
def test_what_is_not_is_left_to_the_decoder(text: str) -> None:
    check_depth(text.encode())


def test_much_json_is_refused_before_it_is_read(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, limits={"json": "1KiB"}) as running:
        content = body([100, 4], [1.0] * 400)
        for road in ("infer", "generate"):
            answered = running.http.post(f"/v2/models/echo/{road}", content=content)
            assert (answered.status_code, "JSON is larger than 1KiB" in answered.json()["error"]) == (413, True)
        assert running.infer("echo", [[1.0] * 4]).status_code == 200


@pytest.mark.parametrize("outputs", [1, 8])
def test_answers_that_are_not_read_count(tmp_path: Path, outputs: int) -> None:
    write_models(tmp_path, {"big": ""})
    part = np.zeros((1, 4 * MIB // outputs), np.float32)
    works["big.puppet"] = lambda inputs: {f"y{number}": part for number in range(outputs)}
    asked = body([1, 4], [1.0] * 4)[:-1] + b', "parameters": {"binary_data_output": true}}'
    head = b"POST /v2/models/big/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    with serving(tmp_path, limits={"memory": "40MiB"}) as running:
        clients = []
        for _ in range(6):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", running.server.http_port))
            client.sendall(head % len(asked) + asked)
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            clients.append(client)
        assert 0 < held(running) <= 40 * MIB
        # Those that were too many are ended; who reads has his answer.
        read = [drained(client) for client in clients]
        assert 1 <= sum(length > 16 * MIB for length in read) <= 3
        while held(running):
            pass
        assert running.http.post("/v2/models/big/infer", content=asked).status_code == 200


def drained(client: socket.socket) -> int:
    """Bytes that still come: of one answer, or until the connection ends."""
    length = 0
    with client:
        client.settimeout(30)
        try:
            while length <= 16 * MIB and (block := client.recv(MIB)):
                length += len(block)
        except ConnectionResetError:
            pass
    return length


def test_requests_that_were_given_up_take_no_memory(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": {"puppet": {"shape": [-1, 65536]}}})
    with serving(tmp_path) as running:
        blocked = Blocked("slow.puppet")
        tensor = {"name": "x", "shape": [4, 65536], "datatype": "FP32", "parameters": {"binary_data_size": MIB}}
        top = json.dumps({"inputs": [tensor]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(top)), "X-Request-Timeout": "0.2"}
        for _ in range(4):
            late = running.http.post("/v2/models/slow/infer", content=top + bytes(MIB), headers=headers)
            assert late.status_code == 503
        # But for the one that is being executed.
        while held(running) > 1.5 * MIB:
            pass
        blocked.go.set()


def test_a_body_for_which_there_is_no_memory_may_be_sent_again_later(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, limits={"memory": "1MiB", "body": "8MiB"}) as running:
        refused = running.http.post("/v2/models/echo/infer", content=bytes(2 * MIB))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


class Waiting(asyncio.Transport):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes | memoryview] = []

    def writelines(self, list_of_data: Any) -> None:
        self.kept += list_of_data

    def get_write_buffer_size(self) -> int:
        return 0


def test_a_little_that_waits_does_not_keep_all_of_an_answer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        takes = os.write(ours.fileno(), bytes(64 * MIB))
        for rest, kept in ((1000, False), (1 * MIB, True)):
            left = takes
            while left:
                left -= len(theirs.recv(left))
            array = np.zeros(takes + rest, np.uint8)
            lives, transport = weakref.ref(array), Waiting()
            write_parts(transport, ours.fileno(), [memoryview(array)])
            del array
            waits = sum(map(len, transport.kept))
            assert waits >= rest
            # More than a little is told to the connection, which counts it.
            assert (lives() is not None) == kept == (waits > 64 << 10)
            takes += rest - waits
