"""A connection of a worker process, of which the supervisor keeps a hold: what it is at is written down for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from deepseek_serving.http.connection import Connection
from deepseek_serving.workers.slots import AHEAD, ANSWERING, ASKED, IDLE, PART, Slots
from deepseek_serving.writing import write_now

if TYPE_CHECKING:
    from deepseek_serving.http.front import Front

#: How often a connection whose client reads slowly is looked at, in seconds.
_LOOK = 0.05


class SharedConnection(Connection):
    """One client's connection.

    Args:
        front: what all connections share.
        slot: its number in the table.
        slots: the table, which the supervisor reads when this process has died.
        gone: called with the number when the connection has ended.
    """

    def __init__(self, front: Front, slot: int, slots: Slots, gone: Callable[[int], None]) -> None:
        super().__init__(front)
        self._slot, self._slots, self._gone = slot, slots, gone
        self._states = slots.states

    def get_buffer(self, sizehint: int) -> bytearray | memoryview:
        # Before the read, not after it: what has left the kernel another worker would miss.
        states, slot = self._states, self._slot
        state = states[slot]
        if state == ANSWERING:
            states[slot] = AHEAD
        elif state == IDLE:
            states[slot] = ASKED
        return self._front.scratch if self._direct is None else self._direct.rest

    def aside(self, data: bytes) -> None:
        self._slots.after[self._slot] += len(data)
        super().aside(data)

    def write(self, data: bytes) -> None:
        self._answering(len(data))
        self._states[self._slot] = PART
        super().write(data)

    def close(self) -> None:
        # When this process ends the supervisor gives to another what nobody waits on, and what is not encrypted.
        if self.encrypted or not self._front.draining:
            super().close()

    def leave(self) -> None:
        if self.encrypted or self.unfinished or self._closing:
            self.abort()
        else:
            # What still comes is for that other.
            self.pause()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gone(self._slot)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._written()

    def _send(self, data: bytes) -> None:
        # As `_answering`, without a call more.
        slots, slot = self._slots, self._slot
        slots.before[slot] = written = slots.after[slot]
        slots.after[slot] = written + len(data)
        self._states[slot] = AHEAD if self._ahead or self.began is not None else ANSWERING
        write_now(self._transport, self._plain, data)

    def _send_large(self, parts: list[bytes | memoryview]) -> None:
        self._answering(sum(map(len, parts)))
        super()._send_large(parts)

    def _answering(self, length: int) -> None:
        """Note that an answer begins, of so many bytes."""
        slots, slot = self._slots, self._slot
        slots.before[slot] = slots.after[slot]
        slots.after[slot] += length
        self._states[slot] = AHEAD if self._ahead or self.began is not None else ANSWERING

    def _written(self) -> None:
        """See `Connection._written`. Of an answer that was written at once the kernel's count tells."""
        if self._closing or (self.busy is not None and self._states[self._slot] == PART):
            return
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_LOOK, self._written)
            return
        at_rest = self.busy is None and self.began is None and not self._ahead
        self._states[self._slot] = IDLE if at_rest else ASKED
