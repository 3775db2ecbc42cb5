"""SavedModels that would reach files, and those that only look like it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.client import pywrap_tf_session as tf_session

import deepseek
from deepseek.errors import UnsafeModelError
from deepseek_tensorflow.safety import SAVERS, is_refused
from tf_models import saved_model, signature


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


SUSPICIOUS = re.compile(
    "file|path|dir|pattern|stream|address|port|ur[il]|server|memory_region|prefix|token|region|data_source|descriptor|"
    "graph|proto|message|exit|handle_name|device_name|library"
)


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
