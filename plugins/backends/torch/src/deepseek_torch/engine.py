"""The offer to execute, made without importing PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from deepseek.plugin import HOST, Config, Decline, Device, Engine, Executor, Model
from deepseek_torch.settings import TorchSettings

#: Resident memory of the library after import (measured, see benchmarks/).
LIBRARY_BYTES = 220 << 20


def engine(device: Device, config: Config) -> Engine | Decline:
    """The engine `torch` on the CPU or a CUDA card."""
    if device.kind not in ("cpu", "cuda"):
        return Decline(f"PyTorch does not run on {device.name}")
    settings = config[TorchSettings]

    def open_(model: Model) -> Executor:
        from deepseek_torch.executor import TorchExecutor

        return TorchExecutor(model, settings, device)

    def reference(model: Model) -> Executor:
        from deepseek_torch.executor import TorchExecutor

        return TorchExecutor(model, TorchSettings(), HOST)

    def describe() -> Mapping[str, object]:
        return {
            "library": f"torch {_version()}",
            "dtype": settings.dtype or "as stored",
            "memory_format": "channels last" if settings.channels_last else "contiguous",
            "threads": settings.threads or device.facts.get("cores"),
        }

    return Engine("torch", frozenset({"torch"}), open_, describe, LIBRARY_BYTES, reference=reference)


def _version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "?"
