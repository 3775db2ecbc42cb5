"""Offers: what of a source can be loaded, and the engine that executes ONNX."""

from __future__ import annotations

from collections.abc import Mapping

from deepseek.plugin import HOST, Config, Decline, Device, Engine, Executor, Loader, Model, Signature, Source
from deepseek_onnxruntime.providers import PROVIDERS, choose_providers
from deepseek_onnxruntime.settings import OnnxRuntimeSettings

#: Resident memory of the library with an empty session (measured, see benchmarks/).
LIBRARY_BYTES = 45 << 20


def offer(source: Source) -> Loader | None:
    """ONNX files, by their ending. The session reads the file itself, so nothing is read here."""
    if source.path.suffix.lower() not in (".onnx", ".ort"):
        return None
    # External data lies beside the model; what it adds is not known before the graph is read.
    declared = Signature(source.inputs, source.outputs)
    return Loader("onnx file", "onnx", lambda: Model("onnx", source.path, declared), source.size_bytes)


def engine(device: Device, config: Config) -> Engine | Decline:
    """The engine `onnxruntime` on a device."""
    settings = config[OnnxRuntimeSettings]
    if device.kind not in PROVIDERS and not settings.providers:
        return Decline(f"it knows no execution provider for {device.name}; name one in `onnxruntime.providers`")

    def open_(model: Model) -> Executor:
        from deepseek_onnxruntime.executor import OnnxRuntimeExecutor

        return OnnxRuntimeExecutor(model, settings, device)

    def reference(model: Model) -> Executor:
        from deepseek_onnxruntime.executor import OnnxRuntimeExecutor

        return OnnxRuntimeExecutor(model, OnnxRuntimeSettings(), HOST)

    def describe() -> Mapping[str, object]:
        import onnxruntime

        chosen = choose_providers(settings.providers, device)
        return {
            "library": f"onnxruntime {onnxruntime.__version__}",
            "providers": [item if isinstance(item, str) else item[0] for item in chosen],
            "threads": settings.threads or device.facts.get("cores"),
            "graph_optimization": settings.graph_optimization,
        }

    return Engine("onnxruntime", frozenset({"onnx"}), open_, describe, LIBRARY_BYTES, 2.0, reference)
