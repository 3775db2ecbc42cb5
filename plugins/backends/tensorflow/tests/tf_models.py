"""One small network in each of TensorFlow's formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

X = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")


def network() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])


def keras_file(folder: Path) -> str:
    network().save(folder / "m.keras")
    return str(folder / "m.keras")


def saved_model(folder: Path) -> str:
    model = network()

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def serve(x: Any) -> dict[str, Any]:
        return {"y": model(x)}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def double(x: Any) -> dict[str, Any]:
        return {"y": 2.0 * model(x)}

    module = tf.Module()
    module.model = model
    tf.saved_model.save(module, str(folder / "saved"), signatures={"serving_default": serve, "double": double})
    return str(folder / "saved")


def signature(folder: Path, function: Any, *specs: Any) -> str:
    """A SavedModel of one function."""
    serve = tf.function(function, input_signature=specs)
    tf.saved_model.save(tf.Module(), str(folder / "saved"), signatures={"serving_default": serve})
    return str(folder / "saved")
