"""TensorFlow on a CUDA card. Skipped where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import deepseek
from deepseek.errors import ConfigError
from deepseek.testing.contract import PluginContract

if not tf.config.list_physical_devices("GPU"):
    pytest.skip("needs a CUDA card, and TensorFlow for it", allow_module_level=True)
# The tests write models with TensorFlow first; it would take the whole card for that.
for card in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(card, True)

#: Builds a pipeline in a process of its own and prints how much of the card's memory that took.
MEASURE = """
import json, subprocess, sys
import numpy as np
import deepseek

def used():
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])

before = used()
config = json.loads(sys.argv[1])
with deepseek.build(config) as pipeline:
    pipeline.run(x=np.zeros((1, 4), "float32"))
    print(used() - before)
"""


def saved_model(folder: Path) -> str:
    """y = x W, float32[batch, 4] -> float32[batch, 3], W a variable."""
    module = tf.Module()
    with tf.device("/CPU:0"):
        module.w = tf.Variable(np.arange(12, dtype="float32").reshape(4, 3))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.reduce_sum(x[:, :, None] * module.w, 1)}

    tf.saved_model.save(module, str(folder / "saved"), signatures={"serving_default": serve})
    return str(folder / "saved")


def config(folder: Path, device: str = "cuda:0", **settings: Any) -> dict[str, Any]:
    return {"model": saved_model(folder), "device": device, "engine": "tensorflow", "tensorflow": settings}


class TestContractOnCuda(PluginContract):
    plugin = "tensorflow"
    bad_settings = (({"tensorflow": {"memory_growth": "a little"}}, "tensorflow.memory_growth"),)
    leak_bytes = 16 << 20

    def configuration(self, folder: Path) -> dict[str, Any]:
        return config(folder)


def places(pipeline: deepseek.Pipeline) -> set[str]:
    """``CPU`` or ``GPU``, of each of the model's variables."""
    return {variable.device.split(":")[-2] for variable in pipeline.executor._function.variables}


@pytest.mark.parametrize(("device", "place"), [("cpu", "CPU"), ("cuda:0", "GPU")])
def test_weights_are_where_the_pipeline_runs(tmp_path: Path, device: str, place: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    with deepseek.build(config(tmp_path, device)) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=x)["y"], x @ np.arange(12).reshape(4, 3), rtol=1e-4, atol=1e-4)
        assert places(pipeline) == {place}


def test_tensors_of_tensorflow_s_own_on_the_card(tmp_path: Path) -> None:
    with deepseek.build(config(tmp_path)) as pipeline, tf.device("/GPU:0"):
        x = tf.constant(np.random.default_rng(0).standard_normal((5, 4)).astype("float32"))
        np.testing.assert_allclose(pipeline.run(x=x)["y"], pipeline.run(x=x.numpy())["y"])


def test_the_plan_knows_the_card(tmp_path: Path) -> None:
    plan = deepseek.explain(config(tmp_path)).to_dict()
    assert plan["device"]["name"] == "cuda:0"
    assert "GPU:0" in plan["device"]["tensorflow"]


def mebibytes(folder: Path, *, memory_growth: bool) -> int:
    given = json.dumps(config(folder, memory_growth=memory_growth))
    done = subprocess.run([sys.executable, "-c", MEASURE, given], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def test_a_growth_that_comes_too_late_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`tensorflow.memory_growth` can't change once TensorFlow runs"):
        deepseek.build(config(tmp_path, memory_growth=False))


def test_memory_grows_as_it_is_needed(tmp_path: Path) -> None:
    assert mebibytes(tmp_path, memory_growth=True) < 4096
    assert mebibytes(tmp_path, memory_growth=False) > 16384
