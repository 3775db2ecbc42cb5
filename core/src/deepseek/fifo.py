"""The built-in scheduler: first in, first out, one request at a time. The model for all others."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import Annotated, Any

import pluggy
from msgspec import Meta

from deepseek.config import Config, Settings
from deepseek.errors import ClosedError, DeadlineError, QueueFullError
from deepseek.offers import Policy
from deepseek.protocols import Executor, Request, Scheduler
from deepseek.types import Options, Tensors

hookimpl = pluggy.HookimplMarker("deepseek")


class FifoSettings(Settings):
    """The built-in queue."""

    max_queue: Annotated[
        int, Meta(ge=1, description="Requests that may wait (those given to `submit`); beyond, they are refused.")
    ] = 1024


class Fifo:
    """Runs requests in the order in which they came.

    `run` goes straight through on the caller's thread, behind the executor's limit on overlapping calls
    but with no hop to another thread. `submit` hands over to one worker thread, started on first use.

    Example:
        >>> from deepseek.testing import EchoExecutor
        >>> fifo = Fifo(EchoExecutor())
        >>> fifo.run({"x": 1}, Options())
        {'x': 1}
        >>> fifo.close()
    """

    def __init__(self, executor: Executor, max_queue: int = 1024) -> None:
        self._execute = executor.run
        self._max_queue = max_queue
        self._queue: SimpleQueue[Request | None] = SimpleQueue()
        self._gate = Gate(executor.concurrency)
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._closed = False

    def run(self, inputs: Tensors, options: Options) -> dict[str, Any]:
        """Answer on the caller's thread. Raises DeadlineError, ClosedError and what the executor raises."""
        with self._gate:
            _in_time(options)
            return self._execute(inputs, options)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises QueueFullError and ClosedError."""
        with self._lock:
            if self._closed:
                raise ClosedError("the pipeline is closed")
            if self._queue.qsize() >= self._max_queue:
                hint = "send fewer at a time, or raise `fifo.max_queue`"
                raise QueueFullError(f"{self._max_queue} requests are waiting already", hint=hint)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="deepseek-fifo", daemon=True)
                self._worker.start()
            self._queue.put(request)

    def close(self) -> None:
        """Finish what is queued and what runs on callers' threads, then end the worker."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        # A future's callback may close the pipeline; the worker ends by itself then.
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join()
        self._gate.close()

    def _work(self) -> None:
        while (request := self._queue.get()) is not None:
            if request.sink.start():
                self._answer(request)
            # Or the last request's tensors would live until the next one comes.
            del request

    def _answer(self, request: Request) -> None:
        try:
            request.sink.put(self.run(request.inputs, request.options), last=True)
        # Whatever goes wrong belongs to this request, and must not end the thread that others wait for.
        except BaseException as exc:
            with suppress(Exception):
                request.sink.fail(exc)


class Gate:
    """Counts calls under way: admits up to a limit at once, and none once it is closed.

    Args:
        limit: how many; 0: any number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting = 0
        self._open = True
        # On the road of every request: the bare lock, whose `with` is C; the condition's is Python.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def __enter__(self) -> None:
        with self._lock:
            while self._limit and self._inside >= self._limit and self._open:
                self._wait()
            if not self._open:
                raise ClosedError("the pipeline is closed")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            # Nobody waits as a rule; a notification for nobody would cost more than the rest.
            if self._waiting:
                self._changed.notify_all()

    def close(self) -> None:
        """Admit nobody any more, and wait for those inside."""
        with self._lock:
            self._open = False
            self._changed.notify_all()
            while self._inside:
                self._wait()

    def _wait(self) -> None:
        self._waiting += 1
        self._changed.wait()
        self._waiting -= 1


def _in_time(options: Options) -> None:
    if options.deadline is not None and time.monotonic() > options.deadline:
        raise DeadlineError("the deadline passed before the request was executed")


@hookimpl
def sections() -> dict[str, type[Settings]]:
    return {"fifo": FifoSettings}


@hookimpl(trylast=True)
def schedule(config: Config) -> Policy:
    limit = config[FifoSettings].max_queue

    def make(executor: Executor) -> Scheduler:
        return Fifo(executor, limit)

    return Policy("fifo", make, {"max_queue": limit})
