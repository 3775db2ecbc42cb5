"""What a file or folder is, found by looking at it; PyTorch is not imported for that."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from deepseek.plugin import Config, Decline, Loader, Model, ModelError, Source, library_missing
from deepseek_torch.settings import TorchSettings

_SUFFIXES = {".pt", ".pth", ".pt2", ".ts", ".bin", ".ckpt", ".safetensors"}
_MISSING = ("torch", "deepseek-torch", "cpu")


def offer(source: Source, config: Config) -> Loader | Decline | None:
    """A loader for PyTorch's own formats; Decline where something is lacking, None for anything else."""
    kind = recognise(source.path)
    if kind is None:
        return None
    missing = library_missing(*_MISSING)
    if missing:
        return missing
    if kind == "state dict" and not config[TorchSettings].factory:
        reason = "it holds weights without code; name the callable that builds the module under `torch.factory`"
        return Decline(f"{source.path.name} is a state dict or checkpoint: {reason}")
    stored = source.path.suffix.lower() == ".safetensors"
    if stored and (missing := library_missing("safetensors", "deepseek-torch", "huggingface")):
        return missing
    if kind == "hugging face folder" and (missing := library_missing("transformers", "deepseek-torch", "huggingface")):
        return missing
    return Loader(kind, "torch", lambda: _reader(kind)(source, config), _weight_bytes(source))


def recognise(path: Path) -> str | None:
    """``torchscript``, ``torch.export archive``, ``state dict``, ``hugging face folder``, or None."""
    if path.is_dir():
        return "hugging face folder" if _is_hugging_face(path) else None
    if path.suffix.lower() not in _SUFFIXES:
        return None
    if path.suffix.lower() == ".safetensors":
        return "state dict"
    try:
        if not zipfile.is_zipfile(path):
            return "state dict" if path.suffix.lower() not in (".pt2", ".ts") else "torch.export archive"
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    # Damaged directories make zipfile raise struct.error, UnicodeDecodeError, NotImplementedError, ...
    except Exception as exc:
        raise ModelError(f"the archive is corrupt: {exc}", where=str(path), hint="save or export it again") from exc
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return "torch.export archive"
    return "torchscript" if "constants.pkl" in names else "state dict"


def _is_hugging_face(path: Path) -> bool:
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config


def _weight_bytes(source: Source) -> int:
    if source.path.is_dir():
        return sum(item.stat().st_size for item in source.path.glob("*.safetensors"))
    return source.size_bytes


def _reader(kind: str) -> Callable[[Source, Config], Model]:
    from deepseek_torch import hugging_face, loading

    return {
        "torchscript": loading.torchscript,
        "torch.export archive": loading.exported,
        "state dict": loading.state_dict,
        "hugging face folder": hugging_face.hugging_face,
    }[kind]
