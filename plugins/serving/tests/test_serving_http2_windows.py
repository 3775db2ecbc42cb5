"""HTTP/2 under gRPC over time: what the windows allow, how many streams there are, and who is waited for."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import hpack
import numpy as np
import pytest
from http2_peer import (
    BEGIN,
    DATA,
    END_HEADERS,
    HEADERS,
    PATH,
    PING,
    RESET,
    STREAM,
    WINDOW,
    answer,
    frame,
    headers,
    message,
    opened,
    peer,
    request,
)

from deepseek_serving.grpc import schema
from serving_pieces import Running, serving, write_models


def test_the_windows_are_widened_as_the_server_reads(shared: Running) -> None:
    much = message(bytes(40 << 20))[: 20 << 20]
    pieces = b"".join(frame(DATA, 0, 1, much[at : at + 16384]) for at in range(0, len(much), 16384))
    host, _, port = shared.grpc.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(BEGIN + opened() + pieces)
        connection.sendall(frame(RESET, 0, 1, bytes(4)) + frame(PING, 0, 0, b"12345678"))
        came = b""
        while frame(PING, 1, 0, b"12345678") not in came:
            came += connection.recv(65536)
    widened = {0: 0, 1: 0}
    while len(came) >= 9:
        length, stream = int.from_bytes(came[:3], "big"), int.from_bytes(came[5:9], "big")
        if came[3] == WINDOW:
            widened[stream] += int.from_bytes(came[9:13], "big")
        came = came[9 + length :]
    assert all(total + (16 << 20) >= 20 << 20 and total > 4 << 20 for total in widened.values()), widened


@pytest.mark.parametrize("window", [1, 1000, 16384, 65535])
def test_an_answer_waits_for_the_clients_windows(shared: Running, window: int) -> None:
    shape = (1, 16) if window == 1 else (2, 3, 224, 224)
    with peer(shared.grpc, window=window) as client:
        stream = client.ask(request((1, 16)))
        other = client.ask(request((1, 16)))
        assert client.wait(stream)["grpc-status"] == client.wait(other)["grpc-status"] == "0"
        if window > 1:
            large = client.h2.get_next_available_stream_id()
            client.h2.send_headers(large, headers())
            content = request(shape, "image")
            while content:
                size = min(len(content), client.h2.local_flow_control_window(large), 16384)
                client.h2.send_data(large, content[:size], end_stream=size == len(content))
                content = content[size:]
                client.send()
                while content and client.h2.local_flow_control_window(large) == 0:
                    assert client.read()
            assert client.wait(large)["grpc-status"] == "0"
            np.testing.assert_array_equal(answer(client.data[large]), np.arange(np.prod(shape), dtype=np.float32))
    np.testing.assert_array_equal(answer(client.data[stream]), np.arange(16))


def test_streams_beyond_the_limit_are_refused(shared: Running) -> None:
    encoder, data = hpack.Encoder(), BEGIN
    for number in range(1, 2 * 1025 + 1, 2):
        data += frame(HEADERS, END_HEADERS, number, encoder.encode(headers()))
    host, _, port = shared.grpc.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(data)
        came = b""
        while frame(RESET, 0, 2049, struct.pack(">I", 7)) not in came:
            block = connection.recv(65536)
            assert block
            came += block


def test_large_headers_are_an_error_of_their_call(shared: Running) -> None:
    with peer(shared.grpc) as client:
        assert client.wait(client.ask(request(), x_much="a" * 30000))["grpc-status"] == "0"
        assert client.wait(client.ask(request(), x_much="a" * 80000))["grpc-status"] == "8"
        assert client.wait(client.ask(request()))["grpc-status"] == "0"


def test_deadlines_of_streams_and_of_calls_that_are_not_complete(shared: Running) -> None:
    with peer(shared.grpc) as client:
        for path in (PATH, STREAM):
            found = client.wait(client.ask(request()[:9], end=False, path=path, grpc_timeout="50m"))
            assert found["grpc-status"] == "4"


def test_a_client_that_sends_or_says_nothing_is_left(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, limits={"read_timeout": "1s", "idle_timeout": "1s"}) as running:
        with peer(running.grpc) as client:
            # Half a request.
            found = client.wait(client.ask(request()[:20], end=False))
            assert (found["grpc-status"], "not complete" in found["grpc-message"]) == ("4", True)
            while client.read():
                pass
            assert "ConnectionTerminated" in str(client.events)
        with peer(running.grpc, window=0, grant=False) as client:
            # An answer that is not read.
            client.ask(request((1, 4), "echo"))
            try:
                while client.read():
                    pass
            except ConnectionResetError:
                pass


def test_a_stream_that_is_not_read_is_not_asked_on(shared: Running) -> None:
    path = STREAM
    one = request((64, 16))
    with peer(shared.grpc, window=0, grant=False) as client:
        stream = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream, headers(path))
        sent = 0
        while client.h2.local_flow_control_window(stream) >= len(one):
            client.h2.send_data(stream, one)
            sent += 1
            client.ping()
            # What the model has answered waits for the client; what it has not is still to come.
            while shared.on_loop(lambda: len(shared.server.repository.find("float").calls)):
                pass
            client.ping()
        # It was told to go on, and then no more.
        assert 256 < sent < 2000
        assert not client.data
        client.h2.increment_flow_control_window(1 << 30, stream)
        client.h2.increment_flow_control_window(1 << 30)
        client.h2.end_stream(stream)
        client.send()
        assert client.wait(stream)["grpc-status"] == "0"
        content, answers = client.data[stream], 0
        while content:
            length = struct.unpack(">I", content[1:5])[0]
            response = schema.ModelStreamInferResponse.FromString(content[5 : 5 + length])
            assert not response.error_message
            assert len(response.infer_response.raw_output_contents[0]) == 64 * 16 * 4
            content, answers = content[5 + length :], answers + 1
        assert answers == sent


def test_a_frame_that_trickles_in_is_given_up(tmp_path: Path) -> None:
    write_models(tmp_path, {"float": {"onnx": {"shape": ["batch", 16]}}})
    with serving(tmp_path, limits={"read_timeout": "200ms"}) as running:
        host, _, port = running.grpc.partition(":")
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(BEGIN + frame(PING, 0, 0, b"12345678")[:-1])
            came = b"more"
            while came:
                came = connection.recv(65536)
