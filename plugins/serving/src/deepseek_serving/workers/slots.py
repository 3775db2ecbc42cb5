"""What a connection is at, in memory that supervisor and workers share.

When a worker dies, its connections live on in the supervisor, which tells from here what to do with each: one that is
idle goes to another worker, one whose request has no answer yet gets a 503, one half answered can only be ended.

Whether an answer that was being written left the process, the kernel knows: it counts the bytes of a connection. So a
worker notes how many there were before an answer, and how many there will be after it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import termios

#: ASKED: more than nothing was read of a request. ANSWERING: an answer is written, and nothing was read of another
#: request; AHEAD: something was. PART: an answer is written in parts, and is not complete.
IDLE, ASKED, ANSWERING, AHEAD, PART = range(5)
#: Where Linux's `struct tcp_info` has `tcpi_bytes_acked`.
_ACKED = 120


class Slots:
    """The table.

    Args:
        handle: the shared memory, as a file.
        count: how many connections there may be.

    Attributes:
        states: a byte for each connection.
        before, after: bytes written to each, before and after the answer that was last begun.
    """

    def __init__(self, handle: int, count: int) -> None:
        self.handle = handle
        memory = memoryview(mmap.mmap(handle, _size(count)))
        self.before = memory[: 8 * count].cast("Q")
        self.after = memory[8 * count : 16 * count].cast("Q")
        self.states = memory[16 * count :]

    @classmethod
    def make(cls, count: int) -> Slots:
        """New shared memory."""
        handle = os.memfd_create("deepseek-slots")
        os.ftruncate(handle, _size(count))
        return cls(handle, count)

    def open(self, slot: int, connection: socket.socket) -> None:
        """A connection takes the slot; it may have been another worker's."""
        self.states[slot] = IDLE
        self.before[slot] = self.after[slot] = _written(connection)

    def state(self, slot: int, connection: socket.socket) -> int:
        """What a connection is at whose worker has died."""
        state = self.states[slot]
        if state in (IDLE, ASKED, PART):
            return state
        there = _written(connection)
        if there == self.after[slot]:
            return IDLE if state == ANSWERING else ASKED
        return ASKED if there == self.before[slot] else state


def _size(count: int) -> int:
    return 17 * count


def _written(connection: socket.socket) -> int:
    """Bytes that were ever written to a connection: those that its client has, and those that still wait."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    waiting = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return int(struct.unpack_from("Q", info, _ACKED)[0]) + int(waiting)
