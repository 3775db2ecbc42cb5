"""Peers that are there no more, and those that do not read what they asked for."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import hpack
import pytest
from http2_peer import PREFACE, frame, headers, message

from deepseek_serving.grpc import schema
from serving_pieces import Running, body, serving, write_models

#: The tensor of an answer, and its bytes in either form: fewer than what makes a transport say that it is full.
ROWS = (768, 16)
SIZE = 4 * 768 * 16


def timer(server: int, client: int) -> str:
    """What the server's end of a connection waits for, by the kernel's own table: ``02`` is keepalive."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, timers, *_ = line.split()
        if (int(local[-4:], 16), int(remote[-4:], 16)) == (server, client):
            return timers[:2]
    raise AssertionError("there is no such connection")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel's table of connections is Linux's")
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_peer_that_says_nothing_is_asked_whether_it_is_there(shared: Running, protocol: str) -> None:
    address = shared.address if protocol == "http" else shared.grpc
    said = {"http": b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n\r\n", "grpc": PREFACE + frame(4, 0, 0)}[protocol]
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(said)
        assert connection.recv(100)
        # Until what it said has reached the client, it waits for that.
        while timer(int(port), connection.getsockname()[1]) != "02":
            pass


def asking_http() -> Iterator[bytes]:
    """Requests of one connection."""
    content = body(ROWS, [1.0] * (ROWS[0] * ROWS[1]))
    head = b"POST /v2/models/float/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(content)
    yield from itertools.repeat(head + content)


def asking_grpc() -> Iterator[bytes]:
    """The same, of a client whose windows let everything through."""
    tensor = {"name": "x", "datatype": "FP32", "shape": ROWS}
    asked = schema.ModelInferRequest(model_name="float", inputs=[tensor], raw_input_contents=[bytes(SIZE)])
    content, encoder = message(asked.SerializeToString()), hpack.Encoder()
    settings = frame(4, 0, 0, struct.pack(">HI", 4, (1 << 31) - 1))
    first = PREFACE + settings + frame(8, 0, 0, struct.pack(">I", 1 << 30))
    for stream in itertools.count(1, 2):
        yield first + frame(1, 4, stream, encoder.encode(headers())) + frame(0, 1, stream, content)
        first = b""


def unsent(running: Running) -> int:
    """Bytes of answers that have not left the server, on whichever connection."""
    carrier = running.server._grpc
    every = [*running.server.front._connections, *carrier._connections]  # type: ignore[union-attr]
    return max((one._transport.get_write_buffer_size() for one in every), default=0)


def answered(running: Running) -> int:
    """Requests that have their answer."""
    return running.server.repository.find("float").statistics.counts().success.count


@pytest.mark.parametrize("asking", [asking_http, asking_grpc])
def test_a_client_that_does_not_read_the_end_of_its_answers_is_left(
    tmp_path: Path, asking: Callable[[], Iterator[bytes]]
) -> None:
    write_models(tmp_path, {"float": {"onnx": {}}})
    with serving(tmp_path, limits={"idle_timeout": "1s"}) as running:
        host, _, port = (running.address if asking is asking_http else running.grpc).partition(":")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((host, int(port)))
            for count, request in enumerate(asking(), 1):
                slow.sendall(request)
                while running.on_loop(lambda: answered(running)) < count:
                    pass
                if running.on_loop(lambda: unsent(running)):
                    break
            assert 0 < running.on_loop(lambda: unsent(running)) < 1 << 16
            while running.on_loop(lambda: unsent(running)):
                pass
            # The server has let it go, with the end of its answers.
            came = 0
            with suppress(ConnectionResetError):
                while block := slow.recv(1 << 20):
                    came += len(block)
            assert came < count * SIZE
