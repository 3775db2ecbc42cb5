"""Frames: their kinds, flags and numbers, and those that a server sends. Source: RFC 9113."""

from __future__ import annotations

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: What a client of HTTP/1 is told.
OF_HTTP1 = b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

# Kinds of frames.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

# Flags; 1 is ACK in SETTINGS and PING.
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

# Errors.
(
    NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR,
    REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM,
) = range(12)  # fmt: skip

# Settings.
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

#: The largest window, and the sizes of one and of a frame that both sides begin with.
LARGEST_WINDOW = (1 << 31) - 1
FIRST_WINDOW, FIRST_FRAME = (1 << 16) - 1, 1 << 14
LARGEST_FRAME = (1 << 24) - 1
#: Bytes of a DATA frame that are sent or taken at most.
FRAME = 1 << 18

#: A frame's head: its length (the highest byte, then two), kind, flags and stream.
TOP = Struct(">BHBBI")
_SETTING = Struct(">HI")
_NUMBER = Struct(">I")


class Http2Error(Exception):
    """What ends a connection.

    Args:
        code: one of RFC 9113, section 7.
        why: told to the client.
    """

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame with a payload that is small."""
    return top(len(payload), kind, flags, stream) + payload


def top(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload."""
    return TOP.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def greeting(streams: int, window: int, all_together: int, head: int) -> bytes:
    """The server's first frames: how many streams a client may open, and what it may send before it is told to go on.

    Args:
        streams: how many.
        window: bytes on each.
        all_together: bytes on all of them.
        head: bytes of a request's headers.
    """
    values = {
        MAX_CONCURRENT_STREAMS: streams, INITIAL_WINDOW_SIZE: window, MAX_FRAME_SIZE: FRAME, MAX_HEADER_LIST_SIZE: head,
    }  # fmt: skip
    settings = frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))
    return settings + window_update(0, all_together - FIRST_WINDOW)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The settings in a frame, in order. Raises Http2Error."""
    if len(payload) % _SETTING.size:
        raise Http2Error(FRAME_SIZE_ERROR, "a SETTINGS frame of a broken size")
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, more: int) -> bytes:
    """Leave to send so many bytes more; stream 0: the connection's."""
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(more))


def reset(stream: int, code: int) -> bytes:
    """The end of a stream, at once."""
    return frame(RST_STREAM, 0, stream, _NUMBER.pack(code))


def go_away(last: int, code: int, why: str = "") -> bytes:
    """The end of a connection; `last` is the last stream that was looked at."""
    return frame(GOAWAY, 0, 0, _NUMBER.pack(last) + _NUMBER.pack(code) + why.encode())


def number(payload: bytes) -> int:
    """What a WINDOW_UPDATE or RST_STREAM frame says: 31 bits. Raises Http2Error."""
    if len(payload) != _NUMBER.size:
        raise Http2Error(FRAME_SIZE_ERROR, "a frame of a broken size")
    return int(_NUMBER.unpack(payload)[0]) & LARGEST_WINDOW


def unpadded(flags: int, payload: bytes, *, also: int = 0) -> bytes:
    """A payload without its padding and the `also` bytes of priority before it. Raises Http2Error."""
    begin = padding = 0
    if flags & PADDED:
        if not payload:
            raise Http2Error(FRAME_SIZE_ERROR, "a padded frame without a length of padding")
        begin, padding = 1, payload[0]
    begin += also
    if begin + padding > len(payload):
        raise Http2Error(PROTOCOL_ERROR, "the padding is longer than its frame")
    return payload[begin : len(payload) - padding]
