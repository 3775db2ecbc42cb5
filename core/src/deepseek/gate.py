"""Who may call an executor now: a limit on overlapping calls, first come first served, and an orderly end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import TypeVar, TypeVarTuple

from deepseek.errors import ClosedError, DeadlineError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Gate:
    """Admits threads in the order in which they come, up to a limit at once, and none once it is closed.

    Threads are known by their number and not merely counted. So an interrupt that strikes between `enter` and the
    block that would `leave` again blocks neither that thread's next call nor its `close`; and a thread that is inside
    may close.

    Args:
        limit: how many threads may be inside; 0: any number.

    Example:
        >>> gate = Gate(1)
        >>> gate.enter()
        >>> gate.leave()
        >>> gate.close()
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside: set[int] = set()
        self._waiting: deque[_Ticket] = deque()
        self._open = True
        # On the road of requests: the bare lock, whose `with` is C; the condition's is Python.
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)

    def call(self, deadline: float | None, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Go in, call something, and go out, whatever comes of it. Raises what `enter` does, and what it raises.

        Example:
            >>> Gate(0).call(None, len, "abc")
            3
        """
        if self._limit or deadline is not None:
            self.enter(deadline)
            try:
                return work(*args)
            finally:
                self.leave()
        # The same without two calls more: quick models are asked tens of thousands of times in a second.
        me = get_ident()
        self._inside.add(me)
        try:
            if not self._open:
                raise _closed()
            return work(*args)
        finally:
            self._inside.discard(me)
            if not self._open:
                self.leave()

    def enter(self, deadline: float | None = None) -> None:
        """Go in, or wait for a place.

        Args:
            deadline: `time.monotonic()` seconds; None: wait as long as it takes.

        Raises:
            DeadlineError: it has passed.
            ClosedError: the gate is closed, or closes meanwhile.
        """
        if deadline is not None and time.monotonic() > deadline:
            raise _late()
        me = get_ident()
        if not self._limit:
            # In this order, and `close` in the other: one of the two sees the other, without a lock.
            self._inside.add(me)
            if not self._open:
                self.leave()
                raise _closed()
            return
        with self._lock:
            if not self._open:
                raise _closed()
            if me in self._inside or (len(self._inside) < self._limit and not self._waiting):
                self._inside.add(me)
                return
            ticket = _Ticket(me)
            self._waiting.append(ticket)
        self._wait(ticket, deadline)

    def leave(self) -> None:
        """Go out, and let the next one in."""
        if not self._limit and self._open:
            self._inside.discard(get_ident())
            if self._open:
                return
        with self._lock:
            self._inside.discard(get_ident())
            if self._waiting and len(self._inside) < self._limit:
                ticket = self._waiting.popleft()
                self._inside.add(ticket.thread)
                ticket.release()
            if not self._open:
                self._left.notify_all()

    def close(self) -> None:
        """Turn away those who wait, and wait for those inside, the calling thread excepted."""
        me = get_ident()
        with self._lock:
            self._open = False
            while self._waiting:
                ticket = self._waiting.popleft()
                ticket.refused = True
                ticket.release()
            while self._inside - {me}:
                self._left.wait()

    def _wait(self, ticket: _Ticket, deadline: float | None) -> None:
        try:
            called = ticket.wait(deadline)
        except BaseException:
            if not self._give_back(ticket):
                self.leave()
            raise
        if not called and self._give_back(ticket):
            raise _late()
        if ticket.refused:
            raise _closed()

    def _give_back(self, ticket: _Ticket) -> bool:
        """Stop waiting; False: the ticket was called at that very moment."""
        with self._lock:
            waits = ticket in self._waiting
            if waits:
                self._waiting.remove(ticket)
            return waits


class _Ticket:
    """A thread's place in the queue: a lock that is held until the thread is called."""

    __slots__ = ("_lock", "refused", "release", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.refused = False
        self._lock = threading.Lock()
        self._lock.acquire()
        self.release = self._lock.release

    def wait(self, deadline: float | None) -> bool:
        if deadline is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=max(0.0, deadline - time.monotonic()))


def _late() -> DeadlineError:
    return DeadlineError("the deadline passed before the request was executed")


def _closed() -> ClosedError:
    return ClosedError("the pipeline is closed")
