"""Rates: what somebody may ask, in all processes of a server together."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import Protocol

#: Seconds that are a rounding error.
_NOTHING = 1e-9
#: Tenants that processes share rates of. Those beyond have one in each process.
_TENANTS = 1 << 16


class Bucket:
    """An allowance: filled at a rate, emptied by requests.

    All that is kept of it is when it will be full. Sources: the token bucket of RFC 2697; the generic cell rate
    algorithm of ITU-T I.371, which is the same in one number.

    Args:
        rate: requests per second.
        burst: requests that it holds when full.
        full: where it is kept; None: here alone.
    """

    def __init__(self, rate: float, burst: float, full: Time | None = None) -> None:
        self.rate, self.burst = rate, burst
        self._full = OwnTime() if full is None else full

    def take(self, count: int = 1) -> float:
        """Take so many, or none: 0.0, or the seconds until there are so many."""
        whole = self.burst / self.rate
        with self._full.alone():
            now, before = monotonic(), self._full.at
            # Seconds until it is full. The rate may have been another when that was noted: an empty one is the most.
            # Counted from now: the clock's own number has no room for small differences.
            lacking = min(max(before - now, 0.0), whole)
            wait = lacking + count / self.rate - whole
            if wait <= _NOTHING:
                self._full.at = now + lacking + count / self.rate
                return 0.0
            if before > now + whole:
                self._full.at = now + whole
            return wait


class Time(Protocol):
    """A time that is kept.

    Attributes:
        at: `time.monotonic()` seconds; 0.0 at first.
    """

    at: float

    def alone(self) -> AbstractContextManager[None]:
        """While nobody else changes it."""


class Times(Protocol):
    """Keeps a time for each tenant."""

    def of(self, tenant: str) -> Time:
        """A tenant's, always the same."""


class OwnTime:
    """A time of this process."""

    def __init__(self) -> None:
        self.at = 0.0

    def alone(self) -> AbstractContextManager[None]:
        """See `Time`: they are changed on the loop alone."""
        return _ALONE


_ALONE = nullcontext()


class OwnTimes:
    """Times of this process."""

    def __init__(self) -> None:
        self._times: dict[str, OwnTime] = {}

    def of(self, tenant: str) -> Time:
        """See `Times`."""
        return self._times.setdefault(tenant, OwnTime())


class SharedTimes:
    """Times in memory that processes share: a table of tenants' hashes, and of their times.

    Args:
        handle: the memory, as a file.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        memory = memoryview(mmap.mmap(handle, 16 * _TENANTS))
        self._hashes, self.times = memory[: 8 * _TENANTS].cast("Q"), memory[8 * _TENANTS :].cast("d")
        self._beyond = OwnTimes()

    @classmethod
    def make(cls) -> SharedTimes:
        """New memory."""
        handle = os.memfd_create("deepseek-times")
        os.ftruncate(handle, 16 * _TENANTS)
        return cls(handle)

    def of(self, tenant: str) -> Time:
        """See `Times`."""
        # Not 0, which is a place that nobody has.
        number = int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:8], "big") or 1
        with self.alone(0, _TENANTS):
            for step in range(_TENANTS):
                place = (number + step) % _TENANTS
                if self._hashes[place] in (0, number):
                    self._hashes[place] = number
                    return SharedTime(self, place)
        return self._beyond.of(tenant)

    @contextmanager
    def alone(self, place: int, count: int = 1) -> Iterator[None]:
        """While no other process changes some places. The lock of a process that dies is the system's to release."""
        fcntl.lockf(self.handle, fcntl.LOCK_EX, count, place)
        try:
            yield
        finally:
            fcntl.lockf(self.handle, fcntl.LOCK_UN, count, place)


class SharedTime:
    """A tenant's time among those that processes share.

    Args:
        times: all of them.
        place: where it lies.
    """

    def __init__(self, times: SharedTimes, place: int) -> None:
        self._times, self._place = times, place

    @property
    def at(self) -> float:
        """See `Time`."""
        return self._times.times[self._place]

    @at.setter
    def at(self, time: float) -> None:
        self._times.times[self._place] = time

    def alone(self) -> AbstractContextManager[None]:
        """See `Time`."""
        return self._times.alone(self._place)
