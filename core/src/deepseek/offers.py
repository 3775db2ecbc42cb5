"""What hooks answer with: a name, a few facts, and one callable that does the work later.

The kernel can therefore list, order, explain, time and blame what a plugin offers before it runs any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from deepseek.protocols import Codec, Executor, Scheduler
from deepseek.records import Stated
from deepseek.types import Model, Signature


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


class Decline(Stated):
    """A plugin's "not me", with the reason that `deepseek explain` and the error will show.

    Example:
        >>> Decline("it holds weights without code").missing
        ''
    """

    reason: str
    #: The library whose absence is the reason; the error is then a MissingLibraryError.
    missing: str = ""


class Loader(Stated):
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


class Pass(Stated):
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


class Engine(Stated):
    """An offer to execute models.

    Attributes:
        name: what the pipeline's `engine:` selects.
        accepts: formats that it executes.
        open: makes the executor; raises ModelError, DeviceError or OutOfMemoryError.
        describe: what the plan should say of it (providers, threads, dtype); may import the engine.
        library_bytes: resident memory of the engine's library itself, measured once.
        weight_copies: how many copies of the weights it holds.
        reference: makes the executor that checks conversions: on the CPU, in the precision that the model is stored
            in, whatever the settings; omitted: `open` does as well.

    Example:
        >>> Engine("acme", frozenset({"acme"}), lambda model: AcmeExecutor(model)).weight_copies
        1.0
    """

    name: str
    accepts: frozenset[str]
    open: Callable[[Model], Executor]
    describe: Callable[[], Mapping[str, object]] = dict
    library_bytes: int = 0
    weight_copies: float = 1.0
    reference: Callable[[Model], Executor] | None = None


class Wrapper(Stated):
    """An offer to wrap the executor: ranks of a parallel model, a remote worker, a fault injector.

    Attributes:
        name: as the plan shows it.
        wrap: takes an executor and gives another; which one is closed by whom, `deepseek.plugin.Executor.close` says.

    Example:
        >>> Wrapper("nothing", lambda executor: executor).name
        'nothing'
    """

    name: str
    wrap: Callable[[Executor], Executor]


class Policy(Stated):
    """An offer to schedule.

    Attributes:
        name: as the plan shows it.
        make: takes the executors of the model, one for each place or variant that it is opened in (the kernel opens
            one), and makes the scheduler over them.
        facts: what the plan should say of it.

    Example:
        >>> Policy("acme", lambda executors: AcmeScheduler(executors)).facts
        {}
    """

    name: str
    make: Callable[[Sequence[Executor]], Scheduler]
    facts: Mapping[str, object] = {}


class Coding(Stated):
    """An offer to code and decode at the pipeline's edge.

    Example:
        >>> Coding("acme", lambda signature: AcmeCodec(signature)).facts
        {}
    """

    name: str
    make: Callable[[Signature], Codec]
    facts: Mapping[str, object] = {}
