"""Who answers: PyTorch's own formats are loaded and executed by PyTorch, or converted to ONNX."""

from __future__ import annotations

from deepseek.plugin import Config, Decline, Device, Engine, Loader, Pass, Settings, Source, hookimpl, library_missing
from deepseek_torch.settings import TorchSettings


@hookimpl
def sections() -> dict[str, type[Settings]]:
    return {"torch": TorchSettings}


@hookimpl
def probe(config: Config) -> list[Device]:
    from deepseek_torch.devices import find_devices

    return find_devices(config.kernel.device)


@hookimpl
def load(source: Source, config: Config) -> Loader | Decline | None:
    from deepseek_torch.sources import offer

    return offer(source, config)


@hookimpl
def optimize(config: Config) -> Pass | Decline:
    from deepseek_torch.convert import to_onnx

    return to_onnx(config)


@hookimpl
def execute(device: Device, config: Config) -> Engine | Decline:
    from deepseek_torch.engine import engine

    return library_missing("torch", "deepseek-torch", "cpu") or engine(device, config)
