"""A client's socket: set up when it connects, and written to at once."""

from __future__ import annotations

import asyncio
import os
import socket

#: A peer that says nothing is asked whether it is there: after so many seconds, so often, so many times.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}

#: How long a connection that ends is read on, in seconds.
_LINGER = 1.0
#: Parts that the system writes at once.
_PARTS = 1024
#: Bytes that may wait for a client before its connection is told; uvloop's and asyncio's default.
_LITTLE = 64 << 10


def set_up(transport: asyncio.BaseTransport) -> int | None:
    """The socket of a new connection, for `write_now`; None: what is written has to be encrypted.

    A peer that lost its power or its network ends a connection after two minutes, streams on it included.
    """
    sock = transport.get_extra_info("socket")
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            # Not every system has all of them.
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return None if transport.get_extra_info("ssl_object") is not None else sock.fileno()


def write_now(transport: asyncio.Transport, plain: int | None, data: bytes) -> None:
    """Write at once, not at the end of the loop's turn: the client has it sooner, for less.

    Args:
        transport: takes what can't be written now, or not at all.
        plain: its socket; None: what is written has to be encrypted.
        data: what to write.
    """
    if plain is not None and transport.get_write_buffer_size() == 0:
        try:
            written = os.write(plain, data)
        except OSError:
            # The transport finds it, too.
            written = 0
        if written == len(data):
            return
        data = data[written:]
    transport.write(data)


def write_parts(transport: asyncio.Transport, plain: int | None, parts: list[bytes | memoryview]) -> None:
    """As `write_now`, what is large and in parts, which are not put together."""
    if plain is None or len(parts) > _PARTS or transport.get_write_buffer_size():
        transport.writelines(parts)
        return
    try:
        written = os.writev(plain, parts)
    except OSError:
        written = 0
    rests = []
    for part in parts:
        if written < len(part):
            rests.append(memoryview(part)[written:])
        written = max(0, written - len(part))
    if rests:
        # Of little, which nobody is told of, a copy: the rest itself would keep all of the answer.
        # At once: whoever is told that it is much looks at how much it is.
        transport.writelines([b"".join(rests)] if sum(map(len, rests)) <= _LITTLE else rests)


def linger(transport: asyncio.Transport, plain: int | None) -> None:
    """End a connection that may still be sent to, after a while: a close with data unread would be a reset.

    A reset takes with it what was written and is not read yet.
    """
    if plain is None:
        transport.close()
        return
    transport.write_eof()
    asyncio.get_running_loop().call_later(_LINGER, transport.close)
