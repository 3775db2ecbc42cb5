"""Any bytes on the wire: framing never fails otherwise than by the protocol, however the bytes are cut."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import hpack
from http2_peer import PREFACE, frame, headers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deepseek_serving.http2.connection import Connection
from deepseek_serving.http2.headers import block, malformed
from deepseek_serving.http2.streams import Receiver, Stream
from deepseek_serving.settings import LimitSettings
from serving_pieces import Running, body

GOOD = hpack.Encoder().encode(headers())


class Echo(Receiver):
    """Answers with what came."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._came = stream, b""

    def data(self, pieces: Sequence[Any], *, end: bool) -> None:
        self._came += b"".join(map(bytes, pieces))
        if end:
            self._stream.answer(block((b":status", b"200")), [self._came], len(self._came), block((b"a", b"b")))

    def late(self) -> None:
        raise AssertionError("nobody looks at the time")

    def gone(self) -> None:
        self._came = b""


class EchoFront:
    """Takes every request."""

    limits, draining = LimitSettings(), False

    def __init__(self) -> None:
        self.scratch = bytearray(1 << 16)

    def look(self, headers: Any) -> str:
        return malformed(headers)

    def begin(self, stream: Stream, seen: str) -> Receiver:
        return Echo(stream)

    def opened(self, connection: Connection) -> None:
        pass

    def closed(self, connection: Connection) -> None:
        pass


#: What is asked for its family and no more.
NOWHERE = SimpleNamespace(family=socket.AF_UNIX)


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str) -> Any:
        return {"ssl_object": True, "socket": NOWHERE}.get(name)

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


def answered(data: bytes, cuts: list[int]) -> tuple[bytes, bool]:
    """What a connection says to bytes that come in pieces."""
    front, wire = EchoFront(), Wire()
    connection = Connection(front)
    connection.connection_made(wire)  # type: ignore[arg-type]
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, stop in itertools.pairwise(places):
        for at in range(start, stop, len(front.scratch)):
            piece = data[at : min(stop, at + len(front.scratch))]
            front.scratch[: len(piece)] = piece
            if not wire.closed:
                connection.buffer_updated(len(piece))
    connection.connection_lost(None)
    return wire.written, wire.closed


payloads = st.one_of(
    st.binary(max_size=40), st.just(GOOD), st.just(bytes(8)), st.just(bytes(4)), st.just(b"\0\0\0\x09"),
    st.builds(lambda key, value: bytes((0, key)) + value.to_bytes(4, "big"), st.integers(0, 7), st.integers(0, 1 << 20)),
)  # fmt: skip
frames = st.builds(
    frame, st.integers(0, 10), st.sampled_from([0, 1, 4, 5, 8, 12, 13, 32, 36, 255]), st.integers(0, 7), payloads
)
cuts = st.lists(st.integers(0, 1 << 16), max_size=12)


@settings(max_examples=600, deadline=None)
@given(st.lists(frames, max_size=12), cuts, st.binary(max_size=12))
@example([frame(1, 4, 1, GOOD), frame(0, 0, 1, b"abc"), frame(0, 1, 1, b"def")], [30, 40, 41, 42, 80, 90, 99], b"")
def test_http2_answers_the_same_however_its_bytes_are_cut(parts: list[bytes], cuts: list[int], tail: bytes) -> None:
    data = PREFACE + frame(4, 0, 0) + b"".join(parts) + tail
    whole, cut = answered(data, []), answered(data, cuts)
    # Leave to send on is given by what has been read, so it may come in other portions.
    assert without_windows(whole[0]) == without_windows(cut[0])
    assert whole[1] == cut[1]


def without_windows(written: bytes) -> list[bytes]:
    """The frames that were written, the leave to send on excepted."""
    found = []
    while written:
        length = 9 + int.from_bytes(written[:3], "big")
        assert len(written) >= length, "half a frame"
        if written[3] != 8:
            found.append(written[:length])
        written = written[length:]
    return found


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), cuts)
@example(b"PO", [1])
def test_http2_of_any_bytes(data: bytes, cuts: list[int]) -> None:
    assert answered(data, cuts) == answered(data, [])


INFER = body([1, 16], [1.0] * 16)
lines = st.sampled_from([
    b"POST /v2/models/float/infer HTTP/1.1\r\n", b"GET /v2 HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"host: localhost\r\n", b"\r\n", b"\n", b"0\r\n",
    b"host: localhost\r\n", b"content-length: %d\r\n" % len(INFER), b"content-length: 0\r\n", b"content-length: -1\r\n",
    b"transfer-encoding: chunked\r\n", b"expect: 100-continue\r\n", b"connection: close\r\n", b"content-encoding: gzip\r\n",
    b"inference-header-content-length: 7\r\n", b"%x\r\n" % len(INFER) + INFER + b"\r\n", INFER, b"upgrade: h2c\r\n",
])  # fmt: skip
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(lines, lines, st.binary(max_size=20)), max_size=12), cuts)
def test_http1_of_any_lines(shared: Running, parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    host, _, port = shared.address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        came = b""
        try:
            places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
            for start, stop in itertools.pairwise(places):
                connection.sendall(data[start:stop])
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                came += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    statuses = {int(found) for found in _STATUS.findall(came)}
    assert not came or came.startswith(b"HTTP/1.1 ")
    assert not [status for status in statuses if status >= 500 and status != 505], came
