"""One small network in each of PyTorch's formats, and pipelines for them."""

from __future__ import annotations

import importlib.util
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import deepseek

X = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
DECLARED = {"inputs": {"x": {"shape": [-1, 4]}}, "outputs": ["y"]}
FACTORY = """
import torch

def build(width=3):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, width))
"""


def network(width: int = 3) -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, width)).eval()


def wanted() -> Any:
    with torch.inference_mode():
        return network()(torch.from_numpy(X)).numpy()


def torchscript(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(network(), torch.zeros(1, 4)).save(str(folder / "m.pt"))
    return str(folder / "m.pt")


def exported(folder: Path) -> str:
    program = torch.export.export(network(), (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "m.pt2")
    return str(folder / "m.pt2")


def state_dict(folder: Path) -> str:
    torch.save({"state_dict": network().state_dict(), "epoch": 3}, folder / "m.pth")
    return str(folder / "m.pth")


def legacy_state_dict(folder: Path) -> str:
    torch.save(network().state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    return str(folder / "old.pth")


def safetensors(folder: Path) -> str:
    save_file(network().state_dict(), folder / "m.safetensors")
    return str(folder / "m.safetensors")


def config(folder: Path, write: Callable[[Path], str], **more: Any) -> dict[str, Any]:
    (folder / "factory.py").write_text(FACTORY)
    settings = {"factory": f"{folder}/factory.py:build", **more.pop("torch", {})}
    return {"model": {"source": write(folder), **DECLARED}, "torch": settings, **more}


def built(folder: Path, code: str, engine: str = "torch", **model: Any) -> Any:
    """A pipeline of the module that the code builds."""
    (folder / "net.py").write_text(code)
    scope: dict[str, Any] = {}
    exec(code, scope)
    save_file(scope["build"]().state_dict(), folder / "net.safetensors")
    return deepseek.build(
        {
            "model": {"source": f"{folder}/net.safetensors", **model},
            "engine": engine,
            "torch": {"factory": f"{folder}/net.py:build"},
        }
    )


def scripted(folder: Path, code: str) -> str:
    """The module of a file, in TorchScript."""
    (folder / "scripted.py").write_text(code)
    spec = importlib.util.spec_from_file_location("scripted", folder / "scripted.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.build()).save(f"{folder}/scripted.ts")
    return f"{folder}/scripted.ts"


def rewrite(source: str, change: Callable[[str, bytes], bytes | None], **extra: bytes) -> None:
    """Change an archive entry by entry; None drops one."""
    with zipfile.ZipFile(source) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with warnings.catch_warnings(), zipfile.ZipFile(source, "w") as new:
        warnings.simplefilter("ignore")
        for name, data in entries.items():
            changed = change(name, data)
            if changed is not None:
                new.writestr(name, changed)
        for name, data in extra.items():
            new.writestr(name.replace("__", "/"), data)
