"""HTTP/1.1 itself: odd heads, pieces, chunks, requests sent ahead."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from serving_pieces import Running, body, serving, write_models
from serving_puppets import Blocked

GOOD = body([1, 16], [1.0] * 16)


def exchange(shared: Running, data: bytes) -> bytes:
    """Send bytes as they are, and read until the server ends the connection."""
    host, _, port = shared.address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(data)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 67108865\r\n\r\n", 413),
        (b"POST /v2 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999999999999999\r\n\r\n", 413),
        (b"POST /v2 HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST /v2 HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 20000 + b"\r\n", 431),
        (b"GET /v2/health/live HTTP/1.0\r\n\r\n", 200),
        (b"GET /v2/health/live HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\nconnection: close\r\n\r\n", 400),
        (b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", 200),
        (b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 200),
    ],
)
def test_what_is_no_proper_http(shared: Running, data: bytes, status: int) -> None:
    # Twice: what was said of a head once must be said again.
    for _ in range(2):
        assert exchange(shared, data).startswith(b"HTTP/1.1 %d " % status)


def test_requests_sent_ahead_are_answered_in_order(shared: Running) -> None:
    host, _, port = shared.address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        for number in range(40):
            content = body([1, 16], [float(number)] * 16)
            top = b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n" % len(content)
            if number == 39:
                top += b"connection: close\r\n"
            connection.sendall(top + b"\r\n" + content)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    assert [float(part.partition(b",")[0]) for part in answer.split(b'"data":[')[1:]] == list(range(40))


def test_a_body_is_never_taken_for_a_request(shared: Running) -> None:
    """The head of the second request comes with the first; its body looks like a request whose head is known."""
    known = b"POST /v2/models/nobody/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n"
    exchange(shared, known + b"{}" + b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    first = b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(GOOD) + GOOD
    inner = known + b"{}"
    second = (
        b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        % len(inner)
    )
    host, _, port = shared.address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(known + b"{}")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
        connection.sendall(first + second)
        got = connection.recv(65536)
        connection.sendall(inner)
        while block := connection.recv(65536):
            got += block
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


def test_what_is_no_request_is_answered_after_those_before_it(shared: Running) -> None:
    request = (
        b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(GOOD) + GOOD
    )
    got = exchange(shared, request * 20 + b"nonsense\r\n\r\n")
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 20 + [b"400"]


def test_a_refusal_is_read_by_a_client_that_is_still_sending(shared: Running) -> None:
    top = b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n\r\n"
    for _ in range(5):
        assert exchange(shared, top + bytes(4 << 20)).startswith(b"HTTP/1.1 413 ")


def test_keys_do_not_come_behind_a_body(shared: Running) -> None:
    chunked = b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"%x\r\n%b\r\n0\r\ncontent-encoding: br\r\n\r\n" % (len(GOOD), GOOD)
    assert exchange(shared, chunked + body).startswith(b"HTTP/1.1 200 ")


def test_a_chunked_body_and_a_body_in_pieces(shared: Running) -> None:
    pieces = (GOOD[start : start + 7] for start in range(0, len(GOOD), 7))
    assert shared.http.post("/v2/models/float/infer", content=pieces).status_code == 200
    big = body([4096, 16], [1.5] * 65536)
    assert shared.http.post("/v2/models/float/infer", content=big).status_code == 200


def test_a_client_that_waits_for_permission(shared: Running) -> None:
    top = b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    answer = exchange(shared, top % len(GOOD) + GOOD)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_one_that_waits_behind_another_request(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": {}})
    blocked, content = Blocked("slow.puppet"), body([1, 4], [1.0] * 4)
    top = b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n" % len(content)
    with serving(tmp_path) as running:
        host, _, port = running.address.partition(":")
        with socket.create_connection((host, int(port)), 30) as client, client.makefile("rb") as answers:
            client.sendall(top + b"\r\n" + content)
            blocked.entered.acquire()
            client.sendall(top + b"expect: 100-continue\r\nconnection: close\r\n\r\n")
            blocked.go.set()
            came = b""
            while not came.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
                came += answers.read(1)
            assert came.startswith(b"HTTP/1.1 200 OK")
            client.sendall(content)
            assert answers.read().startswith(b"HTTP/1.1 200 OK")


def test_an_older_client_is_told_that_its_connection_ends(shared: Running) -> None:
    for _ in range(2):
        answer = exchange(shared, b"GET /v2/health/live HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        assert b"\r\nconnection: close\r\n" in answer


def test_numbers_of_any_length_in_headers(shared: Running) -> None:
    for header in (b"content-length", b"inference-header-content-length"):
        for digits in (b"9" * 30, b"9" * 5000):
            data = (
                b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\n%b: %b\r\ncontent-length: 20000\r\n\r\n"
                % (header, digits)
            )
            assert exchange(shared, data + bytes(20000) + b"GET /v2 HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 4")


def test_large_bodies_are_read_as_far_as_memory_is_allowed(tmp_path: Path) -> None:
    write_models(tmp_path, {"float": {"onnx": {}}})
    large = body([4000, 16], [1.0] * 64000)
    plain = (
        b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        % len(large)
        + large
    )
    chunked = b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n" % len(large) + large + b"\r\n0\r\n\r\n"
    with serving(tmp_path, limits={"memory": 2 * len(large)}) as running:
        host, _, port = running.address.partition(":")
        with socket.create_connection((host, int(port))) as one, socket.create_connection((host, int(port))) as two:
            # Half of each is held until it goes on.
            one.sendall(plain[:-10])
            two.sendall(chunked[: len(large)])
            while running.on_loop(lambda: running.server.memory.held) < 1.5 * len(large):
                pass
            assert exchange(running, plain).startswith(b"HTTP/1.1 503 ")

            assert exchange(running, chunked).startswith(b"HTTP/1.1 503 ")
            one.sendall(plain[-10:])
            assert one.recv(99).startswith(b"HTTP/1.1 200 ")
        # What is given back can be used again.
        while not exchange(running, plain).startswith(b"HTTP/1.1 200 "):
            pass
        assert exchange(running, chunked).startswith(b"HTTP/1.1 200 ")


def test_a_head_that_is_known_changes_nothing_of_that(tmp_path: Path) -> None:
    write_models(tmp_path, {"float": {"onnx": {}}})
    content = body([100, 16], [0.12345678] * 1600)
    assert 16 << 10 < len(content) < 20 << 10
    head = b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    plain = head % len(content) + content
    with serving(tmp_path, limits={"memory": 30 << 10}) as running:
        for _ in range(3):
            assert exchange(running, plain).startswith(b"HTTP/1.1 200 ")
        host, _, port = running.address.partition(":")
        with socket.create_connection((host, int(port))) as half:
            half.sendall(head % (25 << 10) + bytes(20 << 10))
            while running.on_loop(lambda: running.server.memory.held) < 20 << 10:
                pass
            assert exchange(running, plain).startswith(b"HTTP/1.1 503 ")


def test_an_old_client_gets_a_stream_until_the_connection_ends(shared: Running) -> None:
    content = b'{"x":[1,1,1,1]}'
    line = b"POST /v2/models/many/generate_stream HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(content)
    top, _, events = exchange(shared, line + content).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in top
    assert (events.count(b"data: {"), events[:7]) == (3, b"data: {")
