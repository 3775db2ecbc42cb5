"""Rates: what somebody may ask, in all processes of a server together."""

from __future__ import annotations

import hashlib
import os
import struct
from time import monotonic
from typing import Protocol

_NUMBER = struct.Struct("d")
#: Seconds that are a rounding error.
_NOTHING = 1e-9


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
        now, whole = monotonic(), self.burst / self.rate
        # Not later than an empty one is full: the rate may have been another when that was noted.
        full = min(max(self._full.at, now), now + whole) + count / self.rate
        wait = full - now - whole
        if wait > _NOTHING:
            return wait
        self._full.at = full
        return 0.0


class Time(Protocol):
    """A time that is kept.

    Attributes:
        at: `time.monotonic()` seconds; 0.0 at first.
    """

    at: float


class Times(Protocol):
    """Keeps a time for each tenant."""

    def of(self, tenant: str) -> Time:
        """A tenant's, always the same."""


class OwnTime:
    """A time of this process."""

    def __init__(self) -> None:
        self.at = 0.0


class OwnTimes:
    """Times of this process."""

    def __init__(self) -> None:
        self._times: dict[str, OwnTime] = {}

    def of(self, tenant: str) -> Time:
        """See `Times`."""
        return self._times.setdefault(tenant, OwnTime())


class SharedTime:
    """A time that processes share.

    Of two that admit requests of a tenant in the same microseconds, one may not see the other's: then the tenant makes
    one more than it may. A lock would let a process that was stopped hold up all others.

    Args:
        handle: a file in memory.
        place: where it lies there.
    """

    def __init__(self, handle: int, place: int) -> None:
        self._handle, self._place = handle, place

    @property
    def at(self) -> float:
        """See `Time`."""
        found = os.pread(self._handle, _NUMBER.size, self._place)
        return float(_NUMBER.unpack(found)[0]) if found else 0.0

    @at.setter
    def at(self, time: float) -> None:
        os.pwrite(self._handle, _NUMBER.pack(time), self._place)


class SharedTimes:
    """Times that processes share, in a file that lies in memory, and takes a page of it for each tenant.

    Args:
        handle: the file.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle

    @classmethod
    def make(cls) -> SharedTimes:
        """A new file."""
        return cls(os.memfd_create("deepseek-times"))

    def of(self, tenant: str) -> Time:
        """See `Times`."""
        # The file has holes, and room for every hash of 48 bits: nobody has to agree who is where.
        number = int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:6], "big")
        return SharedTime(self.handle, number * _NUMBER.size)
