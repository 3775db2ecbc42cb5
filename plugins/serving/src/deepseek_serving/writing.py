"""Writing to a client at once."""

from __future__ import annotations

import asyncio
import os


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
