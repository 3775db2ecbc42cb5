"""The records that plugins hand to the kernel, and the protocols that they implement.

A hook answers with a *record*: a name, a few facts, and one callable that does the work later. The
kernel can therefore list, order, explain, time and blame what a plugin offers before it runs any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol, TypeAlias, dataclass_transform, runtime_checkable

import msgspec


@dataclass_transform(frozen_default=True)
class Record(msgspec.Struct, frozen=True):
    """Base of the records: frozen, compared by value. Copy one with changes by `dataclasses.replace`'s
    counterpart ``msgspec.structs.replace``. (Structs, because a dataclass takes a millisecond to define.)
    """


#: The size of a dimension that may vary, as in the Open Inference Protocol.
ANY = -1


@runtime_checkable
class Array(Protocol):
    """A dense tensor: anything with a shape, a dtype and the DLPack protocol (NumPy, PyTorch, ...).

    Example:
        >>> isinstance(numpy.zeros(3), Array)      # doctest: +SKIP
        True
    """

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


#: Named tensors: what crosses every seam between plugins.
Tensors: TypeAlias = Mapping[str, Array]


class TensorSpec(Record):
    """One input or output of a model.

    Attributes:
        name: the name under which the tensor is passed.
        dtype: NumPy's name of the element type (``float32``, ``int64``, ``str`` for text); empty: not known.
        shape: one size per dimension, `ANY` (-1) where it may vary; None: not known.
        optional: an input that may be left out.

    Example:
        >>> str(TensorSpec("image", "float32", (ANY, 3, 224, 224)))
        'image: float32[*, 3, 224, 224]'
    """

    name: str
    dtype: str = ""
    shape: tuple[int, ...] | None = None
    optional: bool = False

    def __str__(self) -> str:
        shape = "?" if self.shape is None else ", ".join("*" if n == ANY else str(n) for n in self.shape)
        return f"{self.name}: {self.dtype or '?'}[{shape}]"


class Signature(Record):
    """A model's inputs and outputs, in the order in which the model takes and returns them.

    Example:
        >>> x = TensorSpec("x", "float32", (ANY, 4))
        >>> Signature((x,), (x,)).batched
        True
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    @property
    def batched(self) -> bool:
        """Whether dimension 0 of every tensor is a batch of any size."""
        specs = [spec for spec in (*self.inputs, *self.outputs) if spec.shape is not None]
        return bool(specs) and all(spec.shape and spec.shape[0] == ANY for spec in specs)


