"""What many tests share: a server, and a folder of models with codecs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from serving_fleet import Workers
from serving_pieces import Running, serving, write_models
from serving_puppets import works


@pytest.fixture(scope="session")
def shared_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that change nothing and are changed by nobody: `echo` (a puppet), and ONNX identities."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder, {
        "echo": "", "many": {"puppet": {"chunks": 3}},
        "float": {"onnx": {}}, "image": {"onnx": {"shape": ["batch", 3, 224, 224]}},
        "text": {"onnx": {"datatype": "STRING", "shape": ["batch", 2]}},
        "bool": {"onnx": {"datatype": "BOOL", "shape": ["batch", 2]}},
        "half": {"onnx": {"datatype": "FLOAT16", "shape": ["batch", 2]}},
        "int64": {"onnx": {"datatype": "INT64", "shape": ["batch", 2]}},
        "int8": {"onnx": {"datatype": "INT8", "shape": ["batch", 2]}},
        "uint64": {"onnx": {"datatype": "UINT64", "shape": ["batch", 2]}},
        "double": {"onnx": {"datatype": "DOUBLE", "shape": ["batch", 2]}},
    })  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def shared(shared_models: Path) -> Iterator[Running]:
    """A server of these models."""
    with serving(shared_models) as running:
        yield running


@pytest.fixture(scope="session")
def official(shared_models: Path) -> Iterator[Running]:
    """The same, whose gRPC is carried by the official library."""
    with serving(shared_models, grpc={"port": 0, "carrier": "grpcio"}) as running:
        yield running


@pytest.fixture(scope="session", params=["native", "grpcio"])
def carried(request: pytest.FixtureRequest) -> Running:
    """Both, one after the other."""
    found: Running = request.getfixturevalue("shared" if request.param == "native" else "official")
    return found


@pytest.fixture(autouse=True)
def _no_works() -> Iterator[None]:
    yield
    works.clear()


@pytest.fixture(scope="session")
def coded_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of pictures and an embedder of texts, both tiny."""
    folder = tmp_path_factory.mktemp("coded")
    pixels = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["a"]), helper.make_node("Flatten", ["a"], ["logits"])]
    _save(folder / "color.onnx", nodes, pixels, logits)
    (folder / "color.yaml").write_text(
        "model: color.onnx\ninputs: {image: {crop: 8, scale: 255}}\n"
        "outputs: {classes: {labels: colors.txt, top_k: 1}}\n"
    )
    (folder / "colors.txt").write_text("red\ngreen\nblue\n")
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    vectors = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", 4])
    initial = helper.make_tensor("table", TensorProto.FLOAT, [3, 4], np.arange(12, dtype=np.float32))
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    _save(folder / "embed.onnx", nodes, ids, vectors, initial)
    (folder / "embed.yaml").write_text(
        "model: embed.onnx\ninputs: {text: {tokenizer: tokenizer.json}}\noutputs: {embedding: {normalize: false}}\n"
    )
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "hello": 1, "world": 2}, "unk_token": "[UNK]"}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def _save(path: Path, nodes: Any, x: Any, y: Any, *initial: Any) -> None:
    graph = helper.make_graph(nodes, "g", [x], [y], list(initial))
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    running = Workers(tmp_path, "--set", "server.allow=[load]")
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.communicate(timeout=30)
