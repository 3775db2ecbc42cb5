"""A session for a pipeline, and the optimized model that it may keep for the next one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime

from deepseek.plugin import Device, ModelError, OutputError, atomic_write, output_errors
from deepseek_onnxruntime.providers import choose_providers
from deepseek_onnxruntime.session import LEVELS, open_file, preload_libraries, session_options
from deepseek_onnxruntime.settings import OnnxRuntimeSettings


def open_session(path: Path, settings: OnnxRuntimeSettings, device: Device) -> Any:
    """A session on `device`.

    Raises:
        ModelError: the file is not an ONNX model that this version runs.
        UnsafeModelError: it points to data outside its folder.
        OutputError: the optimized model can't be kept where the settings want it.
        DeviceError: a provider did not start.
        OutOfMemoryError: the weights do not fit.
    """
    providers = choose_providers(settings.providers, device)
    if device.kind == "cuda":
        preload_libraries()
    if settings.optimized_model is not None:
        return _open_kept(path, settings, device, providers, settings.optimized_model)
    return open_file(path, session_options(settings), providers)


def _open_kept(path: Path, settings: OnnxRuntimeSettings, device: Device, providers: list[Any], kept: Path) -> Any:
    _check_name(kept, path)
    key = _key(path, settings, device)
    if not _is_current(kept, key):
        _check_ours(kept)
        _keep(path, kept, key, settings, providers)
    # The kept graph is optimized already; going over it again costs time and can undo choices.
    options = session_options(settings)
    options.graph_optimization_level = LEVELS["disable"]
    try:
        return open_file(kept, options, providers)
    except ModelError as exc:
        hint = "keep it in the model's own folder: a model with external data refers to it from there"
        raise OutputError(f"the optimized model can't be opened: {exc.what}", where=str(kept), hint=hint) from exc


def _check_name(kept: Path, path: Path) -> None:
    if kept.resolve() == path.resolve():
        hint = "give `onnxruntime.optimized_model` a name of its own"
        raise OutputError("the optimized model would overwrite the model", where=str(path), hint=hint)
    if kept.suffix != ".onnx" or kept.is_dir():
        hint = "end `onnxruntime.optimized_model` in .onnx"
        raise OutputError("the optimized model is a file ending in .onnx", where=str(kept), hint=hint)


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
        return bool(json.loads(_sidecar(kept).read_text()) == key | _state(kept))
    except (OSError, ValueError):
        return False


def _state(kept: Path) -> dict[str, object]:
    """What changes when somebody else writes to the file, or a crash leaves half of it. Raises OSError."""
    found = kept.stat()
    return {"kept": [found.st_size, found.st_mtime_ns]}


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
        options = session_options(settings)
        options.optimized_model_filepath = str(scratch)
        try:
            open_file(path, options, providers)
        except ModelError as exc:
            # ONNX Runtime does not say whether reading or writing failed: a model that opens was read well.
            open_file(path, session_options(settings), providers)
            hint = "free space, or leave `onnxruntime.optimized_model` out"
            raise OutputError("the optimized model can't be written", where=str(kept), hint=hint) from exc
    with atomic_write(_sidecar(kept)) as scratch:
        scratch.write_text(json.dumps(key | _state(kept), indent=2))


@contextlib.contextmanager
def _gone_unless(kept: Path) -> Iterator[None]:
    """Take the sidecar away again when the block fails and there is nothing that it could stand beside."""
    try:
        yield
    except BaseException:
        if not kept.exists():
            _sidecar(kept).unlink(missing_ok=True)
        raise
