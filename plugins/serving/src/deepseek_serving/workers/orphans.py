"""The answer to requests whose worker has died, given by the supervisor."""

from __future__ import annotations

import socket
from contextlib import suppress

_BODY = b'{"error":"the worker process of this request died; ask again"}'
_DIED = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n" % len(_BODY)
) + _BODY


def refuse(held: socket.socket) -> None:
    """Answer 503, and end the connection in a way that lets the client read it."""
    with suppress(OSError):
        held.setblocking(False)
        held.send(_DIED)
        held.shutdown(socket.SHUT_WR)
        # What is not read would turn the end into a reset, and the answer be lost.
        while held.recv(65536):
            pass
    held.close()
