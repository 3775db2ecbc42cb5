"""`import deepseek` is light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import deepseek


@pytest.mark.parametrize("module", ["deepseek", "deepseek.plugin", "deepseek.kernel", "deepseek.cli"])
def test_no_heavy_library_is_loaded(module: str) -> None:
    heavy = ("numpy", "torch", "tensorflow", "onnxruntime", "onnx", "PIL", "rich", "transformers")
    code = f"import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_public_names_are_there() -> None:
    for name in deepseek.__all__:
        assert getattr(deepseek, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        deepseek.nothing  # noqa: B018
    assert set(dir(deepseek)) == set(deepseek.__all__)
