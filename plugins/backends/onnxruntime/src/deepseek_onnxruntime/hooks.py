"""Who answers: ONNX files are loaded as they are and executed by ONNX Runtime."""

from __future__ import annotations

from deepseek.plugin import Config, Decline, Device, Engine, Loader, Settings, Source, hookimpl, library_missing
from deepseek_onnxruntime.settings import OnnxRuntimeSettings


@hookimpl
def sections() -> dict[str, type[Settings]]:
    return {"onnxruntime": OnnxRuntimeSettings}


@hookimpl
def probe(config: Config) -> list[Device]:
    from deepseek_onnxruntime.providers import find_devices

    return find_devices(config.kernel.device)


@hookimpl
def load(source: Source) -> Loader | None:
    from deepseek_onnxruntime.model import offer

    return offer(source)


@hookimpl
def execute(device: Device, config: Config) -> Engine | Decline:
    missing = library_missing("onnxruntime", "deepseek-onnxruntime", "cpu", "gpu")
    if missing:
        return missing
    from deepseek_onnxruntime.model import engine

    return engine(device, config)
