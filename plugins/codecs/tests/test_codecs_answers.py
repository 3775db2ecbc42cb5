"""Scores become named classes, and token vectors one vector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek
from codecs_pieces import IDS, build, tokenizer
from deepseek.errors import ConfigError
from deepseek.plugin import Engine, hookimpl
from deepseek.testing import EchoExecutor, fakes
from deepseek_codecs.classes import softmax


def test_no_rows_have_no_classes() -> None:
    with build(outputs={"classes": {}}) as pipeline:
        assert pipeline.predict({"x": np.zeros((0, 4), "float32")}) == []


def test_classes_are_named_best_first(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\ndog\n")
    scores = np.log(np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], "float32"))
    with build(outputs={"classes": {"labels": str(tmp_path / "labels.txt"), "top_k": 2}}) as pipeline:
        first, second = pipeline.predict({"x": scores})
    assert [(c["label"], c["index"], round(c["score"], 3)) for c in first["x"]] == [("dog", 3, 0.4), ("cat", 2, 0.3)]
    assert second["x"][0]["label"] == "ant"


@pytest.mark.parametrize("count", [2, 5])
def test_too_few_labels_and_too_many(tmp_path: Path, count: int) -> None:
    (tmp_path / "labels.txt").write_text("ant\n" * count)
    with pytest.raises(ConfigError, match=f"names {count} classes, the model has 4"):
        build(outputs={"classes": {"labels": str(tmp_path / "labels.txt")}})


def test_labels_of_a_model_that_does_not_tell_its_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    with build(
        {"x": {"dtype": "float32", "shape": [-1, -1]}}, outputs={"classes": {"labels": f"{tmp_path}/labels.txt"}}
    ) as pipeline:
        assert pipeline.predict({"x": np.array([[0, 1]], "float32")})[0]["x"][0]["label"] == "bee"
        with pytest.raises(ConfigError, match="names 2 classes, the model has 4"):
            pipeline.predict({"x": np.zeros((1, 4), "float32")})


def test_an_output_must_be_named_where_there_are_several() -> None:
    two = {name: {"dtype": "float32", "shape": [-1, 4]} for name in "ab"}
    with pytest.raises(ConfigError, match="`outputs.classes.tensor` must name one of the model's: a, b"):
        build(two, outputs={"classes": {}})


def test_outputs_without_a_common_batch_are_one_answer() -> None:
    specs = {"rows": {"dtype": "float32", "shape": [-1, 2]}, "table": {"dtype": "float32", "shape": [5]}}
    with build(specs) as pipeline:
        tensors = {"rows": np.zeros((3, 2), "float32"), "table": np.zeros(5, "float32")}
        [answer] = pipeline.codec.decode(pipeline.run(tensors))
        assert answer["rows"].shape == (3, 2)


def test_the_mean_of_padded_tokens_is_refused(tmp_path: Path) -> None:
    text = {"text": {"tokenizer": tokenizer(tmp_path), "pad_to": 8}}
    with pytest.raises(ConfigError, match="`outputs.embedding.pooling` would average the padding"):
        build(IDS, inputs=text, outputs={"embedding": {"tensor": "input_ids"}})


def test_softmax_does_not_overflow() -> None:
    assert softmax(np.array([[1000.0, 1000.0]])).tolist() == [[0.5, 0.5]]


class Vectors:
    """An engine whose output is three token vectors per row."""

    @staticmethod
    @hookimpl
    def execute() -> Engine:
        class Executor(EchoExecutor):
            def run(self, inputs: Any, options: Any) -> dict[str, Any]:
                return {"last_hidden_state": np.array([[[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]], "float32")}

        return Engine("vectors", frozenset({"fake"}), lambda model: Executor(model.signature))


def test_token_vectors_become_one_vector() -> None:
    def embed(**settings: Any) -> Any:
        config = {"model": fakes.model_file(), "engine": "vectors", "outputs": {"embedding": settings}}
        module: Any = Vectors
        with deepseek.build(config, plugins=[fakes, module]) as pipeline:
            return pipeline.predict(np.zeros((1, 4), "float32"))[0]["embedding"]

    np.testing.assert_allclose(embed(), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(embed(normalize=False), [1.0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(embed(pooling="cls"), [1.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("logits", "probabilities"),
    [([np.inf, 0.0], [1.0, 0.0]), ([np.inf, np.inf], [0.5, 0.5]), ([-np.inf, 0.0], [0.0, 1.0])],
)
def test_infinite_logits_are_certain(logits: list[float], probabilities: list[float]) -> None:
    assert softmax(np.array([logits])).tolist() == [probabilities]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b"\xff\xfe", "is not UTF-8"), (b"a\n" * (33 << 20), "is larger than 64MiB")],
)
def test_label_files_that_name_nothing(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"labels.txt {says}"):
        build(outputs={"classes": {"labels": str(tmp_path / "labels.txt")}})


def test_label_files_of_other_systems(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("\ufeffant\r\nbee\r\ncat\r\nd\u2028og".encode())
    with build(outputs={"classes": {"labels": str(tmp_path / "labels.txt")}}) as pipeline:
        [answer] = pipeline.predict({"x": np.array([[4, 3, 2, 1]], "float32")})
    assert [found["label"] for found in answer["x"]] == ["ant", "bee", "cat", "d\u2028og"]


@pytest.mark.parametrize(("dtype", "shape"), [("str", [-1, 4]), ("float32", [-1, 0])])
def test_what_has_no_classes(dtype: str, shape: list[int]) -> None:
    value = np.full([1, *shape[1:]], "a", object) if dtype == "str" else np.zeros([1, *shape[1:]], "float32")
    with (
        build({"x": {"dtype": dtype, "shape": shape}}, outputs={"classes": {}}) as pipeline,
        pytest.raises(ConfigError, match="`outputs.classes` needs scores"),
    ):
        pipeline.predict({"x": value})


def test_a_model_without_batch_gives_one_answer() -> None:
    with build({"x": {"dtype": "float32", "shape": [4]}}) as pipeline:
        [answer] = pipeline.predict({"x": np.zeros(4, "float32")})
    assert answer["x"].shape == (4,)
