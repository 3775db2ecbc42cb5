"""Importing TensorFlow once, quietly, with the process-wide settings that it takes only before first use."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from deepseek.plugin import Config, ConfigError, Device, DeviceError
from deepseek_tensorflow.settings import TensorFlowSettings

#: How lines begin that tell of nothing: which of them come depends on the processor.
_CHATTER = (b"WARNING: All log messages before absl::", b"I0000 ")


def tensorflow() -> Any:
    """The module, without its start-up chatter unless TF_CPP_MIN_LOG_LEVEL asks for it."""
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _hushed() if level != "0" and "tensorflow" not in sys.modules else nullcontext():
        import tensorflow

    return tensorflow


@contextmanager
def _hushed() -> Iterator[None]:
    """Hold back what is written to standard error, and leave out the words of libraries that heed no level yet."""
    try:
        real = os.dup(2)
    except OSError:
        # There is none.
        yield
        return
    with tempfile.TemporaryFile() as scratch:
        os.dup2(scratch.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            os.close(real)
            scratch.seek(0)
            for line in scratch:
                if not line.startswith(_CHATTER):
                    os.write(2, line)


def prepare(config: Config) -> Any:
    """Apply threads and memory growth, then return the module.

    Raises:
        ConfigError: TensorFlow is running already with other values; it can't change them.
    """
    tf, settings = tensorflow(), config[TensorFlowSettings]
    threading = tf.config.threading
    if settings.threads and threading.get_intra_op_parallelism_threads() != settings.threads:
        _set_once(config, "threads", partial(threading.set_intra_op_parallelism_threads, settings.threads))
    if settings.inter_op_threads and threading.get_inter_op_parallelism_threads() != settings.inter_op_threads:
        _set_once(
            config, "inter_op_threads", partial(threading.set_inter_op_parallelism_threads, settings.inter_op_threads)
        )
    wanted = settings.memory_growth
    for card in tf.config.list_physical_devices("GPU"):
        if tf.config.experimental.get_memory_growth(card) == (wanted is not False):
            continue
        grow = partial(tf.config.experimental.set_memory_growth, card, wanted is not False)
        with nullcontext() if wanted is not None else suppress(ConfigError):
            _set_once(config, "memory_growth", grow)
    return tf


def _set_once(config: Config, key: str, apply: Callable[[], object]) -> None:
    try:
        apply()
    except RuntimeError as exc:
        hint = "give every pipeline of a process the same value, or use one process for each"
        raise config.error(f"tensorflow.{key}", "can't change once TensorFlow runs in this process", hint=hint) from exc


def placement(device: Device) -> Callable[[], AbstractContextManager[Any]]:
    """Blocks in which variables and operators go to the device; where there is no choice, they cost nothing.

    Raises:
        DeviceError: it is a card that TensorFlow does not find.
    """
    tf = tensorflow()
    cards = len(tf.config.list_physical_devices("GPU"))
    if not cards and device.kind == "cpu":
        return nullcontext
    index = int(device.name.partition(":")[2] or 0)
    if device.kind != "cpu" and index >= cards:
        hint = "pip install 'deepseek-tensorflow[gpu]'"
        raise DeviceError(f"TensorFlow finds {cards} GPUs here, not {device.name}", hint=hint)
    return partial(tf.device, "/CPU:0" if device.kind == "cpu" else f"/GPU:{index}")


#: Lines of TensorFlow's messages that say where in the graph, and not what.
_WHERE = (
    "Graph execution error",
    "Detected at node",
    "Detected unsupported",
    "<stack traces",
    "File ",
    "node ",
    "\t [[",
)


def cause(exc: BaseException) -> str:
    """The line of a message that says what went wrong."""
    lines = [line for line in str(exc).splitlines() if line.strip()]
    found = [line for line in lines if not line.startswith(_WHERE)] or lines or [type(exc).__name__]
    return found[0].strip()


def find_devices(wanted: str, engine: str) -> list[Device]:
    """GPUs as TensorFlow sees them, asked only when the pipeline wants one for TensorFlow.

    TensorFlow does not tell a card's memory before it is used: 0 stands for "not known".
    """
    if not wanted.startswith("cuda") or engine not in ("", "tensorflow") or find_spec("tensorflow") is None:
        return []
    cards = tensorflow().config.list_physical_devices("GPU")
    return [Device(f"cuda:{index}", "cuda", 0, 0, {"tensorflow": card.name}) for index, card in enumerate(cards)]
