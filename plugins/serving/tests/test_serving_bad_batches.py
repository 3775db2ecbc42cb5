"""The lines of the bad-input list that need models of their own: batches, texts, models that are not ready."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper, save

from deepseek_serving.grpc import schema
from serving_pieces import Running, serving, write_models


@pytest.fixture(scope="module", params=["native", "grpcio"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("batches")
    write_models(folder, {
        "four": {"onnx": {"shape": [4, 2]}}, "text": {"onnx": {"datatype": "STRING", "shape": ["batch", 1]}},
        "broken": "broken",
    })  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xzy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "z"], ["y"])], "sum", ends[:2], ends[2:])
    (folder / "sum").mkdir()
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "sum/model.onnx"
    )
    (folder / "sum/pipeline.yaml").write_text(yaml.safe_dump({"model": "model.onnx"}))
    with serving(folder, grpc={"port": 0, "carrier": request.param}) as running:
        yield running


def rows(name: str, count: int) -> dict[str, Any]:
    return {"name": name, "shape": [count, 2], "datatype": "FP32", "raw": np.ones((count, 2), np.float32).tobytes()}


def by_http(running: Running, model: str, inputs: list[dict[str, Any]]) -> tuple[int, str]:
    top = {
        "inputs": [
            {**{key: item[key] for key in ("name", "shape", "datatype")},
             "parameters": {"binary_data_size": len(item["raw"])}}
            for item in inputs
        ]
    }  # fmt: skip
    head = json.dumps(top).encode()
    answer = running.http.post(
        f"/v2/models/{model}/infer", content=head + b"".join(item["raw"] for item in inputs),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )  # fmt: skip
    return answer.status_code, answer.text


def by_grpc(running: Running, model: str, inputs: list[dict[str, Any]]) -> tuple[grpc.StatusCode, str]:
    request = schema.ModelInferRequest(model_name=model)
    for item in inputs:
        request.inputs.add(name=item["name"], datatype=item["datatype"], shape=item["shape"])
        request.raw_input_contents.append(item["raw"])
    with grpc.insecure_channel(running.grpc) as channel:
        ask = channel.unary_unary(
            f"/{schema.SERVICE}/ModelInfer", schema.ModelInferRequest.SerializeToString,
            schema.ModelInferResponse.FromString,
        )  # fmt: skip
        try:
            ask(request)
        except grpc.RpcError as error:
            return error.code(), str(error.details())
    return grpc.StatusCode.OK, ""


def text(raw: bytes) -> list[dict[str, Any]]:
    return [{"name": "x", "shape": [1, 1], "datatype": "BYTES", "raw": raw}]


@pytest.mark.parametrize(
    ("model", "inputs", "status", "code", "words"),
    [
        ("sum", [rows("x", 3), rows("z", 3)], 200, "OK", ""),
        ("sum", [rows("x", 3), rows("z", 2)], 400, "INVALID_ARGUMENT", "differ in batch size"),
        ("sum", [rows("x", 3)], 400, "INVALID_ARGUMENT", "`z` is missing"),
        ("sum", [rows("x", 1), rows("z", 1), rows("w", 1)], 400, "INVALID_ARGUMENT", "no input `w`"),
        ("sum", [rows("x", 1), rows("z", 1), rows("x", 1)], 400, "INVALID_ARGUMENT", "given twice"),
        ("four", [rows("x", 4)], 200, "OK", ""),
        ("four", [rows("x", 5)], 400, "INVALID_ARGUMENT", "the model takes x: float32[4, 2]"),
        ("text", text(b"\x02\0\0\0ab"), 200, "OK", ""),
        ("text", text(b"\x09\0\0\0ab"), 400, "INVALID_ARGUMENT", "in the middle of element 0"),
        ("text", text(b"\x02\0\0"), 400, "INVALID_ARGUMENT", "in the middle of element 0"),
        ("broken", [rows("x", 1)], 503, "UNAVAILABLE", "could not be loaded"),
    ],
)  # fmt: skip
def test_over_both_protocols(
    running: Running, model: str, inputs: list[dict[str, Any]], status: int, code: str, words: str
) -> None:
    # Twice: what was learnt of a request must not let the next one through.
    for _ in range(2):
        found, said = by_http(running, model, inputs)
        assert (found, words in said) == (status, True), said
        called, told = by_grpc(running, model, inputs)
        assert (called.name, words in told) == (code, True), told
