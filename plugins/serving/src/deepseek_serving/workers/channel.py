"""Messages, and open sockets, between the supervisor and a worker."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from deepseek.plugin import InputError

_READ = 1 << 16
#: Sockets that one read may bring.
_SOCKETS = 64
#: Seconds after which it is tried again to write.
_AGAIN = 0.05


class Channel:
    """One end of a pair of connected Unix sockets; belongs to its loop.

    Args:
        end: the socket.
        receive: called with each message, and the socket that came with it.
        closed: called once, when the other side has ended.
    """

    def __init__(
        self,
        end: socket.socket,
        receive: Callable[[dict[str, Any], socket.socket | None], None],
        closed: Callable[[], None],
    ) -> None:
        self._end = end
        self._receive, self._closed = receive, closed
        self._loop = asyncio.get_running_loop()
        self._incoming = bytearray()
        self._sockets: deque[int | None] = deque()
        self._outgoing: deque[tuple[bytes, int | None]] = deque()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._open = True
        end.setblocking(False)
        self._loop.add_reader(end, self._read)

    def send(self, message: dict[str, Any], passed: socket.socket | None = None) -> None:
        """Send a message, and with it a socket, of which a copy is kept until it is sent."""
        if not self._open:
            return
        content = msgspec.msgpack.encode(message)
        handle = None if passed is None else passed.dup().detach()
        self._outgoing.append((len(content).to_bytes(4, "big") + content, handle))
        if len(self._outgoing) == 1:
            self._write()

    async def ask(self, message: dict[str, Any]) -> Any:
        """Send a message, and wait for its answer.

        Raises:
            ConnectionError: the other side has ended.
            InputError: a number in it that no message carries.
        """
        number = next(self._numbers)
        future = self._answers[number] = self._loop.create_future()
        try:
            self.send({**message, "ask": number})
            if not self._open:
                raise ConnectionError("the other side has ended")
            return await future
        except OverflowError as exc:
            raise InputError("a number is larger than 64 bits hold") from exc
        finally:
            # Who waited may have lost patience.
            self._answers.pop(number, None)

    def answer(self, message: dict[str, Any], content: Any) -> None:
        """Answer a message that was asked."""
        self.send({"answer": message["ask"], "content": content})

    def close(self) -> None:
        """End this side."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
            self._end.close()
            for _, handle in self._outgoing:
                if handle is not None:
                    socket.close(handle)
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(ConnectionError("the other side has ended"))

    def _read(self) -> None:
        try:
            content, handles, flags, _ = socket.recv_fds(self._end, _READ, _SOCKETS)
        except BlockingIOError:
            return
        except OSError:
            content, handles, flags = b"", [], 0
        # A read ends where a socket came, so at most one was lost: no more files may be open here.
        self._sockets.extend(handles or ([None] if flags & socket.MSG_CTRUNC else []))
        if not content:
            self.close()
            self._closed()
            return
        self._incoming += content
        while len(self._incoming) >= 4:
            size = 4 + int.from_bytes(self._incoming[:4], "big")
            if len(self._incoming) < size:
                break
            message = msgspec.msgpack.decode(bytes(self._incoming[4:size]))
            del self._incoming[:size]
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if "answer" in message:
            future = self._answers.pop(message["answer"], None)
            if future is not None and not future.done():
                future.set_result(message["content"])
            return
        handle = self._sockets.popleft() if message.get("socket") else None
        self._receive(message, None if handle is None else socket.socket(fileno=handle))

    def _write(self) -> None:
        while self._outgoing:
            content, handle = self._outgoing[0]
            try:
                sent = socket.send_fds(self._end, [content], [handle] if handle is not None else [])
            except BlockingIOError:
                self._loop.add_writer(self._end, self._write)
                return
            except OSError:
                # The other side has ended, which the reader finds out, or too many sockets are on their way.
                self._loop.call_later(_AGAIN, self._write_again)
                return
            if handle is not None:
                with suppress(OSError):
                    socket.close(handle)
            if sent < len(content):
                self._outgoing[0] = (content[sent:], None)
            else:
                self._outgoing.popleft()
        self._loop.remove_writer(self._end)

    def _write_again(self) -> None:
        if self._open:
            self._write()
