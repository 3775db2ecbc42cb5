"""Opening sessions: options, providers that start, and ONNX Runtime's errors in our words."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

import onnxruntime

from deepseek.plugin import (
    DeviceError,
    ModelError,
    OutOfMemoryError,
    UnsafeModelError,
)
from deepseek_onnxruntime.providers import CPU
from deepseek_onnxruntime.settings import OnnxRuntimeSettings

LEVELS = {
    "disable": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "layout": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
#: What it can't do, it raises; logged as well, it would stand there twice.
_FATAL_ONLY = 4
_CARD = "check the card's number, its driver and libraries (CUDA, cuDNN), or run with device: cpu"

logger = logging.getLogger("deepseek.onnxruntime")


def session_options(settings: OnnxRuntimeSettings) -> Any:
    """ONNX Runtime's own options for the settings."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = settings.inter_op_threads
    options.graph_optimization_level = LEVELS[settings.graph_optimization]
    # What `_report` reads; versions that do not know the key ignore it.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if settings.providers and CPU not in settings.providers:
        # Operators that a provider lacks would else run on the CPU without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    return options


def open_file(path: Path, options: Any, providers: list[Any]) -> Any:
    """A session for one file; raises what `open_session` does."""
    try:
        # Fallback would replace a provider that fails, now or later, by the CPU.
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    # ONNX Runtime's exceptions have no common base below Exception.
    except Exception as exc:
        raise _translate(exc, path, providers) from exc
    _started(session, providers)
    _report(session, providers)
    return session


def preload_libraries() -> None:
    """Find CUDA and cuDNN among the installed wheels of NVIDIA's; what is missing shows when the provider starts."""
    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it does not find; standard output is for answers.
        with contextlib.redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()


def _report(session: Any, providers: list[Any]) -> None:
    """Say which operators the first provider left to the CPU."""
    if providers[0] == CPU or not hasattr(session, "get_provider_graph_assignment_info"):
        return
    placed = [(part.ep_name, node.op_type) for part in session.get_provider_graph_assignment_info()
              for node in part.get_nodes()]  # fmt: skip
    left = sorted(kind for name, kind in placed if name == CPU)
    if left:
        kinds = ", ".join(dict.fromkeys(left))
        logger.warning("%d of %d operators run on the CPU, not on the card: %s", len(left), len(placed), kinds)


def _started(session: Any, providers: list[Any]) -> None:
    missing = [name for name in map(_name, providers) if name not in session.get_providers()]
    if missing:
        raise DeviceError(f"ONNX Runtime could not start {', '.join(missing)}", hint=_CARD)


def _name(provider: Any) -> str:
    return str(provider if isinstance(provider, str) else provider[0])


def _opens(path: Path) -> bool:
    """Whether the CPU takes the model: then what failed was the card."""
    try:
        onnxruntime.InferenceSession(str(path), providers=[CPU])
    except Exception:
        return False
    return True


def _translate(exc: Exception, path: Path, providers: list[Any]) -> ModelError | OutOfMemoryError | DeviceError:
    text = str(exc).removeprefix("[ONNXRuntimeError] : ").partition("\n")[0]
    if "External data path does not exist" in text:
        missing = text.rpartition("does not exist")[2].strip(' :"')
        hint = "put it back beside the model"
        return ModelError(f"a file of its external data is missing: {missing}", where=str(path), hint=hint)
    if "escapes model directory" in text or "External data path" in text or "Absolute path not allowed" in text:
        hint = "keep the external data beside the model"
        return UnsafeModelError("its external data lies outside the model's folder", where=str(path), hint=hint)
    if "bad_alloc" in text or "allocate memory" in text:
        return OutOfMemoryError("there is not enough memory for its weights", where=str(path))
    if "disable_cpu_ep_fallback" in text or "fallback to CPU EP" in text:
        hint = f"add {CPU} behind it in `onnxruntime.providers`, or convert the model"
        return ModelError("some of its operators are not in the providers named", where=str(path), hint=hint)
    if providers[0] != CPU and _opens(path):
        return DeviceError(f"ONNX Runtime could not start {_name(providers[0])}: {text}", hint=_CARD)
    hint = "check it with onnx.checker.check_model, or export it again"
    return ModelError(f"ONNX Runtime can't open this model: {text}", where=str(path), hint=hint)
