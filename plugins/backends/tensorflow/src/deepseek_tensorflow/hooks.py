"""Who answers: SavedModels and .keras files are loaded and executed by TensorFlow, or converted to ONNX."""

from __future__ import annotations

from deepseek.plugin import Config, Decline, Device, Engine, Loader, Pass, Settings, Source, hookimpl, library_missing
from deepseek_tensorflow.settings import TensorFlowSettings


@hookimpl
def sections() -> dict[str, type[Settings]]:
    return {"tensorflow": TensorFlowSettings}


@hookimpl
def probe(config: Config) -> list[Device]:
    from deepseek_tensorflow.library import find_devices

    return find_devices(config.kernel.device, config.kernel.engine)


@hookimpl
def load(source: Source, device: Device, config: Config) -> Loader | Decline | None:
    from deepseek_tensorflow.sources import offer

    return offer(source, device, config)


@hookimpl
def optimize() -> Pass | Decline:
    from deepseek_tensorflow.convert import to_onnx

    return to_onnx()


@hookimpl
def execute(device: Device, config: Config) -> Engine | Decline:
    from deepseek_tensorflow.engine import engine

    return library_missing("tensorflow", "deepseek-tensorflow", "cpu", "gpu") or engine(device, config)
