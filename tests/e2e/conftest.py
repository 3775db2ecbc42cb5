"""The command as a user calls it, and the demo's models."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "models"
Deepseek = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def deepseek_command() -> list[str]:
    """The console script beside the Python that runs the tests."""
    return [str(Path(sys.executable).parent / "deepseek")]


@pytest.fixture
def deepseek_(deepseek_command: list[str], tmp_path: Path) -> Deepseek:
    """Run ``deepseek ARGS`` in an empty folder, as a process of its own."""

    def call(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **more.pop("env", {})}  # type: ignore[dict-item]
        return subprocess.run(
            [*deepseek_command, *map(str, arguments)],
            cwd=more.pop("cwd", tmp_path),  # type: ignore[arg-type]
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            **more,  # type: ignore[call-overload]
        )

    return call


@pytest.fixture(scope="session")
def examples() -> Path:
    """The demo's folder, its models made."""
    if not (MODELS / "lite0_savedmodel").exists():
        subprocess.run([sys.executable, ROOT / "examples/prepare.py"], check=True, capture_output=True)
    return ROOT / "examples"
