"""Text, and what is no tensor at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import deepseek
from deepseek.errors import InputError, ModelError
from onnx_models import info, save

WORDS = ["a", "", "zwölf", "a much longer word"]


@pytest.fixture
def echo(tmp_path: Path) -> str:
    x, y = info("x", TensorProto.STRING, "n"), info("y", TensorProto.STRING, "n")
    return save(tmp_path / "echo.onnx", [helper.make_node("Identity", ["x"], ["y"])], [x], [y])


@pytest.mark.parametrize(
    "words",
    [
        np.array(WORDS),
        np.array(WORDS, object),
        np.array([word.encode() for word in WORDS]),
        np.array([word.encode() for word in WORDS], object),
    ],
    ids=["U", "text", "S", "bytes"],
)
def test_text_in_every_form_that_numpy_has(echo: str, words: Any) -> None:
    with deepseek.build({"model": echo}) as pipeline:
        for _ in range(20):
            assert pipeline.run(x=words)["y"].tolist() == WORDS


@pytest.mark.parametrize("words", [[1, 2], [None, "a"], [b"\xff", b"a"]], ids=["numbers", "nothing", "bytes"])
def test_what_is_no_text_is_refused(echo: str, words: Any) -> None:
    with deepseek.build({"model": echo}) as pipeline, pytest.raises(InputError, match="ONNX Runtime takes text"):
        pipeline.run(x=np.array(words, object))


def test_sequences_are_no_tensors(tmp_path: Path) -> None:
    x, y = info("x", TensorProto.FLOAT, "n"), info("y", TensorProto.FLOAT, "n")
    several = helper.make_tensor_sequence_value_info("several", TensorProto.FLOAT, ["n"])
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("SequenceConstruct", ["x", "y"], ["several"])]
    path = save(tmp_path / "m.onnx", nodes, [x], [y, several])
    with pytest.raises(ModelError, match=r"its output `several` is no tensor: seq\(tensor\(float\)\)"):
        deepseek.build({"model": path})
    with deepseek.build({"model": {"source": path, "outputs": ["y"]}}) as pipeline:
        assert pipeline.run(x=np.ones(2, "float32"))["y"].tolist() == [-1, -1]
