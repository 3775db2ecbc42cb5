"""The offer to execute, made without importing TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from deepseek.plugin import HOST, Config, Decline, Device, Engine, Executor, Model
from deepseek_tensorflow.settings import TensorFlowSettings

#: Resident memory of the library after import (measured, see benchmarks/).
LIBRARY_BYTES = 480 << 20


def engine(device: Device, config: Config) -> Engine | Decline:
    """The engine `tensorflow` on the CPU or a GPU."""
    if device.kind not in ("cpu", "cuda"):
        return Decline(f"TensorFlow does not run on {device.name}")
    settings = config[TensorFlowSettings]

    def open_(model: Model) -> Executor:
        from deepseek_tensorflow.executor import TensorFlowExecutor

        return TensorFlowExecutor(model, settings, device)

    def reference(model: Model) -> Executor:
        from deepseek_tensorflow.executor import TensorFlowExecutor

        return TensorFlowExecutor(model, TensorFlowSettings(), HOST)

    def describe() -> Mapping[str, object]:
        return {
            "library": f"tensorflow {_version()}",
            "compiled": "XLA" if settings.jit_compile else "graph",
            "threads": settings.threads or device.facts.get("cores"),
        }

    return Engine("tensorflow", frozenset({"tensorflow"}), open_, describe, LIBRARY_BYTES, reference=reference)


def _version() -> str:
    for flavour in ("tensorflow", "tensorflow-cpu"):
        try:
            return version(flavour)
        except PackageNotFoundError:
            continue
    return "?"