class Source(Record):
    """Where a model comes from: a file or a folder that exists, and what the pipeline says about it.

    Attributes:
        path: absolute path of the file or folder.
        inputs: the inputs as the pipeline declares them; empty: ask the model.
        outputs: the outputs as the pipeline declares them; empty: ask the model.

    Example:
        >>> Source(Path("model.onnx")).path.suffix
        '.onnx'
    """

    path: Path
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the file, or of all files in the folder."""
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(item.stat().st_size for item in self.path.rglob("*") if item.is_file())


class Device(Record):
    """A place where a model can run, as its plugin (or, for the CPU, the kernel) found it.

    Attributes:
        name: ``cpu``, ``cuda:0``, ...
        kind: the name without its index.
        memory_bytes: what this process may use in all (RAM within the cgroup's limit, or the card's memory).
        available_bytes: what was free when the device was probed.
        facts: anything else worth knowing (cores, instruction sets, compute capability).

    Example:
        >>> Device("cuda:0", "cuda", 2**37, 2**36).kind
        'cuda'
    """

    name: str
    kind: str
    memory_bytes: int
    available_bytes: int
    facts: Mapping[str, object] = {}


class Model(Record):
    """A loaded model in some format.

    Attributes:
        format: ``torch``, ``tensorflow``, ``onnx``, ...: what `native` is.
        native: the engine's own object, or the path of a file that the engine opens.
        signature: inputs and outputs.
        facts: what the loader or a pass wants remembered (parameters, converter, loss of accuracy).

    Example:
        >>> Model("onnx", Path("model.onnx"), Signature()).format
        'onnx'
    """

    format: str
    native: Any
    signature: Signature
    facts: Mapping[str, object] = {}


class Stage(IntEnum):
    """When a pass runs. A CONVERT pass runs only where a format has to be bridged.

    Example:
        >>> sorted([Stage.COMPILE, Stage.REWRITE])[0].name
        'REWRITE'
    """

    REWRITE = 10
    QUANTIZE = 20
    SHARD = 30
    COMPILE = 40
    CONVERT = 90


class Decline(Record):
    """A plugin's "not me", with the reason that `deepseek explain` and the error will show.

    Example:
        >>> Decline("it holds weights without code").missing
        ''
    """

    reason: str
    #: The library whose absence is the reason; the error is then a MissingLibraryError.
    missing: str = ""


class Loader(Record):
    """An offer to load a source.

    Attributes:
        name: what loads, as the plan shows it (``torch.export archive``).
        format: the format of the model that it yields.
        load: does it; raises ModelError or UnsafeModelError.
        weight_bytes: size of the weights, as far as it is known before loading.

    Example:
        >>> Loader("onnx file", "onnx", lambda: Model("onnx", Path("m.onnx"), Signature())).load().format
        'onnx'
    """

    name: str
    format: str
    load: Callable[[], Model]
    weight_bytes: int = 0


class Pass(Record):
    """A step from one model to another.

    Attributes:
        name: as the plan shows it; passes of one stage are ordered by name.
        stage: when it runs.
        accepts: formats that it takes.
        apply: does it. The folder is the pass's own to write into; it lives as long as the pipeline.
        yields: the format that comes out; empty: the one that went in.

    Example:
        >>> same = Pass("nothing", Stage.REWRITE, frozenset({"torch"}), lambda model, folder: model)
        >>> same.yields
        ''
    """

    name: str
    stage: Stage
    accepts: frozenset[str]
    apply: Callable[[Model, Path], Model]
    yields: str = ""


class Options(Record):
    """What one request asks for beside its tensors.

    Attributes:
        deadline: `time.monotonic()` seconds after which the answer is of no use; None: no limit.
        priority: 0 is the default, 1 the highest.
        tenant: who is billed.
        parameters: reach the executor as they are; requests share a batch only when theirs are equal.

    Example:
        >>> Options(tenant="acme", parameters={"depth": 12}).priority
        0
    """

    deadline: float | None = None
    priority: int = 0
    tenant: str = ""
    parameters: Mapping[str, object] = {}


#: What a request carries when nothing was asked for.
NO_OPTIONS = Options()


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


class Engine(Record):
    """An offer to execute models.

    Attributes:
        name: what the pipeline's `engine:` selects.
        accepts: formats that it executes.
        open: makes the executor; raises ModelError, DeviceError or OutOfMemoryError.
        describe: what the plan should say of it (providers, threads, dtype); may import the engine.
        library_bytes: resident memory of the engine's library itself, measured once.
        weight_copies: how many copies of the weights it holds.

    Example:
        >>> Engine("acme", frozenset({"acme"}), lambda model: AcmeExecutor(model)).weight_copies      # doctest: +SKIP
        1.0
    """

    name: str
    accepts: frozenset[str]
    open: Callable[[Model], Executor]
    describe: Callable[[], Mapping[str, object]] = dict
    library_bytes: int = 0
    weight_copies: float = 1.0


class Wrapper(Record):
    """An offer to wrap the executor: ranks of a parallel model, a remote worker, a fault injector.

    Example:
        >>> Wrapper("nothing", lambda executor: executor).name
        'nothing'
    """

    name: str
    wrap: Callable[[Executor], Executor]


class Batch(Record):
    """What an observer is told, once for each executed batch.

    Attributes:
        rows: size of the batch dimension (1 where the model has none).
        options: one for each request in the batch.
        device: the device's name.
        seconds: time in the executor.
        error: what it raised, or None.

    Example:
        >>> Batch(rows=8, options=(NO_OPTIONS,), device="cpu", seconds=0.002, error=None).rows
        8
    """

    rows: int
    options: Sequence[Options]
    device: str
    seconds: float
    error: BaseException | None


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


class Policy(Record):
    """An offer to schedule.

    Example:
        >>> Policy("acme", lambda executor: AcmeScheduler(executor)).facts      # doctest: +SKIP
        {}
    """

    name: str
    make: Callable[[Executor], Scheduler]
    facts: Mapping[str, object] = {}


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


class Coding(Record):
    """An offer to code and decode at the pipeline's edge.

    Example:
        >>> Coding("acme", lambda signature: AcmeCodec(signature)).facts      # doctest: +SKIP
        {}
    """

    name: str
    make: Callable[[Signature], Codec]
    facts: Mapping[str, object] = {}
