"""The load itself: requests over connections of their own, at times that were fixed before, or as answers come.

In an open loop the server's slowness does not slow the arrivals down, and a request's latency counts from the moment
when it should have been sent. So a stall of the server is seen by every request that should have been sent meanwhile,
and not by one alone ("coordinated omission", Gil Tene).
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import cast

import msgspec


class Target(msgspec.Struct, frozen=True):
    """What is asked, and where.

    Attributes:
        host, port: the server's.
        request: the whole of it, as bytes.
        context: for TLS; None: plain.
    """

    host: str
    port: int
    request: bytes
    context: ssl.SSLContext | None = None


class Sample(msgspec.Struct):
    """A request's fate.

    Attributes:
        due: when it should have been sent, in seconds since the start.
        sent: when it was.
        done: when its answer was complete.
        status: HTTP's; 0: the connection broke.
    """

    due: float
    sent: float
    done: float
    status: int


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._buffer = bytearray()
        self._due = self._sent = 0.0
        self._asked = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, due: float) -> None:
        self._due, self._sent, self._asked = due, monotonic(), True
        self._transport.write(self._pool.target.request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        top = bytes(self._buffer[:end]).lower()
        start = top.find(b"content-length:") + 15
        length = int(top[start : top.find(b"\r\n", start) if b"\r\n" in top[start:] else None])
        if len(self._buffer) >= end + 4 + length:
            del self._buffer[: end + 4 + length]
            self._done(int(top[9:12]), usable=b"connection: close" not in top)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._asked:
            self._done(0, usable=False)
        else:
            self._pool.lost(self)

    def _done(self, status: int, *, usable: bool) -> None:
        self._asked = False
        self._pool.done(self, Sample(self._due, self._sent, monotonic(), status), usable=usable)

    def close(self) -> None:
        self._transport.close()


class Pool:
    """Connections to a target; requests that find none free wait in the order of their times.

    Args:
        target: whom they ask.
        limit: how many there may be.
    """

    def __init__(self, target: Target, limit: int) -> None:
        self.target = target
        self.samples: list[Sample] = []
        self._limit = limit
        self._free: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._opening = 0
        self._waiting: deque[float] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.answered = asyncio.Event()
        self.inflight = 0

    def ask(self, due: float) -> None:
        """Send a request that is due."""
        self.inflight += 1
        if self._free:
            self._free.pop().ask(due)
            return
        self._waiting.append(due)
        if len(self._all) + self._opening < self._limit:
            self._opening += 1
            task = asyncio.ensure_future(self._open())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def done(self, connection: _Connection, sample: Sample, *, usable: bool) -> None:
        """A request has its answer."""
        self.samples.append(sample)
        self.inflight -= 1
        if not usable:
            connection.close()
            self.lost(connection)
        elif self._waiting:
            connection.ask(self._waiting.popleft())
        else:
            self._free.append(connection)
        self.answered.set()

    def lost(self, connection: _Connection) -> None:
        """A connection has ended."""
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if self._waiting and not self._all and not self._opening:
            self.inflight -= 1
            self.ask(self._waiting.popleft())

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._all):
            connection.close()

    async def _open(self) -> None:
        target = self.target
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), target.host, target.port, ssl=target.context
            )
        except OSError:
            self._opening -= 1
            if self._waiting:
                due, now = self._waiting.popleft(), monotonic()
                self.samples.append(Sample(due, now, now, 0))
                self.inflight -= 1
                self.answered.set()
            return
        self._opening -= 1
        self._all.add(connection)
        if self._waiting:
            connection.ask(self._waiting.popleft())
        else:
            self._free.append(connection)


def arrivals(rate: float, seconds: float, *, poisson: bool, seed: int | None = None) -> Iterator[float]:
    """Times of requests, in seconds: a Poisson process (anew each time without a seed), or at the same distance."""
    chance = random.Random(seed)  # noqa: S311 -- no secret
    at = 0.0
    while at < seconds:
        yield at
        at += chance.expovariate(rate) if poisson else 1 / rate


async def open_loop(target: Target, rate: float, seconds: float, *, poisson: bool, limit: int = 1024) -> list[Sample]:
    """Send requests at their times, whatever becomes of them; their fates, with times since the start."""
    pool, start = Pool(target, limit), monotonic()
    for at in arrivals(rate, seconds, poisson=poisson):
        wait = start + at - monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        pool.ask(start + at)
    # What is not answered by then counts as broken.
    end = monotonic() + max(5.0, seconds)
    while pool.inflight and monotonic() < end:
        pool.answered.clear()
        await asyncio.wait([asyncio.ensure_future(pool.answered.wait())], timeout=0.1)
    lost = pool.inflight
    pool.close()
    now = monotonic()
    pool.samples += [Sample(now, now, now, 0)] * lost
    return _since(pool.samples, start)


async def closed_loop(target: Target, clients: int, seconds: float) -> list[Sample]:
    """A number of clients, each of which asks anew when it has its answer; the requests' fates."""
    pool, start = Pool(target, clients), monotonic()
    for _ in range(clients):
        pool.ask(monotonic())
    seen = 0
    while monotonic() - start < seconds:
        pool.answered.clear()
        await asyncio.wait([asyncio.ensure_future(pool.answered.wait())], timeout=0.1)
        for _ in range(len(pool.samples) - seen):
            pool.ask(monotonic())
        seen = len(pool.samples)
    pool.close()
    return _since(pool.samples[:seen], start)


def _since(samples: list[Sample], start: float) -> list[Sample]:
    for sample in samples:
        sample.due -= start
        sample.sent -= start
        sample.done -= start
    return samples
