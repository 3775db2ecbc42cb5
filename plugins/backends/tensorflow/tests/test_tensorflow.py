"""TensorFlow through the pipeline: SavedModels, and the conversion to ONNX."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

import deepseek
from deepseek.errors import ConfigError, InputError, MissingLibraryError, ModelError
from deepseek.testing.contract import PluginContract
from tf_models import X, keras_file, saved_model, signature


class TestContract(PluginContract):
    plugin = "tensorflow"
    # TensorFlow keeps some of each loaded graph's bookkeeping for the life of the process.
    leak_bytes = 8 << 20
    bad_settings: ClassVar = [
        ({"tensorflow": {"threads": -2}}, "tensorflow.threads"),
        ({"tensorflow": {"signature": "no_such"}}, "tensorflow.signature"),
        # TensorFlow has started in this process; its threads can't change any more.
        ({"tensorflow": {"threads": 7}}, "tensorflow.threads"),
    ]

    def configuration(self, folder: Path) -> dict[str, Any]:
        # 16 MB of weights, so that a graph that is kept shows in the resident memory.
        layers = [keras.Input((4,), name="x"), keras.layers.Dense(500_000), keras.layers.Dense(3)]
        keras.Sequential(layers).export(folder / "wide", verbose=False)
        return {"model": str(folder / "wide")}


def test_a_saved_model_gives_its_own_answer(tmp_path: Path) -> None:
    path = saved_model(tmp_path)
    right = tf.saved_model.load(path).signatures["serving_default"](x=tf.constant(X))["y"].numpy()
    with deepseek.build({"model": path}) as pipeline:
        assert repr(pipeline) == "<Pipeline tensorflow on cpu: (x: float32[*, 4]) -> (y: float32[*, 3])>"
        np.testing.assert_allclose(pipeline.run(x=X)["y"], right, rtol=1e-5)
    with deepseek.build({"model": path, "tensorflow": {"signature": "double"}}) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=X)["y"], 2 * right, rtol=1e-5)


def test_xla(tmp_path: Path) -> None:
    path = saved_model(tmp_path)
    with (
        deepseek.build({"model": path}) as plain,
        deepseek.build({"model": path, "tensorflow": {"jit_compile": True}}) as fast,
    ):
        np.testing.assert_allclose(fast.run(x=X)["y"], plain.run(x=X)["y"], rtol=1e-5)
        assert fast.plan.to_dict()["execute"]["compiled"] == "XLA"


def test_a_batch_of_another_size_is_not_traced_again(tmp_path: Path) -> None:
    with deepseek.build({"model": saved_model(tmp_path)}) as pipeline:
        for rows in (1, 2, 3):
            assert pipeline.run(x=X[:rows])["y"].shape == (rows, 3)


def test_text_of_tensorflow_s_own(tmp_path: Path) -> None:
    path = signature(tmp_path, lambda x: {"y": tf.strings.upper(x)}, tf.TensorSpec([None], tf.string, name="x"))
    with deepseek.build({"model": path}) as pipeline:
        for text in (tf.constant(["a", "b"]), np.array(["a", "b"], object)):
            assert list(pipeline.run(x=text)["y"]) == ["A", "B"]


def test_bytes_that_are_no_text_stay_bytes_and_numbers_are_arrays(tmp_path: Path) -> None:
    def call(x: Any) -> dict[str, Any]:
        return {"raw": x, "one": tf.reduce_sum(tf.strings.length(x)), "joined": tf.strings.reduce_join(x)}

    with deepseek.build({"model": signature(tmp_path, call, tf.TensorSpec([None], tf.string, name="x"))}) as pipeline:
        answer = pipeline.run(x=np.array([b"\xff\xd8", "é".encode()], object))
        assert list(answer["raw"]) == [b"\xff\xd8", "é"]
        assert answer["one"].shape == answer["joined"].shape == ()
        assert answer["one"] == 4


def test_a_failure_while_it_computes_says_why(tmp_path: Path) -> None:
    path = signature(tmp_path, lambda x: {"y": tf.zeros(x)}, tf.TensorSpec([None], tf.int32, name="x"))
    with deepseek.build({"model": path}) as pipeline, pytest.raises(InputError, match="TensorFlow refuses.*-5"):
        pipeline.run(x=np.array([-5], "int32"))


def test_some_of_the_outputs(tmp_path: Path) -> None:
    path = signature(tmp_path, lambda x: {"a": x, "b": 2 * x, "c": 3 * x}, tf.TensorSpec([None], tf.float32, name="x"))
    x = np.ones(2, "float32")
    with deepseek.build({"model": {"source": path, "outputs": ["c", "a"]}}) as pipeline:
        assert {name: value.tolist() for name, value in pipeline.run(x=x).items()} == {"c": [3, 3], "a": [1, 1]}
    with pytest.raises(ConfigError, match="`model.outputs` names `d`, which the model does not have"):
        deepseek.build({"model": {"source": path, "outputs": ["d"]}})
    model = {"source": path, "outputs": ["b"]}
    with deepseek.build({"model": model, "engine": "onnxruntime"}) as converted:
        assert converted.run(x=x)["b"].tolist() == [2, 2]


def test_what_xla_can_not_compile_shows_in_the_build(tmp_path: Path) -> None:
    def where(x: Any) -> dict[str, Any]:
        return {"y": tf.strings.length(tf.strings.as_string(x))}

    path = signature(tmp_path, where, tf.TensorSpec([None], tf.float32, name="x"))
    with pytest.raises(
        ModelError, match=r"XLA can't compile this model: .*\n  fix: leave `tensorflow.jit_compile` out"
    ):
        deepseek.build({"model": path, "tensorflow": {"jit_compile": True}})


@pytest.mark.parametrize("spoil", ["graph", "weights"])
def test_a_corrupt_saved_model(tmp_path: Path, spoil: str) -> None:
    path = Path(saved_model(tmp_path))
    if spoil == "graph":
        (path / "saved_model.pb").write_bytes(b"\x00garbage")
    else:
        shutil.rmtree(path / "variables")
    with pytest.raises(ModelError, match="saved: TensorFlow can't read it"):
        deepseek.build({"model": str(path)})


def test_a_saved_model_as_text_whole_and_half_written(tmp_path: Path) -> None:
    path = Path(saved_model(tmp_path))
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    text = text_format.MessageToString(graph)
    (path / "saved_model.pb").unlink()
    (path / "saved_model.pbtxt").write_text(text)
    with deepseek.build({"model": str(path)}) as pipeline:
        assert pipeline.run(x=X)["y"].shape == (3, 3)
    for content, says in ((text[: len(text) // 2], "TensorFlow can't read it: [0-9]+:"), ("", "it holds no graph")):
        (path / "saved_model.pbtxt").write_text(content)
        with pytest.raises(ModelError, match=f"saved: {says}"):
            deepseek.build({"model": str(path)})


def test_sparse_inputs_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with deepseek.build({"model": saved_model(tmp_path)}) as pipeline:
        with pytest.raises(InputError, match="the input `x` is a SparseTensor, not a dense array"):
            pipeline.run(x=tf.sparse.from_dense(X))
        with pytest.raises(InputError, match="TensorFlow can't take the input `x`"):
            pipeline.run(x=torch.from_numpy(X).to_sparse())


def test_a_shape_that_only_the_graph_refuses(tmp_path: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.matmul(x, tf.ones((4, 2)))}

    tf.saved_model.save(tf.Module(), str(tmp_path / "any"), signatures={"serving_default": serve})
    with deepseek.build({"model": f"{tmp_path}/any"}) as pipeline:
        with pytest.raises(InputError, match="TensorFlow refuses the input"):
            pipeline.run(x=X[:, :3])
        assert pipeline.run(x=X)["y"].shape == (3, 2)


def test_arrays_of_other_libraries(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with deepseek.build({"model": saved_model(tmp_path)}) as pipeline:
        wanted = pipeline.run(x=X)["y"]
        for array in (torch.from_numpy(X), tf.constant(X)):
            np.testing.assert_allclose(pipeline.run(x=array)["y"], wanted)


def test_threads_that_come_too_late_are_a_config_error(tmp_path: Path) -> None:
    path = saved_model(tmp_path)
    with deepseek.build({"model": path}) as pipeline:
        pipeline.run(x=X)
    with pytest.raises(
        ConfigError, match=r"can't change once TensorFlow runs in this process\n  fix: give every pipeline"
    ):
        deepseek.build({"model": path, "tensorflow": {"inter_op_threads": 3}})


@pytest.mark.parametrize("write", [saved_model, keras_file])
def test_another_engine_gets_the_model_as_onnx(tmp_path: Path, write: Any) -> None:
    model = {"source": write(tmp_path), "outputs": ["y"]}
    with deepseek.build({"model": model}) as own, deepseek.build({"model": model, "engine": "onnxruntime"}) as other:
        np.testing.assert_allclose(other.run(x=X)["y"], own.run(x=X)["y"], atol=1e-5)
        assert other.signature.batched


def test_without_its_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"model": saved_model(tmp_path)}
    monkeypatch.setattr("deepseek.plugin.find_spec", lambda name: None if name == "tensorflow" else find_spec(name))
    with pytest.raises(
        MissingLibraryError,
        match=r"its library `tensorflow` is not installed: pip install 'deepseek-tensorflow\[cpu\]' or pip install 'deepseek-tensorflow\[gpu\]'",
    ):
        deepseek.build({**given, "engine": "tensorflow"})


def test_an_operator_that_can_not_be_converted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def lengths(x: Any) -> dict[str, Any]:
        return {"y": tf.strings.length(x)}

    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=lengths)
    capfd.readouterr()
    with pytest.raises(ModelError, match=r"tf2onnx can't convert this model: .*StringLength") as caught:
        deepseek.build({"model": str(tmp_path / "saved"), "engine": "onnxruntime"})
    assert "model.onnx" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_compiling_leaves_the_models_own_state_alone(tmp_path: Path) -> None:
    class Counts(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": x + self.calls.assign_add(1.0)}

    module = Counts()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.__call__)
    with deepseek.build({"model": str(tmp_path / "saved"), "tensorflow": {"jit_compile": True}}) as pipeline:
        assert [pipeline.run(x=np.zeros(1, "float32"))["y"].item() for _ in range(3)] == [1, 2, 3]
