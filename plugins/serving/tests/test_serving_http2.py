"""HTTP/2 under gRPC, as our own carrier speaks it: what is hostile, and what is odd."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import grpc
import hpack
import pytest
from http2_peer import (
    BEGIN,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PATH,
    PING,
    PREFACE,
    PRIORITY,
    PUSH,
    RESET,
    SETTINGS,
    STREAM,
    WINDOW,
    frame,
    headers,
    opened,
    peer,
    request,
)

from serving_pieces import Running, serving, write_models

PROTOCOL, FLOW, CLOSED, SIZE, COMPRESSION, CALM = 1, 3, 5, 6, 9, 11


def said(shared: Running, data: bytes) -> list[tuple[int, int, bytes]]:
    """Send bytes as they are; the frames that come until the server ends the connection."""
    host, _, port = shared.grpc.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(data)
        came = b""
        try:
            while block := connection.recv(65536):
                came += block
        except ConnectionResetError:
            pass
    frames = []
    while len(came) >= 9:
        length = int.from_bytes(came[:3], "big")
        frames.append((came[3], int.from_bytes(came[5:9], "big"), came[9 : 9 + length]))
        came = came[9 + length :]
    return frames


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (PREFACE + frame(PING, 0, 0, bytes(8)), PROTOCOL),
        (BEGIN + frame(PING, 0, 0, bytes(7)), SIZE),
        (BEGIN + frame(PING, 0, 1, bytes(8)), SIZE),
        (BEGIN + frame(SETTINGS, 0, 0, bytes(5)), SIZE),
        (BEGIN + frame(SETTINGS, 0, 1), PROTOCOL),
        (BEGIN + frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 100)), PROTOCOL),
        (BEGIN + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)), FLOW),
        (BEGIN + frame(HEADERS, 0, 1, b"", length=(1 << 24) - 1), SIZE),
        (BEGIN + frame(DATA, 0, 1, b"", length=(1 << 24) - 1), SIZE),
        (BEGIN + frame(77, 0, 0, b"", length=1 << 20), SIZE),
        (BEGIN + frame(HEADERS, END_HEADERS, 2, b"\x82"), PROTOCOL),
        (BEGIN + frame(HEADERS, END_HEADERS, 0, b"\x82"), PROTOCOL),
        (BEGIN + frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff\x82"), PROTOCOL),
        (BEGIN + frame(HEADERS, END_HEADERS | PADDED, 1), SIZE),
        (BEGIN + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION),
        (BEGIN + frame(HEADERS, END_HEADERS, 1, b"\x82" * 8000), COMPRESSION),
        (BEGIN + frame(HEADERS, 0, 1, b"\x82") + frame(PING, 0, 0, bytes(8)), PROTOCOL),
        (BEGIN + frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, END_HEADERS, 3, b"\x82"), PROTOCOL),
        (BEGIN + frame(CONTINUATION, END_HEADERS, 1, b"\x82"), PROTOCOL),
        (BEGIN + frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 0, 1) * 20, CALM),
        (BEGIN + frame(DATA, 0, 1, b"x"), PROTOCOL),
        (BEGIN + frame(DATA, 0, 0, b"x"), PROTOCOL),
        (BEGIN + opened() + frame(DATA, PADDED, 1, b"\x09x"), PROTOCOL),
        (BEGIN + opened() + opened(), PROTOCOL),
        (BEGIN + frame(RESET, 0, 1, bytes(4)), PROTOCOL),
        (BEGIN + opened() + frame(RESET, 0, 1, bytes(3)), SIZE),
        (BEGIN + frame(WINDOW, 0, 0, bytes(4)), PROTOCOL),
        (BEGIN + frame(WINDOW, 0, 0, struct.pack(">I", (1 << 31) - 1)), FLOW),
        (BEGIN + opened() + frame(WINDOW, 0, 1, struct.pack(">I", (1 << 31) - 1)), FLOW),
        (BEGIN + frame(WINDOW, 0, 5, struct.pack(">I", 1)), PROTOCOL),
        (BEGIN + frame(PUSH, 0, 1, bytes(4)), PROTOCOL),
        (BEGIN + opened(path=STREAM) + frame(DATA, END_STREAM, 1) * 2, None),
    ],
)  # fmt: skip
def test_hostile_frames_end_their_connection_alone(shared: Running, data: bytes, code: int | None) -> None:
    if code is not None:
        kind, _, payload = said(shared, data)[-1]
        assert (kind, int.from_bytes(payload[4:8], "big")) == (GOAWAY, code), payload
    with peer(shared.grpc) as client:
        assert client.wait(client.ask(request()))["grpc-status"] == "0"


def test_a_client_of_http1_is_told(shared: Running) -> None:
    host, _, port = shared.grpc.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize("how", ["reset", "settings"])
def test_what_costs_the_server_much_is_read_slower_and_costs_nobody_else(shared: Running, how: str) -> None:
    encoder, data = hpack.Encoder(), BEGIN
    for number in range(1, 2 * 1000, 2):
        data += frame(HEADERS, END_HEADERS, number, encoder.encode(headers(STREAM)))
    for number in range(1, 2 * 6000, 2):
        if how == "reset":
            data += frame(RESET, 0, number, bytes(4))
            data += frame(HEADERS, END_HEADERS, 2000 + number, encoder.encode(headers()))
        else:
            data += frame(SETTINGS, 0, 0, struct.pack(">HI", 4, number % 100) * 100)
    host, _, port = shared.grpc.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        sending = threading.Thread(target=connection.sendall, args=(data + frame(PING, 0, 0, b"12345678"),))
        sending.start()
        with peer(shared.grpc) as client:
            for _ in range(20):
                assert client.wait(client.ask(request()))["grpc-status"] == "0"
        came = b""
        while frame(PING, 1, 0, b"12345678") not in came:
            block = connection.recv(65536)
            assert block
            came = came[-16:] + block
        sending.join()


def test_a_claim_to_send_much_costs_nobody_else(tmp_path: Path) -> None:
    write_models(tmp_path, {"image": {"onnx": {"shape": ["batch", 3, 224, 224]}}})
    with serving(tmp_path, limits={"memory": 4 << 20, "read_timeout": "1s"}) as running, peer(running.grpc) as claiming:
        streams = [claiming.ask(struct.pack(">BI", 0, 3 << 20), path=STREAM, end=False) for _ in range(8)]
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary(PATH)
            # Nor do those that came before, however many.
            for _ in range(20):
                assert call(request((1, 3, 224, 224), "image")[5:])
        # A message that has begun has to come.
        assert {claiming.wait(stream)["grpc-status"] for stream in streams} == {"4"}


@pytest.mark.parametrize(
    "wrong",
    [
        [(":method", "POST"), (":scheme", "http")],
        [*headers(), ("X-Upper", "1")],
        [*headers(), ("connection", "close")],
        [*headers(), (":path", "/again")],
        [("te", "trailers"), *headers()],
        [*headers(), (":status", "200")],
    ],
)
def test_malformed_requests_are_reset(shared: Running, wrong: list[tuple[str, str]]) -> None:
    block = hpack.Encoder().encode(wrong)
    with peer(shared.grpc) as client:
        client.send(frame(HEADERS, END_HEADERS, 1, block))
        client.h2.get_next_available_stream_id()
        # The library does not know of the stream: the bytes are looked at.
        came = b""
        while frame(RESET, 0, 1, struct.pack(">I", PROTOCOL)) not in came:
            block = client._socket.recv(65536)
            assert block
            came += block


def test_what_is_no_call_of_grpc(shared: Running) -> None:
    with peer(shared.grpc) as client:
        assert client.wait(client.ask(b"", **{":method": "GET"}))[":status"] == "405"
        assert client.wait(client.ask(b"", content_type="text/html"))[":status"] == "415"
        for more, status in [
            ({"path": "/inference.GRPCInferenceService/Nothing"}, "12"), ({"path": "/x"}, "12"),
            ({"grpc_timeout": "1"}, "3"), ({"grpc_timeout": "123456789S"}, "3"), ({"grpc_encoding": "br"}, "12"),
        ]:  # fmt: skip
            found = client.wait(client.ask(request(), **more))
            assert (found[":status"], found["grpc-status"]) == ("200", status)


def test_a_request_in_single_bytes_and_padding(shared: Running) -> None:
    content = request(id="slow")
    parts = b"".join(frame(DATA, PADDED, 1, bytes((3,)) + content[at : at + 7] + bytes(3)) for at in range(0, 140, 7))
    block = hpack.Encoder().encode(headers())
    data = (
        BEGIN + frame(77, 0, 0, b"unknown") + frame(HEADERS, 0, 1, block[:9]) + frame(CONTINUATION, 0, 1, block[9:20])
        + frame(CONTINUATION, END_HEADERS, 1, block[20:]) + frame(PRIORITY, 0, 1, bytes(5)) + parts
        + frame(DATA, 0, 1, content[140:]) + frame(DATA, END_STREAM, 1) + frame(SETTINGS, 1, 0)
    )  # fmt: skip
    host, _, port = shared.grpc.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
        came = b""
        while b"grpc-status\x010" not in came:
            block = connection.recv(65536)
            assert block, came
            came += block
    assert b"\x1a\x04slow" in came
