"""Keras files: safe mode, and the names of inputs and outputs."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import deepseek
from deepseek.errors import ModelError, PlanError, UnsafeModelError
from tf_models import X, keras_file


def test_a_keras_file_gives_its_own_answer(tmp_path: Path) -> None:
    path = keras_file(tmp_path)
    right = keras.saving.load_model(path)(X).numpy()
    with deepseek.build({"model": {"source": path, "outputs": ["y"]}}) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=X)["y"], right, rtol=1e-5)


def test_a_keras_model_with_two_inputs_and_outputs(tmp_path: Path) -> None:
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    keras.Model([a, b], [keras.layers.Add(name="total")([a, b]), keras.layers.Multiply(name="product")([a, b])]).save(
        tmp_path / "m.keras"
    )
    with deepseek.build({"model": f"{tmp_path}/m.keras"}) as pipeline:
        answer = pipeline.run(a=X[:, :2], b=X[:, 2:])
    np.testing.assert_allclose(list(answer.values()), [X[:, :2] + X[:, 2:], X[:, :2] * X[:, 2:]], rtol=1e-5)


def test_a_stored_lambda_is_refused(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda t: t * 2)]).save(tmp_path / "evil.keras")
    with pytest.raises(UnsafeModelError, match=r"would run Python code that it stores\n  fix: replace Lambda"):
        deepseek.build({"model": f"{tmp_path}/evil.keras"})


def test_a_keras_model_that_was_never_built(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.Sequential([keras.layers.Dense(3)]).save(tmp_path / "m.keras")
    with pytest.raises(ModelError, match="saved before it was built"):
        deepseek.build({"model": f"{tmp_path}/m.keras"})


def test_the_old_keras_format_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "m.h5").touch()
    with pytest.raises(PlanError, match=r"old HDF5 format; save it again: model.save\('model.keras'\)"):
        deepseek.build({"model": f"{tmp_path}/m.h5"})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04garbage", b"garbage"])
def test_a_corrupt_keras_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(ModelError, match=r"m.keras: TensorFlow can't read it"):
        deepseek.build({"model": f"{tmp_path}/m.keras"})


@pytest.mark.parametrize("engine", ["tensorflow", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_outputs_have_the_keys_of_the_models_dictionary(tmp_path: Path, engine: str) -> None:
    x = keras.Input((4,), name="x")
    ones = keras.layers.Dense(2, kernel_initializer="ones", name="d1")(x)
    keras.Model(x, {"zeta": ones, "alpha": 2 * ones, "twice": [ones, ones]}).save(tmp_path / "m.keras")
    with deepseek.build({"model": f"{tmp_path}/m.keras", "engine": engine}) as pipeline:
        answer = pipeline.run(x=np.ones((1, 4), "float32"))
    assert {name: value[0, 0] for name, value in answer.items()} == {"zeta": 4, "alpha": 8, "twice_0": 4, "twice_1": 4}


def test_two_outputs_of_one_layer(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    layer = keras.layers.Dense(2, kernel_initializer="ones", name="d1")
    keras.Model(x, [layer(x), layer(2 * x)]).save(tmp_path / "m.keras")
    with deepseek.build({"model": f"{tmp_path}/m.keras"}) as pipeline:
        answer = pipeline.run(x=np.ones((1, 4), "float32"))
    assert {name: value[0, 0] for name, value in answer.items()} == {"output_0": 4, "output_1": 8}


@pytest.mark.parametrize(("wanted", "got"), [(["b"], {"b": 2}), (["one", "two"], {"one": 1, "two": 2})])
def test_outputs_are_chosen_or_named(tmp_path: Path, wanted: list[str], got: dict[str, int]) -> None:
    x = keras.Input((1,), name="x")
    keras.Model(x, {"a": 1 * x, "b": 2 * x}).save(tmp_path / "m.keras")
    with deepseek.build({"model": {"source": f"{tmp_path}/m.keras", "outputs": wanted}}) as pipeline:
        answer = pipeline.run(x=np.ones((1, 1), "float32"))
    assert {name: value.item() for name, value in answer.items()} == got
