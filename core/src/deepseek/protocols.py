"""What plugins implement: executors, schedulers, codecs, observers, and the sinks that answers go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from deepseek.records import Record
from deepseek.types import Batch, Share, Signature, Tensors


class Executor(Protocol):
    """A model that is ready to run on one device.

    An executor may do more than is written here (generate step by step, say how busy it is): a scheduler that knows
    of it finds it on the executor that it is given.

    Attributes:
        signature: as the engine knows it after opening the model.
        concurrency: how many `run` calls may overlap; 0: any number.

    Example:
        >>> from deepseek.testing import EchoExecutor
        >>> executor = EchoExecutor()
        >>> executor.run({"x": 1}, [Share(NO_OPTIONS, 1)])
        {'x': 1}
        >>> executor.close()
    """

    signature: Signature
    concurrency: int

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        """Compute. Takes any DLPack arrays, returns NumPy arrays on the host, one for each output.

        Args:
            inputs: the batch.
            shares: whose rows they are, in their order; empty for a run that nobody asked for (a check, a warm-up).

        Raises:
            InputError: the engine rejects an input.
            ExecutionError: the engine failed.
            OutOfMemoryError: it ran out of memory.
        """

    def close(self) -> None:
        """Give the memory back. Called once, when no `run` is under way.

        The executor that a wrapper wraps is not the wrapper's to close: the kernel closes both, the wrapper first.
        """


class Observer(Protocol):
    """Sees every batch; must be quick and must not raise.

    Example:
        >>> class Rows:
        ...     total = 0
        ...     def batch(self, batch):
        ...         self.total += batch.rows
        ...     def close(self):
        ...         print(self.total)
        >>> rows = Rows()
        >>> rows.batch(Batch((Share(NO_OPTIONS, 8),), "cpu", seconds=0.002, error=None))
        >>> rows.close()
        8
    """

    def batch(self, batch: Batch) -> None:
        """Called on the executing thread after each batch, failed ones included."""

    def close(self) -> None:
        """Write down what is held back. Called once, after the last batch."""


class Sink(Protocol):
    """Where a request's answer goes: a stream of one or more chunks.

    Example:
        >>> from deepseek.testing import FutureSink
        >>> sink = FutureSink()
        >>> sink.start()
        True
        >>> sink.put({"y": 1}, last=True)
        False
        >>> sink.future.result()
        {'y': 1}
        >>> refused = FutureSink()
        >>> refused.fail(QueueFullError("1024 requests are waiting already"))
        >>> type(refused.future.exception()).__name__
        'QueueFullError'
    """

    def start(self) -> bool:
        """Called just before execution; False: the asker has gone, and its tensors may be: do not execute."""

    def put(self, chunk: Mapping[str, Any], *, last: bool) -> bool:
        """Deliver a chunk; most answers are a single one, with ``last=True``.

        Returns whether more is wanted: False when the asker has gone, or has all.
        """

    def fail(self, error: BaseException) -> None:
        """End the stream with an error."""


class Request(Record):
    """One question on its way through a scheduler.

    Attributes:
        inputs: its tensors, which fit the model's signature.
        share: what it asks for beside them, and how many rows it has: its part of the batch that it will be in.
        sink: where the answer goes.

    Example:
        >>> from deepseek.testing import FutureSink
        >>> Request({"x": 1}, Share(NO_OPTIONS, 1), FutureSink()).inputs
        {'x': 1}
    """

    inputs: Tensors
    share: Share
    sink: Sink


class Scheduler(Protocol):
    """Decides when a request runs, and with which others.

    Example:
        >>> from deepseek.fifo import Fifo
        >>> from deepseek.testing import EchoExecutor, FutureSink
        >>> scheduler, sink = Fifo(EchoExecutor()), FutureSink()
        >>> scheduler.run({"x": 1}, Share(NO_OPTIONS, 1))
        {'x': 1}
        >>> scheduler.submit(Request({"x": 2}, Share(NO_OPTIONS, 1), sink))
        >>> sink.future.result()
        {'x': 2}
        >>> scheduler.close()
    """

    def run(self, inputs: Tensors, share: Share) -> dict[str, Any]:
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

    One that names classes may have an attribute ``labels``: names by index, by the output that holds the scores.

    Example:
        >>> codec = pipeline.codec
        >>> [label for label, inputs in codec.read(Path("cat.jpg"), None)]
        ['cat.jpg']
        >>> codec.decode(pipeline.run(codec.encode("cat.jpg")))[0]["logits"][0]["label"]
        'tabby'
    """

    #: File name endings that `read` understands, lower case, with the dot.
    suffixes: frozenset[str]

    def read(self, path: Path | None, stream: BinaryIO | None) -> Iterator[tuple[str, Tensors]]:
        """Yield ``(label, inputs)`` for each item of a file, or of a stream such as standard input.

        Raises:
            InputError: the content is not what it should be.
        """

    def encode(self, value: object) -> Tensors:
        """One item as the model's inputs, with a batch dimension of 1 where the model has one."""

    def decode(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One dictionary of plain values (or arrays) per row of the outputs.

        A list of ``{"label", "score"}`` dictionaries is shown to people as ``label score``; anything else as it is.
        """
