"""TensorFlow through the pipeline: SavedModels, .keras files, and the conversion to ONNX."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.client import pywrap_tf_session as tf_session

import deepseek
from deepseek.errors import ConfigError, InputError, MissingLibraryError, ModelError, PlanError, UnsafeModelError
from deepseek.testing.contract import PluginContract
from deepseek_tensorflow.safety import SAVERS, is_refused

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


def test_a_stored_lambda_is_refused(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda t: t * 2)]).save(tmp_path / "evil.keras")
    with pytest.raises(UnsafeModelError, match=r"would run Python code that it stores\n  fix: replace Lambda"):
        deepseek.build({"model": f"{tmp_path}/evil.keras"})


def test_a_graph_that_reads_files_is_refused_unless_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("42")
    secret = str(tmp_path / "secret")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(x: Any) -> dict[str, Any]:
        return {"y": x + tf.strings.to_number(tf.io.read_file(secret))}

    tf.saved_model.save(tf.Module(), str(tmp_path / "spy"), signatures={"serving_default": serve})
    with pytest.raises(
        UnsafeModelError, match=r"its graph reaches files, hosts or Python \(ReadFile\)\n  fix: if you trust it"
    ):
        deepseek.build({"model": f"{tmp_path}/spy"})
    with deepseek.build({"model": f"{tmp_path}/spy", "tensorflow": {"file_operators": True}}) as pipeline:
        assert pipeline.run(x=np.zeros(1, "float32"))["y"] == [42]


def signature(folder: Path, function: Any, *specs: Any) -> str:
    """A SavedModel of one function."""
    serve = tf.function(function, input_signature=specs)
    tf.saved_model.save(tf.Module(), str(folder / "saved"), signatures={"serving_default": serve})
    return str(folder / "saved")


def prints_to_a_file(x: Any) -> dict[str, Any]:
    tf.print(x, output_stream="file:///tmp/never-written")
    return {"y": x}


def reads_a_table(x: Any) -> dict[str, Any]:
    return {"y": x + tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[1], memory_region_name="/etc/hostname")}


def saves(x: Any) -> dict[str, Any]:
    with tf.control_dependencies(
        [tf.raw_ops.SaveV2(prefix="never", tensor_names=["x"], shape_and_slices=[""], tensors=[x])]
    ):
        return {"y": tf.identity(x)}


def restores_in_a_branch(x: Any) -> dict[str, Any]:
    def read() -> Any:
        return tf.raw_ops.RestoreV2(prefix="secret", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])[0]

    return {"y": tf.cond(tf.reduce_sum(x) > 0, read, lambda: x)}


def hides_a_graph(x: Any) -> dict[str, Any]:
    return {"y": x, "z": tf.raw_ops.DatasetFromGraph(graph_def="")}


def aborts(x: Any) -> dict[str, Any]:
    with tf.control_dependencies([tf.raw_ops.Abort(error_msg="", exit_without_error=True)]):
        return {"y": tf.identity(x)}


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (hides_a_graph, "DatasetFromGraph"),
        (aborts, "Abort"),
        (prints_to_a_file, "PrintV2"),
        (reads_a_table, "ImmutableConst"),
        (saves, "SaveV2"),
        (restores_in_a_branch, "RestoreV2"),
    ],
)
def test_what_reaches_files_in_other_ways_is_refused(tmp_path: Path, function: Any, operator: str) -> None:
    path = signature(tmp_path, function, tf.TensorSpec([None], tf.float32, name="x"))
    with pytest.raises(UnsafeModelError, match=rf"reaches files, hosts or Python \({operator}\)"):
        deepseek.build({"model": path})


#: Words in the names of arguments of operators that may stand for something outside the graph ...
SUSPICIOUS = re.compile(
    "file|path|dir|pattern|stream|address|port|ur[il]|server|memory_region|prefix|token|region|data_source|descriptor|"
    "graph|proto|message|exit|handle_name|device_name|library"
)
#: ... and those of them, seen in TensorFlow 2.21, that don't.
HARMLESS = re.compile(
    "num_buckets|buckets?$|bucket_boundaries|bucketized|direction|stamp_token|ordering_token|num_streams|"
    "quantile_stream|top_paths|counter_prefix|sorted_token_ids|has_token|^pattern$|^rewrite$|is_files|support|report|"
    "transport|import|export|portion|^device_names$|error_message|use_proto|^message$|graph_topology|complexity|config_proto|compile_options"
)


def registry() -> Any:
    buffer = tf_session.TF_GetBuffer(tf_session.TF_GetAllOpList())
    return op_def_pb2.OpList.FromString(buffer).op


def test_every_operator_that_names_something_outside_is_refused() -> None:
    """A new version of TensorFlow may bring others: then they belong into one of the lists."""
    operators = [operator for operator in registry() if not is_refused(operator.name)]
    assert len(operators) > 1000
    unknown = {}
    for operator in operators:
        names = [item.name for item in (*operator.input_arg, *operator.attr)]
        found = [name for name in names if SUSPICIOUS.search(name.lower()) and not HARMLESS.search(name.lower())]
        if found and operator.name not in SAVERS:
            unknown[operator.name] = found
    assert unknown == {}


def test_what_models_are_made_of_is_not_refused() -> None:
    names = {operator.name for operator in registry()}
    for name in (
        "AnonymousHashTable", "AssignVariableOp", "BatchFunction", "Case", "Conv2D", "CudnnRNNV3", "HashTableV2", "If",
        "LookupTableFindV2", "MutableHashTableV2", "ParseExampleV2", "PartitionedCall", "Placeholder", "RandomUniform",
        "ReadVariableOp", "ResourceGather", "StatefulPartitionedCall", "StatelessWhile", "StaticRegexReplace",
        "TensorArrayV3", "TensorListReserve", "VarHandleOp", "While", "XlaCallModule",
    ):  # fmt: skip
        assert name in names
        assert not is_refused(name), name


def test_an_asset_outside_the_folder_is_refused(tmp_path: Path) -> None:
    path = Path(saved_model(tmp_path))
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph.meta_graphs[0].asset_file_def.add(filename="../../secret")
    (path / "saved_model.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(UnsafeModelError, match=r"\(the asset ../../secret\)"):
        deepseek.build({"model": str(path)})


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
