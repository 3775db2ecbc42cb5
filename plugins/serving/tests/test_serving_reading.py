"""What is read of requests, and what it costs: bodies in bits, of strangers, of clients that go."""

from __future__ import annotations

import gc
import gzip
import json
import socket
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepseek_serving import keys
from serving_pieces import Running, body, serving, write_models
from serving_puppets import works

ROW = [[1.0, 2.0, 3.0, 4.0]]
LARGE = body([2000, 16], [1.0] * 32000)
HEALTH = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


def connected(running: Running) -> socket.socket:
    host, _, port = running.address.partition(":")
    return socket.create_connection((host, int(port)), 30)


def post(road: str, length: int, *more: str) -> bytes:
    lines = ["host: localhost", f"content-length: {length}", *more]
    return f"POST {road} HTTP/1.1\r\n".encode() + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def answer(connection: socket.socket, *, end: bytes = b"}") -> bytes:
    came = b""
    while not came.endswith(end):
        block = connection.recv(65536)
        assert block, came
        came += block
    return came


def test_empty_lines_between_requests_are_nothing(shared: Running) -> None:
    with connected(shared) as connection:
        for content in (LARGE, body([1, 16], [1.0] * 16)):
            connection.sendall(post("/v2/models/float/infer", len(content)) + content)
            assert answer(connection, end=b"]}]}").startswith(b"HTTP/1.1 200")
            connection.sendall(b"\r\n")
            connection.sendall(b"\n\r\n" + HEALTH)
            assert answer(connection).startswith(b"HTTP/1.1 200")


def test_an_empty_line_is_no_request_that_is_late(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, limits={"read_timeout": "100ms"}) as running, connected(running) as connection:
        connection.sendall(b"\r\n")
        looks = running.server.front.looks
        while running.server.front.looks < looks + 3:
            pass
        connection.sendall(HEALTH)
        assert answer(connection).startswith(b"HTTP/1.1 200")


def test_a_body_in_single_bytes_takes_its_own_size(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    count = 200_000
    with serving(tmp_path) as running, connected(running) as connection:
        top = b"POST /v2/models/echo/infer HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        wire = top + b"2\r\n  \r\n" * count
        tracemalloc.start()
        try:
            connection.sendall(wire)
            while running.server.memory.held < 2 * count:
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 10 * count


def test_strangers_take_no_memory_from_others(tmp_path: Path) -> None:
    write_models(tmp_path, {"float": {"onnx": {"shape": ["batch", 16]}}})
    secret = keys.add(tmp_path / "keys.json", "us")
    with serving(tmp_path, keys=str(tmp_path / "keys.json"), limits={"memory": "2MiB"}) as running:
        for road in ("/v2/models/float/infer", "/nowhere"):
            # Twice: heads that came before take another road.
            for _ in range(2):
                with connected(running) as stranger:
                    stranger.sendall(post(road, 1 << 20) + bytes(1 << 16))
                    refused = answer(stranger)
                    assert refused.startswith(b"HTTP/1.1 401 ")
                    assert b"www-authenticate: Bearer" in refused
        assert running.server.memory.held == 0
        known = {"Authorization": f"Bearer {secret}"}
        good = running.http.post("/v2/models/float/infer", content=LARGE, headers=known)
        assert good.status_code == 200
        assert running.http.get("/v2/models/float").headers["www-authenticate"] == "Bearer"


def test_half_a_body_counts_no_longer_than_its_client_is_there(shared: Running) -> None:
    gc.collect()
    gc.disable()
    try:
        before = shared.on_loop(lambda: shared.server.memory.take(0) or shared.server.memory.held)
        with connected(shared) as connection:
            connection.sendall(post("/v2/models/float/infer", 1 << 20) + bytes(1 << 19))
            while shared.server.memory.held < before + (1 << 19):
                pass
        while shared.on_loop(lambda: shared.server.memory.take(0) or shared.server.memory.held) > before:
            pass
    finally:
        gc.enable()


def test_heads_of_many_fields_are_not_kept(shared: Running) -> None:
    many = {f"x-{number}": "y" for number in range(40)}
    content = body([1, 16], [1.0] * 16)
    kept = len(shared.server.front.heads)
    for _ in range(2):
        assert shared.http.post("/v2/models/float/infer", content=content, headers=many).status_code == 200
    assert len(shared.server.front.heads) == kept


def test_bodies_are_unpacked_on_every_road(shared: Running) -> None:
    content = json.dumps({"x": ROW[0]}).encode()
    packed = {"Content-Encoding": "gzip"}
    road = "/v2/models/echo/generate"
    assert shared.http.post(road, content=gzip.compress(content), headers=packed).status_code == 200
    assert shared.http.post(road, content=content, headers=packed).status_code == 400
    assert shared.http.post(road, content=content, headers={"Content-Encoding": "br"}).status_code == 400


def test_what_nobody_foresaw_is_told_as_the_protocol_has_it(shared: Running) -> None:
    works["echo.puppet"] = lambda inputs: {"y": np.zeros((1, 4), np.complex64)}
    answered = shared.http.post("/v2/models/echo/generate", json={"x": ROW[0]})
    assert (answered.status_code, list(answered.json())) in [(400, ["error"]), (500, ["error"])]


@pytest.mark.parametrize("name", ["content-length: 0", "a: b"])
def test_a_name_of_a_request_changes_no_head(tmp_path: Path, name: str) -> None:
    write_models(tmp_path, {"many": {"puppet": {"chunks": 2}}})
    with serving(tmp_path, access_log=True) as running:
        asked = {"X-Request-Id": name}
        streamed = running.http.post("/v2/models/many/generate_stream", json={"x": ROW[0]}, headers=asked)
        assert streamed.headers["x-request-id"] == name
        assert streamed.text.count("data: ") == 2


def test_bodies_of_gzip_may_have_several_members(shared: Running) -> None:
    content = json.dumps({"x": ROW[0]}).encode()
    packed = gzip.compress(content[:5]) + gzip.compress(content[5:])
    road, headers = "/v2/models/echo/generate", {"Content-Encoding": "gzip"}
    assert shared.http.post(road, content=packed, headers=headers).json()["y"] == ROW[0]
    assert shared.http.post(road, content=packed + b"rest", headers=headers).status_code == 400


@pytest.mark.parametrize(("kind", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_of_very_many_members_are_refused(shared: Running, kind: str, pack: Callable[[bytes], bytes]) -> None:
    content = pack(json.dumps({"x": ROW[0]}).encode()) + pack(b"") * 5000
    answered = shared.http.post("/v2/models/echo/generate", content=content, headers={"Content-Encoding": kind})
    assert (answered.status_code, "follow the end" in answered.json()["error"]) == (400, True)


def test_an_output_is_asked_for_once(shared: Running) -> None:
    assert shared.infer("echo", ROW, outputs=[{"name": "y"}, {"name": "y"}]).status_code == 400


def test_a_version_has_one_name(shared: Running) -> None:
    assert shared.http.get("/v2/models/echo/versions/1").status_code == 200
    assert shared.http.get("/v2/models/echo/versions/01").status_code == 404
