"""Opening sessions: options, the kept optimized model, and ONNX Runtime's errors in our words."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime

from deepseek.plugin import (
    Device,
    DeviceError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    UnsafeModelError,
    atomic_write,
    output_errors,
)
from deepseek_onnxruntime.providers import CPU, choose_providers
from deepseek_onnxruntime.settings import OnnxRuntimeSettings

_LEVELS = {
    "disable": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "layout": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_ERRORS_ONLY = 3

logger = logging.getLogger("deepseek.onnxruntime")


def open_session(path: Path, settings: OnnxRuntimeSettings, device: Device) -> Any:
    """A session on `device`.

    Raises:
        ModelError: the file is not an ONNX model that this version runs.
        UnsafeModelError: it points to data outside its folder.
        DeviceError: a provider did not start.
        OutOfMemoryError: the weights do not fit.
    """
    providers = choose_providers(settings.providers, device)
    if device.kind == "cuda":
        _preload_libraries()
    if settings.optimized_model is None:
        return _open(path, _options(settings), providers)
    if settings.optimized_model.resolve() == path.resolve():
        hint = "give `onnxruntime.optimized_model` a name of its own"
        raise OutputError("the optimized model would overwrite the model", where=str(path), hint=hint)
    kept, key = settings.optimized_model, _key(path, settings, device)
    if not _is_current(kept, key):
        _check_ours(kept)
        _keep(path, kept, key, settings, providers)
    # The kept graph is optimized already; going over it again costs time and can undo choices.
    options = _options(settings)
    options.graph_optimization_level = _LEVELS["disable"]
    try:
        return _open(kept, options, providers)
    except ModelError as exc:
        hint = "keep it in the model's own folder: a model with external data refers to it from there"
        raise OutputError(f"the optimized model can't be opened: {exc.what}", where=str(kept), hint=hint) from exc


def _options(settings: OnnxRuntimeSettings) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = settings.inter_op_threads
    options.graph_optimization_level = _LEVELS[settings.graph_optimization]
    # What `_report` reads; versions that do not know the key ignore it.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if settings.providers and CPU not in settings.providers:
        # Operators that a provider lacks would else run on the CPU without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    return options


def _open(path: Path, options: Any, providers: list[Any]) -> Any:
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    # ONNX Runtime's exceptions have no common base below Exception.
    except Exception as exc:
        raise _translate(exc, path) from exc
    # Without this a provider that fails later would be replaced by the CPU without a word.
    session.disable_fallback()
    _started(session, providers)
    _report(session, providers)
    return session


def _preload_libraries() -> None:
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
    names = [item if isinstance(item, str) else item[0] for item in providers]
    missing = [name for name in names if name not in session.get_providers()]
    if missing:
        hint = "check its driver and libraries (CUDA, cuDNN), or run with device: cpu"
        raise DeviceError(f"ONNX Runtime could not start {', '.join(missing)}", hint=hint)


def _translate(exc: Exception, path: Path) -> ModelError | OutOfMemoryError:
    text = str(exc).removeprefix("[ONNXRuntimeError] : ").partition("\n")[0]
    if "escapes model directory" in text or "External data path" in text or "Absolute path not allowed" in text:
        hint = "keep the external data beside the model"
        return UnsafeModelError("its external data lies outside the model's folder", where=str(path), hint=hint)
    if "bad_alloc" in text or "allocate memory" in text:
        return OutOfMemoryError("there is not enough memory for its weights", where=str(path))
    if "disable_cpu_ep_fallback" in text or "fallback to CPU EP" in text:
        hint = f"add {CPU} behind it in `onnxruntime.providers`, or convert the model"
        return ModelError("some of its operators are not in the providers named", where=str(path), hint=hint)
    hint = "check it with onnx.checker.check_model, or export it again"
    return ModelError(f"ONNX Runtime can't open this model: {text}", where=str(path), hint=hint)


def _key(path: Path, settings: OnnxRuntimeSettings, device: Device) -> dict[str, object]:
    """What the kept graph depends on: it holds layouts and kernels for one kind of processor."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    others = [item for item in _external(path) if item.is_file()]
    stats = {item.name: item.stat() for item in sorted(others)}
    return {
        "sha256": digest,
        "beside": {name: [found.st_size, found.st_mtime_ns] for name, found in stats.items()},
        "onnxruntime": onnxruntime.__version__,
        "graph_optimization": settings.graph_optimization,
        "providers": settings.providers,
        "device": device.name,
        "processor": device.facts.get("processor"),
    }


def _external(path: Path) -> list[Path]:
    """Files beside the model that may hold weights of it: those whose names are written in it."""
    if not path.stat().st_size:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [item for item in path.parent.iterdir() if content.find(os.fsencode(item.name)) >= 0]


def _sidecar(kept: Path) -> Path:
    return kept.with_name(f"{kept.name}.json")


def _is_current(kept: Path, key: dict[str, object]) -> bool:
    try:
        return kept.is_file() and json.loads(_sidecar(kept).read_text()) == key
    except (OSError, ValueError):
        return False


def _check_ours(kept: Path) -> None:
    """Nothing but an earlier optimized model is overwritten. Raises OutputError."""
    sidecar = _sidecar(kept)
    try:
        found = json.loads(sidecar.read_text())
        # An empty one is that of a model whose writing was broken off.
        ours = isinstance(found, dict) and (not found or "onnxruntime" in found)
    except (OSError, ValueError):
        ours = False
    if (kept.exists() or sidecar.exists()) and not ours:
        where = str(kept if kept.exists() else sidecar)
        hint = "give `onnxruntime.optimized_model` a name of its own, or remove the file"
        raise OutputError("there is a file already that is no optimized model", where=where, hint=hint)


def _keep(path: Path, kept: Path, key: dict[str, object], settings: OnnxRuntimeSettings, providers: list[Any]) -> None:
    with output_errors(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(_sidecar(kept)) as scratch:
        scratch.write_text("{}")
    with _gone_unless(kept), atomic_write(kept) as scratch:
        options = _options(settings)
        options.optimized_model_filepath = str(scratch)
        try:
            _open(path, options, providers)
        except ModelError as exc:
            # ONNX Runtime does not say whether reading or writing failed: a model that opens was read well.
            _open(path, _options(settings), providers)
            hint = "free space, or leave `onnxruntime.optimized_model` out"
            raise OutputError("the optimized model can't be written", where=str(kept), hint=hint) from exc
    with atomic_write(_sidecar(kept)) as scratch:
        scratch.write_text(json.dumps(key, indent=2))


@contextlib.contextmanager
def _gone_unless(kept: Path) -> Iterator[None]:
    """Take the sidecar away again when the block fails and there is nothing that it could stand beside."""
    try:
        yield
    except BaseException:
        if not kept.exists():
            _sidecar(kept).unlink(missing_ok=True)
        raise
