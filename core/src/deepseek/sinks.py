"""Where answers go: into a future, or chunk by chunk to a thread that iterates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from deepseek.errors import ExecutionError


class FutureSink:
    """Delivers a one-chunk answer into a `concurrent.futures.Future`."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: Future[dict[str, Any]] = Future()

    def start(self) -> bool:
        return self.future.set_running_or_notify_cancel()

    def put(self, chunk: Mapping[str, Any], *, last: bool) -> bool:
        if last and not self.future.done():
            self.future.set_result(dict(chunk))
        elif not last and not self.future.done():
            hint = "iterate over Pipeline.stream(...)"
            self.future.set_exception(ExecutionError("the answer comes in several chunks", hint=hint))
        return False

    def fail(self, error: BaseException) -> None:
        self.future.set_exception(error)


class StreamSink:
    """Delivers chunks to a thread that iterates over them; closing the iterator tells the scheduler to stop."""

    def __init__(self) -> None:
        self._chunks: SimpleQueue[tuple[Mapping[str, Any] | BaseException, bool]] = SimpleQueue()
        self._wanted = True

    def start(self) -> bool:
        return self._wanted

    def put(self, chunk: Mapping[str, Any], *, last: bool) -> bool:
        self._chunks.put((chunk, last))
        return self._wanted and not last

    def fail(self, error: BaseException) -> None:
        self._chunks.put((error, True))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        last = False
        try:
            while not last:
                chunk, last = self._chunks.get()
                if isinstance(chunk, BaseException):
                    raise chunk
                yield dict(chunk)
        finally:
            self._wanted = False
