"""The assembled thing: checks inputs, hands them to the scheduler, gives answers back; knows no plugins."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from deepseek.checks import input_check
from deepseek.errors import ClosedError, InputError, PlanError
from deepseek.protocols import Codec, Executor, Request, Scheduler, Sink
from deepseek.records import Record
from deepseek.sinks import FutureSink, StreamSink
from deepseek.types import NO_OPTIONS, Options, Share, Tensors

if TYPE_CHECKING:
    from deepseek.plan import Plan


class BuildStep(Record):
    """One step of a build, measured.

    Attributes:
        name: what was done and by whom.
        seconds: wall-clock time.
        resident_bytes: growth of the process's resident memory.
        note: what the step found (the error of a conversion).
    """

    name: str
    seconds: float
    resident_bytes: int
    note: str = ""


class Pipeline:
    """A model behind its scheduler and codecs. Made by `deepseek.build`; thread-safe.

    Attributes:
        signature: the inputs and outputs.
        executor: what the engine (or the plugin that wraps its executor) made; for those who look inside.
        plan: what was decided, and by whom.
        steps: how long each step of the build took and what memory it added.

    Example:
        >>> with deepseek.build({"model": "model.onnx"}) as pipeline:
        ...     pipeline.run(image=array)["logits"].shape
        (1, 3)
    """

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        scheduler: Scheduler,
        codec: Codec | None,
        steps: tuple[BuildStep, ...],
        resources: ExitStack,
    ) -> None:
        self.plan = plan
        self.executor = executor
        self.signature = executor.signature
        self.steps = steps
        self._scheduler = scheduler
        self._codec = codec
        # Closed by itself when nobody knows it any more, and at the latest when the program ends.
        self._close = weakref.finalize(self, resources.close)
        self._run = scheduler.run
        self._check = input_check(executor.signature)

    def run(self, inputs: Tensors | None = None, options: Options = NO_OPTIONS, /, **tensors: Any) -> dict[str, Any]:
        """Compute on the caller's thread: named tensors in, named NumPy arrays out.

        Args:
            inputs: a mapping, for names that are not Python identifiers; else use keywords.
            options: deadline, priority, tenant and parameters of the request.
            tensors: any arrays with the DLPack protocol (NumPy, PyTorch, TensorFlow, ...), of the dtypes
                and shapes in `signature`.

        Raises:
            InputError: a missing, extra or ill-shaped input.
            ExecutionError: the engine failed.
            OutOfMemoryError: the engine ran out of memory.
            UnavailableError: closed, or the deadline passed.

        Example:
            >>> pipeline.run(image=array)["logits"].shape
            (1, 3)
            >>> pipeline.run({"image": array}, Options(tenant="acme"))["logits"].shape
            (1, 3)
        """
        if inputs is None:
            given: Tensors = tensors
        else:
            given = inputs if type(inputs) is dict and not tensors else _either(inputs, tensors)
        return self._run(given, Share(options if options is NO_OPTIONS else _checked(options), self._check(given)))

    def submit(
        self, inputs: Tensors | None = None, options: Options = NO_OPTIONS, /, **tensors: Any
    ) -> Future[dict[str, Any]]:
        """Like `run`, on the scheduler's time: returns a future that can be cancelled until it runs.

        Raises:
            InputError: a missing, extra or ill-shaped input.
            QueueFullError: too many requests wait already.
            ClosedError: the pipeline is closed.

        Example:
            >>> futures = [pipeline.submit(image=array) for _ in range(2)]
            >>> [future.result()["logits"].shape for future in futures]
            [(1, 3), (1, 3)]
        """
        sink = FutureSink()
        self.send(tensors if inputs is None else _either(inputs, tensors), options, sink)
        return sink.future

    def stream(
        self, inputs: Tensors | None = None, options: Options = NO_OPTIONS, /, **tensors: Any
    ) -> Iterator[dict[str, Any]]:
        """Like `submit`, for answers that come in several chunks: iterate over them. Leaving the loop stops the model.

        Raises:
            InputError, QueueFullError, ClosedError: as `submit`, at once.
            DeepSeekError: what befell the request, in its place among the chunks.

        Example:
            >>> for chunk in pipeline.stream(image=array):
            ...     print(chunk["logits"].shape)
            (1, 3)
        """
        sink = StreamSink()
        self.send(tensors if inputs is None else _either(inputs, tensors), options, sink)
        return iter(sink)

    def send(self, inputs: Tensors, options: Options, sink: Sink) -> None:
        """Like `submit`, with a sink of the caller's own, called on the scheduler's thread: what servers use.

        Example:
            >>> sink = FutureSink()
            >>> pipeline.send({"image": array}, Options(tenant="acme"), sink)
            >>> sink.future.result()["logits"].shape
            (1, 3)
        """
        self._scheduler.submit(Request(inputs, Share(_checked(options), self._check(inputs)), sink))

    async def arun(
        self, inputs: Tensors | None = None, options: Options = NO_OPTIONS, /, **tensors: Any
    ) -> dict[str, Any]:
        """Like `run`, without blocking the event loop; cancelling the task cancels the request.

        Example:
            >>> async def ask():
            ...     return await pipeline.arun(image=array)
            >>> asyncio.run(ask())["logits"].shape
            (1, 3)
        """
        import asyncio

        return await asyncio.wrap_future(self.submit(inputs, options, **tensors))

    def predict(self, value: object, options: Options = NO_OPTIONS) -> list[dict[str, Any]]:
        """Answer in the reader's terms: a photograph, a text or a file in, named classes or vectors out.

        Args:
            value: what the pipeline's codec encodes: a path, image bytes, a text, an array, a mapping.
            options: as in `run`.

        Returns:
            One dictionary per row.

        Raises:
            InputError: the value can't be encoded.
            PlanError: the pipeline has no codec.

        Example:
            >>> pipeline.predict("cat.jpg")
            [{'logits': [{'label': 'tabby', 'index': 0, 'score': 0.40...}, {'label': 'espresso', ...}]}]
        """
        codec = self.codec
        return codec.decode(self.run(codec.encode(value), options))

    @property
    def codec(self) -> Codec:
        """The codec at the pipeline's edge. Raises PlanError when there is none.

        Example:
            >>> pipeline.codec.encode("cat.jpg")["image"].shape
            (1, 3, 8, 8)
        """
        if self._codec is None:
            hint = "let deepseek-codecs take part (`deepseek plugins` tells whether it does), or use run() with tensors"
            raise PlanError("this pipeline has no codec", hint=hint)
        return self._codec

    def close(self) -> None:
        """Finish what is under way, end every thread and give the memory back.

        Safe to call twice and from any thread, a future's callback included; while one thread closes, others that
        call it go on at once.

        Example:
            >>> pipeline = deepseek.build("pipeline.yaml")
            >>> pipeline.close()
        """
        self._run = _refuse
        # Once, whoever comes first.
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self.signature.inputs))
        outputs = ", ".join(map(str, self.signature.outputs))
        return f"<Pipeline {self.plan.engine.name} on {self.plan.device.name}: ({inputs}) -> ({outputs})>"


def _checked(options: Options) -> Options:
    if not isinstance(options, Options):
        raise InputError(f"options are Options(...), not a {type(options).__name__}")
    return options


def _either(inputs: Tensors, tensors: Mapping[str, Any]) -> Tensors:
    if tensors:
        raise InputError("give the inputs as one mapping or as keywords, not both")
    if not isinstance(inputs, Mapping):
        hint = "write run(name=array) or run({'name': array})"
        raise InputError(f"inputs are named tensors, not a {type(inputs).__name__}", hint=hint)
    return inputs


def _refuse(inputs: Tensors, share: Share) -> dict[str, Any]:
    raise ClosedError("the pipeline is closed")
