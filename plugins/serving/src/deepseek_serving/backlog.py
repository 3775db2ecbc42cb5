"""What waits for a client to read it."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Backlog(Generic[T]):
    """A queue whose bytes are counted.

    Attributes:
        size: bytes that wait.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[T, int]] = asyncio.Queue()
        self.size = 0

    def put(self, item: T, size: int) -> None:
        """Add an item of so many bytes."""
        self.size += size
        self._queue.put_nowait((item, size))

    async def get(self) -> T:
        """The first item, when there is one."""
        item, size = await self._queue.get()
        self.size -= size
        return item
