"""The command as a user calls it, and the demo's models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from command_pieces import Deepseek, Install, X

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "models"


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


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """p.yaml, whose model is y = -x, float32[batch, 4]; and x.npy, two rows for it."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "neg.onnx")
    (tmp_path / "p.yaml").write_text("model: neg.onnx\n")
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "p.yaml"


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Lay a distribution down as pip leaves it, with one module of hooks; returns the environment that finds it."""

    def call(name: str, code: str) -> dict[str, str]:
        info = tmp_path / f"acme_{name}-1.dist-info"
        info.mkdir()
        about = f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 1\nKeywords: deepseek-plugin-api-1.0\n"
        (info / "METADATA").write_text(about)
        (info / "entry_points.txt").write_text(f"[deepseek]\n{name} = acme_{name}\n")
        (tmp_path / f"acme_{name}.py").write_text("from deepseek.plugin import *\n" + code)
        return {"PYTHONPATH": str(tmp_path)}

    return call
