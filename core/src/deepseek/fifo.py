"""The built-in scheduler: first in, first out, one request at a time. The model for all others."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Annotated, Any

import pluggy
from msgspec import Meta

from deepseek.config import Config
from deepseek.errors import ClosedError, QueueFullError
from deepseek.gate import Gate
from deepseek.offers import Policy
from deepseek.protocols import Executor, Request, Scheduler
from deepseek.settings import Settings
from deepseek.types import Share, Tensors

hookimpl = pluggy.HookimplMarker("deepseek")


class FifoSettings(Settings):
    """The built-in queue."""

    max_queue: Annotated[
        int, Meta(ge=1, description="Requests that may wait (those given to `submit`); beyond, they are refused.")
    ] = 1024
    workers: Annotated[
        int,
        Meta(
            ge=1, le=256, description="Threads that execute what waits; more than one for engines that run on one core."
        ),
    ] = 1


class Fifo:
    """Runs requests in the order in which they came.

    `run` goes straight through on the caller's thread, behind the executor's limit on overlapping calls
    but with no hop to another thread. `submit` hands over to worker threads, started on first use.

    Example:
        >>> from deepseek.testing import EchoExecutor
        >>> fifo = Fifo(EchoExecutor())
        >>> fifo.run({"x": 1}, Share(NO_OPTIONS, 1))
        {'x': 1}
        >>> fifo.close()
    """

    def __init__(self, executor: Executor, max_queue: int = 1024, workers: int = 1) -> None:
        self._execute = executor.run
        self._max_queue = max_queue
        self._most = workers
        self._queue: SimpleQueue[Request | None] = SimpleQueue()
        self._gate = Gate(executor.concurrency)
        self._lock = threading.Lock()
        self._workers: list[threading.Thread] = []
        self._closed = False

    def run(self, inputs: Tensors, share: Share) -> dict[str, Any]:
        """Answer on the caller's thread. Raises DeadlineError, ClosedError and what the executor raises."""
        return self._gate.call(share.options.deadline, self._execute, inputs, (share,))

    def submit(self, request: Request) -> None:
        """Queue a request, which keeps its place when it is cancelled. Raises QueueFullError and ClosedError."""
        with self._lock:
            if self._closed:
                raise ClosedError("the pipeline is closed")
            if self._queue.qsize() >= self._max_queue:
                hint = "send fewer at a time, or raise `fifo.max_queue`"
                raise QueueFullError(f"{self._max_queue} requests are waiting already", hint=hint)
            if len(self._workers) < self._most:
                worker = threading.Thread(target=self._work, name="deepseek-fifo", daemon=True)
                worker.start()
                self._workers.append(worker)
            self._queue.put(request)

    def close(self) -> None:
        """Finish what is queued and what runs on callers' threads, then end the workers."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        me = threading.current_thread()
        if me in self._workers:
            # A future's callback closes the pipeline: what is queued is answered here, before the executor goes.
            self._work()
        for worker in self._workers:
            if worker is not me:
                worker.join()
        self._gate.close()

    def _work(self) -> None:
        while (request := self._queue.get()) is not None:
            self._answer(request)
            # Or the last request's tensors would live until the next one comes.
            del request
        # For the next worker: the end of the queue is the end for all.
        self._queue.put(None)

    def _answer(self, request: Request) -> None:
        try:
            if request.sink.start():
                request.sink.put(self.run(request.inputs, request.share), last=True)
        # Whatever goes wrong belongs to this request, and must not end the thread that others wait for.
        except BaseException as exc:
            with suppress(Exception):
                request.sink.fail(exc)
        finally:
            # The exception's traceback holds this frame, and the request holds the future that holds the exception.
            del request


@hookimpl
def sections() -> dict[str, type[Settings]]:
    return {"fifo": FifoSettings}


@hookimpl(trylast=True)
def schedule(config: Config) -> Policy:
    settings = config[FifoSettings]

    def make(executors: Sequence[Executor]) -> Scheduler:
        return Fifo(executors[0], settings.max_queue, settings.workers)

    return Policy("fifo", make, {"max_queue": settings.max_queue, "workers": settings.workers})
