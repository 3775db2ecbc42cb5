"""What plugins implement: executors, schedulers, codecs, observers, and the sinks that answers go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from deepseek.types import Batch, Options, Record, Signature, Tensors


class Executor(Protocol):
    """A model that is ready to run on one device.

    Attributes:
        signature: as the engine knows it after opening the model.
        concurrency: how many `run` calls may overlap; 0: any number.

    Example:
        >>> from deepseek.testing import EchoExecutor
        >>> EchoExecutor().run({"x": 1}, NO_OPTIONS)
        {'x': 1}
    """

    signature: Signature
    concurrency: int

    def run(self, inputs: Tensors, options: Options) -> dict[str, Any]:
        """Compute. Takes any DLPack arrays, returns NumPy arrays on the host, one for each output.

        Raises:
            InputError: the engine rejects an input.
            ExecutionError: the engine failed.
            OutOfMemoryError: it ran out of memory.
        """

    def close(self) -> None:
        """Give the memory back. Called once, when no `run` is under way."""


class Observer(Protocol):
    """Sees every batch; must be quick and must not raise.

    Example:
        >>> class Rows:
        ...     total = 0
        ...     def batch(self, batch):
        ...         self.total += batch.rows
    """

    def batch(self, batch: Batch) -> None:
        """Called on the executing thread after each batch, failed ones included."""


class Sink(Protocol):
    """Where a request's answer goes: a stream of one or more chunks.

    Example:
        >>> from deepseek.testing import FutureSink
        >>> sink = FutureSink()
        >>> sink.start()
        True
        >>> sink.put({"y": 1}, last=True)
        >>> sink.future.result()
        {'y': 1}
    """

    def start(self) -> bool:
        """Called just before execution; False: the asker has gone, do not execute."""

    def put(self, chunk: Mapping[str, Any], *, last: bool) -> None:
        """Deliver a chunk. Most answers are a single one, with ``last=True``."""

    def fail(self, error: BaseException) -> None:
        """End the stream with an error."""


class Request(Record):
    """One question on its way through a scheduler.

    Example:
        >>> from deepseek.testing import FutureSink
        >>> Request({"x": 1}, NO_OPTIONS, FutureSink()).inputs
        {'x': 1}
    """

    inputs: Tensors
    options: Options
    sink: Sink


class Scheduler(Protocol):
    """Decides when a request runs, and with which others.

    Example:
        >>> from deepseek.fifo import Fifo
        >>> from deepseek.testing import EchoExecutor
        >>> Fifo(EchoExecutor()).run({"x": 1}, NO_OPTIONS)
        {'x': 1}
    """

    def run(self, inputs: Tensors, options: Options) -> dict[str, Any]:
        """Answer on the caller's thread; where the policy allows, without a thread hop."""

    def submit(self, request: Request) -> None:
        """Take a request; its sink is called later, on a thread of the scheduler's.

        Raises:
            QueueFullError: at the limit.
            ClosedError: after `close`.
        """

    def close(self) -> None:
        """Finish what was taken, then end every thread. Safe to call twice."""


class Codec(Protocol):
    """Turns what people have (photographs, text, files) into tensors, and tensors into answers.

    Example:
        >>> pipeline.codec.decode(pipeline.run(pipeline.codec.encode("cat.jpg")))      # doctest: +SKIP
    """

    #: File name endings that `read` understands, lower case, with the dot.
    suffixes: frozenset[str]

    def read(self, path: Path | None, data: bytes | None) -> Iterator[tuple[str, Tensors]]:
        """Yield ``(label, inputs)`` for each item of a file, or of bytes read from standard input.

        Raises:
            InputError: the content is not what it should be.
        """

    def encode(self, value: object) -> Tensors:
        """One item as the model's inputs, with a batch dimension of 1 where the model has one."""

    def decode(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One dictionary of plain values (or arrays) per row of the outputs."""
