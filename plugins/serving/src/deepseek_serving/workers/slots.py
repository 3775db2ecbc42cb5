"""What a connection is at, in memory that supervisor and workers share: a byte for each connection.

When a worker dies, its connections live on in the supervisor, which tells from here what to do with each: one that is
idle goes to another worker, one whose request has no answer yet gets a 503, one half answered can only be ended.
"""

from __future__ import annotations

import mmap
import os

IDLE, ASKED, ANSWERING = 0, 1, 2


class Slots:
    """The table.

    Args:
        handle: the shared memory, as a file.
        count: how many connections there may be.
    """

    def __init__(self, handle: int, count: int) -> None:
        self.handle = handle
        self.states = memoryview(mmap.mmap(handle, count))

    @classmethod
    def make(cls, count: int) -> Slots:
        """New shared memory."""
        handle = os.memfd_create("deepseek-slots")
        os.ftruncate(handle, count)
        return cls(handle, count)
