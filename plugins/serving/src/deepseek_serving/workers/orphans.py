"""The answer to requests that no worker can answer, given by the supervisor."""

from __future__ import annotations

import socket
from contextlib import suppress

import msgspec

_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b"
)


def refuse(held: socket.socket, why: str) -> None:
    """Answer 503, and end the connection in a way that lets the client read it."""
    body = msgspec.json.encode({"error": why})
    with suppress(OSError):
        held.setblocking(False)
        held.send(_HEAD % (len(body), body))
        held.shutdown(socket.SHUT_WR)
        # What is not read would turn the end into a reset, and the answer be lost.
        while held.recv(65536):
            pass
    held.close()
