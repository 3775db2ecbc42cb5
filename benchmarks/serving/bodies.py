"""The models and requests of the serving benchmark, and what the answers must be."""

from __future__ import annotations

import itertools
import json
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from deepseek_serving.grpc import schema

#: An MLP of about 5 ms a row on one core: 784 -> 2944 x 4 -> 10, ReLU between, weights of a fixed seed.
WIDTHS = (784, 2944, 2944, 2944, 2944, 10)
Array = np.ndarray[Any, Any]


def make_mlp(path: Path) -> None:
    """Write the MLP, which all servers serve."""
    chance = np.random.default_rng(20261124)
    nodes, weights, value = [], [], "INPUT0"
    for index, (rows, columns) in enumerate(itertools.pairwise(WIDTHS)):
        matrix = chance.standard_normal((rows, columns), dtype=np.float32) * np.float32((2.0 / rows) ** 0.5)
        weights += [numpy_helper.from_array(matrix, f"w{index}")]
        last = index == len(WIDTHS) - 2
        made = "OUTPUT0" if last else f"h{index}"
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [made]))
        if not last:
            value = f"r{index}"
            nodes.append(helper.make_node("Relu", [made], [value]))
    _save(path, nodes, ["batch", WIDTHS[0]], ["batch", WIDTHS[-1]], weights)


def make_identity(path: Path, shape: list[Any]) -> None:
    """Write a model that gives its input back."""
    _save(path, [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])], shape, shape, [])


def _save(path: Path, nodes: list[Any], takes: list[Any], gives: list[Any], weights: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = helper.make_tensor_value_info("INPUT0", TensorProto.FLOAT, takes)
    y = helper.make_tensor_value_info("OUTPUT0", TensorProto.FLOAT, gives)
    graph = helper.make_graph(nodes, path.stem, [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def inputs() -> dict[str, Array]:
    """What each model is asked."""
    chance = np.random.default_rng(7)
    return {
        "identity": (np.arange(16, dtype=np.float32) / 10).reshape(1, 16),
        "image": chance.standard_normal((1, 3, 224, 224), dtype=np.float32),
        "mlp": chance.standard_normal((1, 784), dtype=np.float32).round(3),
    }


def write(folder: Path) -> None:
    """Every request as a file: JSON, binary tensors, LitServe's JSON, and gRPC's messages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, x in inputs().items():
        data = [float(str(value)) for value in x.ravel()]
        tensor = {"name": "INPUT0", "shape": list(x.shape), "datatype": "FP32"}
        _json(folder / f"{name}.v2.json", {"inputs": [{**tensor, "data": data}]})
        _json(folder / f"{name}.lit.json", {"input": np.array(data).reshape(x.shape[1:]).tolist()})
        request = {
            "inputs": [{**tensor, "parameters": {"binary_data_size": x.nbytes}}],
            "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
        }
        top = json.dumps(request, separators=(",", ":")).encode()
        (folder / f"{name}.v2.bin").write_bytes(top + x.tobytes())
        (folder / f"{name}.hdrlen").write_text(str(len(top)))


def write_grpc(folder: Path, name: str, model: str) -> Path:
    """A request over gRPC as it travels: a prefix of five bytes, and the message."""
    content = _message(name, model).SerializeToString()
    path = folder / f"{name}.{model}.grpc"
    path.write_bytes(b"\0" + len(content).to_bytes(4, "big") + content)
    return path


def _message(name: str, model: str) -> Any:
    x = inputs()[name]
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": x.shape}
    return schema.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[x.tobytes()])


def _json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")))


def expected(name: str, mlp: Path) -> Array:
    """What a model answers: the identity's input, or what the bare engine makes of it."""
    x = inputs()[name]
    if name != "mlp":
        return x
    return onnxruntime.InferenceSession(mlp, providers=["CPUExecutionProvider"]).run(None, {"INPUT0": x})[0]


def answer(kind: str, folder: Path, name: str, model: str, port: int) -> Array:
    """What a server answers to the request of a kind."""
    if kind == "grpc":
        with grpc.insecure_channel(f"127.0.0.1:{port + 1}") as channel:
            path = f"/{schema.SERVICE}/ModelInfer"
            call = channel.unary_unary(
                path, schema.ModelInferRequest.SerializeToString, schema.ModelInferResponse.FromString
            )
            got = call(_message(name, model), wait_for_ready=True, timeout=60)
        return np.frombuffer(got.raw_output_contents[0], np.float32).reshape(got.outputs[0].shape)
    if kind == "lit":
        body, _ = _post(
            f"http://127.0.0.1:{port}/predict",
            (folder / f"{name}.lit.json").read_bytes(),
            {"Content-Type": "application/json"},
        )
        return np.array(json.loads(body)["output"], np.float32)[None]
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    if kind == "json":
        body, _ = _post(url, (folder / f"{name}.v2.json").read_bytes(), {"Content-Type": "application/json"})
        tensor = json.loads(body)["outputs"][0]
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    header = {"Inference-Header-Content-Length": (folder / f"{name}.hdrlen").read_text()}
    body, headers = _post(url, (folder / f"{name}.v2.bin").read_bytes(), header)
    length = int(headers["Inference-Header-Content-Length"])
    tensor = json.loads(body[:length])["outputs"][0]
    return np.frombuffer(body[length:], np.float32).reshape(tensor["shape"])


def _post(url: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        return answer.read(), answer.headers
