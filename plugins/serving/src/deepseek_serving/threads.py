"""Work off the loop, on threads that nobody has to wait for when the process ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def off_loop(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Do something on a thread of its own; the future belongs to the loop.

    Unlike those of an executor the thread is a daemon: what hangs in native code must not keep the process alive.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_(value)

    def run() -> None:
        try:
            done: tuple[Callable[[Any], None], Any] = (future.set_result, work())
        except BaseException as exc:
            done = (future.set_exception, exc)
        # The loop may be closed by now: then nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, *done)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
