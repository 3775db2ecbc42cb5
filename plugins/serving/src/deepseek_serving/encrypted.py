"""Writing over TLS, so that it is known what has left.

A transport of TLS encrypts all that it is given and hands it on at once: however much waits for the client, it says
that nothing does. So it is given a slice at a time here, and the next when it takes more.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import struct
import termios
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, cast

#: Bytes that are handed on at once; about as many may wait where nobody sees them.
_SLICE = 64 << 10
#: Seconds that a client may read nothing until what may wait for it is taken to be nothing.
_STILL = 1.0


class Encrypted(asyncio.BufferedProtocol):
    """Stands between a transport of TLS and a connection.

    Args:
        connection: the protocol that reads and writes.
    """

    def __init__(self, connection: asyncio.BufferedProtocol) -> None:
        self._connection = connection
        self._slices: Slices
        # Reading is the connection's own.
        self.__dict__.update(
            {name: getattr(connection, name) for name in ("get_buffer", "buffer_updated", "eof_received")}
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._slices = Slices(cast(asyncio.Transport, transport), self._connection)
        self._connection.connection_made(self._slices)

    def connection_lost(self, exc: Exception | None) -> None:
        self._slices.lost()
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._slices.full = True

    def resume_writing(self) -> None:
        self._slices.full = False
        self._slices.feed()


class Slices(asyncio.Transport):
    """A transport of TLS as a connection sees it.

    Args:
        inner: the transport.
        connection: is told when it has to wait with writing.

    Attributes:
        full: whether the inner transport takes nothing now.
    """

    def __init__(self, inner: asyncio.Transport, connection: asyncio.BufferedProtocol) -> None:
        super().__init__()
        inner.set_write_buffer_limits(high=_SLICE)
        self._inner, self._connection = inner, connection
        self.full = self._paused = self._closing = False
        self._queue: deque[memoryview] = deque()
        self._waiting = 0
        #: Looks at the socket until what was handed on last has left; what the system had then, and since when.
        self._looks = 0
        self._left, self._since = -1, 0.0

    def write(self, data: Any) -> None:
        """See `asyncio.Transport`."""
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """See `asyncio.Transport`."""
        for data in list_of_data:
            if len(data):
                self._queue.append(memoryview(data).cast("B"))
                self._waiting += len(self._queue[-1])
        self.feed()

    def feed(self) -> None:
        """Hand on what the inner transport takes."""
        queue = self._queue
        while queue and not (self.full or self._inner.is_closing()):
            piece = queue.popleft()
            if len(piece) > _SLICE:
                queue.appendleft(piece[_SLICE:])
            self._waiting -= min(len(piece), _SLICE)
            self._looks = 2
            self._inner.write(piece[:_SLICE])
        if bool(queue) != self._paused:
            self._paused = bool(queue)
            (self._connection.pause_writing if queue else self._connection.resume_writing)()
        if self._closing and not queue:
            self._inner.close()

    def get_write_buffer_size(self) -> int:
        """See `asyncio.Transport`."""
        return self._waiting + self._inner.get_write_buffer_size()

    @property
    def leaving(self) -> bool:
        """Whether something may not have reached the system yet; to be asked again and again, milliseconds apart."""
        if self._waiting:
            return True
        if self._looks:
            # A socket that takes more twice has been given all that there was in between.
            own = self._inner.get_extra_info("socket")
            # Without one, it has ended.
            self._look(own.fileno()) if own is not None and own.fileno() >= 0 else self.lost()
        return self._looks > 0

    def _look(self, number: int) -> None:
        look, now = select.poll(), monotonic()
        look.register(number, select.POLLOUT)
        left = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)))[0]
        if look.poll(0):
            self._looks -= 1
        elif left != self._left:
            self._left, self._since = left, now
        elif now - self._since > _STILL:
            # The client reads nothing: it is not waited for because of what nobody knows to be there.
            self._looks = 0

    def close(self) -> None:
        """See `asyncio.Transport`."""
        self._closing = True
        if not self._queue:
            self._inner.close()

    def abort(self) -> None:
        """See `asyncio.Transport`."""
        self.lost()
        self._inner.abort()

    def lost(self) -> None:
        """Nothing can be written any more."""
        self._queue.clear()
        self._waiting = self._looks = 0

    def is_closing(self) -> bool:
        """See `asyncio.Transport`."""
        return self._closing or self._inner.is_closing()

    def pause_reading(self) -> None:
        """See `asyncio.Transport`."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """See `asyncio.Transport`."""
        if not self._inner.is_closing():
            self._inner.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `asyncio.Transport`."""
        return self._inner.get_extra_info(name, default)


def over(tls: bool, make: Callable[[], asyncio.BufferedProtocol]) -> Callable[[], asyncio.BufferedProtocol]:
    """What makes the protocols of connections, over TLS or not."""
    return (lambda: Encrypted(make())) if tls else make


def leaving(transport: asyncio.Transport) -> bool:
    """Whether something that was written has not reached the system yet."""
    return transport.leaving if isinstance(transport, Slices) else transport.get_write_buffer_size() > 0
