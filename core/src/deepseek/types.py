"""What passes between kernel and plugins: tensors, models, devices, and what one request asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from deepseek.errors import InputError
from deepseek.records import Record, Stated

#: The size of a dimension that may vary, as in the Open Inference Protocol.
ANY = -1


@runtime_checkable
class Array(Protocol):
    """A dense tensor: anything with a shape, a dtype and the DLPack protocol (NumPy, PyTorch, ...).

    Example:
        >>> array = numpy.zeros(3)
        >>> isinstance(array, Array), array.shape, array.dtype
        (True, (3,), dtype('float64'))
    """

    @property
    def shape(self) -> Any:
        """One size per dimension."""

    @property
    def dtype(self) -> Any:
        """The element type, in the words of the array's own library."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


#: Named tensors: what crosses every seam between plugins.
Tensors: TypeAlias = Mapping[str, Array]


class TensorSpec(Stated):
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


class Signature(Stated):
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
        >>> source = Source(Path("labels.txt"))
        >>> source.path.suffix, source.size_bytes
        ('.txt', 23)
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


class Device(Stated):
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


#: The host's processor, of which nothing more needs to be known: where conversions are checked.
HOST = Device("cpu", "cpu", 0, 0)


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


class Options(Record):
    """What one request asks for beside its tensors. Raises InputError for values of the wrong type.

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

    def __post_init__(self) -> None:
        deadline = self.deadline is None or isinstance(self.deadline, float | int)
        if not (deadline and isinstance(self.priority, int) and isinstance(self.tenant, str)):
            raise InputError(f"these are no options: {self}", hint="a deadline is time.monotonic() + seconds")
        if not isinstance(self.parameters, Mapping):
            raise InputError(f"the parameters of a request are a mapping, not a {type(self.parameters).__name__}")


#: What a request carries when nothing was asked for.
NO_OPTIONS = Options()


class Share(Record):
    """One request's part of a batch, whose rows lie one after another.

    Attributes:
        options: what the request asks for.
        rows: how many rows of the batch are its own (1 where the model has no batch dimension).

    Example:
        >>> [share.rows for share in (Share(NO_OPTIONS, 2), Share(Options(tenant="acme"), 6))]
        [2, 6]
    """

    options: Options
    rows: int


class Batch(Record):
    """What an observer is told, once for each executed batch.

    Attributes:
        shares: one for each request in the batch; none where the kernel or a plugin ran the model for itself.
        device: the device's name.
        seconds: time in the executor.
        error: what it raised, or None.

    Example:
        >>> Batch((Share(NO_OPTIONS, 2), Share(NO_OPTIONS, 6)), "cpu", seconds=0.002, error=None).rows
        8
    """

    shares: Sequence[Share]
    device: str
    seconds: float
    error: BaseException | None

    @property
    def rows(self) -> int:
        """Rows of all requests."""
        return sum(share.rows for share in self.shares)
