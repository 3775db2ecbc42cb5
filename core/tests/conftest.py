"""Fixtures of the kernel's own tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from plugin_pieces import HEAD, Make

Plug = Callable[..., ModuleType]


@pytest.fixture
def plug() -> Plug:
    """Make a plugin module out of functions: ``plug("acme", load=..., execute=...)``."""
    from deepseek.plugin import hookimpl

    def make(name: str, **hooks: Any) -> ModuleType:
        module = ModuleType(name)
        for hook, function in hooks.items():
            setattr(module, hook, hookimpl(function))
        return module

    return make


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.acme"
    path.write_text("weights")
    return str(path)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Write distributions that `importlib.metadata` finds; the real ones are out of sight."""
    before = set(sys.modules)

    def write(name: str, code: str = "", *, api: str = "1.0", version: str = "1.0", dist: str = "") -> None:
        dist = dist or f"acme-{name}"
        info = tmp_path / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        keywords = f"Keywords: x,deepseek-plugin-api-{api}\n" if api else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n{keywords}")
        (info / "entry_points.txt").write_text(f"[deepseek]\n{name} = acme_{name}\n")
        (tmp_path / f"acme_{name}.py").write_text(HEAD + (code or "@hookimpl\ndef probe(): ...\n"))

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr("deepseek.plugins.distributions", lambda: distributions(path=[str(tmp_path)]))
    yield write
    for name in set(sys.modules) - before:
        if name.startswith("acme_"):
            del sys.modules[name]
