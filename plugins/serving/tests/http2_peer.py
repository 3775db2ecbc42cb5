"""A client of gRPC made of `h2`, a library that is none of ours: one that reads and allows as a test says."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import numpy as np

from deepseek_serving.grpc import schema

#: Kinds of frames, and flags.
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = f"/{schema.SERVICE}/ModelInfer"
STREAM = f"/{schema.SERVICE}/ModelStreamInfer"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """A frame as it travels, however wrong."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(content: bytes, *, packed: int = 0) -> bytes:
    """A message of gRPC with its prefix."""
    return struct.pack(">BI", packed, len(content)) + content


def request(shape: tuple[int, ...] = (1, 16), model: str = "float", **more: Any) -> bytes:
    """A message that asks an identity."""
    values = np.arange(np.prod(shape), dtype=np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": shape}
    return message(
        schema.ModelInferRequest(
            model_name=model, inputs=[tensor], raw_input_contents=[values.tobytes()], **more
        ).SerializeToString()
    )


def answer(content: bytes) -> np.ndarray:
    """The tensor in a message."""
    packed, length = struct.unpack(">BI", content[:5])
    assert (packed, length) == (0, len(content) - 5)
    return np.frombuffer(schema.ModelInferResponse.FromString(content[5:]).raw_output_contents[0], np.float32)


def headers(path: str = PATH, **more: str) -> list[tuple[str, str]]:
    """The headers of a call; a value of "" leaves one out."""
    found = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "test", "te": "trailers",
        "content-type": "application/grpc", **{name.replace("_", "-"): value for name, value in more.items()},
    }  # fmt: skip
    return [(name, value) for name, value in found.items() if value]


#: How a client begins.
BEGIN = PREFACE + frame(SETTINGS, 0, 0)


def opened(*, flags: int = END_HEADERS, **more: str) -> bytes:
    return frame(HEADERS, flags, 1, hpack.Encoder().encode(headers(**more)))


class Peer:
    """A connection.

    Attributes:
        data: bytes that came on each stream.
        ended: streams that ended, with the headers that came last (trailers) or the code of their reset.
        events: everything else that came.
    """

    def __init__(self, connection: socket.socket, window: int, *, grant: bool) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self._socket, self._grant = connection, grant
        self.data: dict[int, bytes] = {}
        self.ended: dict[int, Any] = {}
        self.events: list[Any] = []
        self._last: dict[int, dict[str, str]] = {}
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()
        self.send()

    def send(self, raw: bytes = b"") -> None:
        """Let leave what was said, and bytes as they are."""
        self._socket.sendall(self.h2.data_to_send() + raw)

    def ask(self, content: bytes, *, end: bool = True, **more: Any) -> int:
        """Begin a call with the whole of its body; the stream's number."""
        stream = int(self.h2.get_next_available_stream_id())
        self.h2.send_headers(stream, headers(**more))
        self.h2.send_data(stream, content, end_stream=end)
        self.send()
        return stream

    def close(self) -> None:
        """Go."""
        self._socket.close()

    def read(self) -> bool:
        """Take what comes next; False: the server has ended the connection."""
        block = self._socket.recv(65536)
        for event in self.h2.receive_data(block) if block else ():
            self._take(event)
        self.send()
        return bool(block)

    def wait(self, stream: int) -> dict[str, str]:
        """The trailers of a stream, when it has ended."""
        while stream not in self.ended:
            assert self.read(), (self.events, self.ended)
        found: dict[str, str] = self.ended[stream]
        return found

    def ping(self) -> None:
        """Wait until the server has dealt with all that was sent."""
        self.events.clear()
        self.h2.ping(b"12345678")
        self.send()
        while not any(isinstance(event, h2.events.PingAckReceived) for event in self.events):
            assert self.read()

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
            if self._grant and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._last[event.stream_id] = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended[event.stream_id] = self._last[event.stream_id]
        elif isinstance(event, h2.events.StreamReset):
            self.ended.setdefault(event.stream_id, {"reset": str(int(event.error_code))})
        else:
            self.events.append(event)


@contextmanager
def peer(address: str, *, window: int = 65535, grant: bool = True) -> Iterator[Peer]:
    """Connect. `window`: what the server may send on a stream at first; `grant`: whether it is allowed more."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        yield Peer(connection, window, grant=grant)
