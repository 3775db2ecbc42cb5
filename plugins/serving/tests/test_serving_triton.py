"""NVIDIA's client for the protocol, unmodified: over HTTP and gRPC, blocking, asynchronous and streaming."""

from __future__ import annotations

import asyncio
import queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from serving_pieces import Running, triton_client

X = np.arange(32, dtype=np.float32).reshape(2, 16)


@pytest.fixture(params=["http", "grpc", "grpc by grpcio"])
def triton(request: pytest.FixtureRequest, shared: Running, official: Running) -> Any:
    """The client's module, and a client."""
    module = triton_http if request.param == "http" else triton_grpc
    address = {"http": shared.address, "grpc": shared.grpc, "grpc by grpcio": official.grpc}[request.param]
    with triton_client(module, address) as client:
        yield module, client


def given(module: Any, array: np.ndarray, datatype: str, name: str = "x", **more: Any) -> Any:
    tensor = module.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, **more)
    return tensor


@pytest.mark.parametrize(
    ("model", "datatype", "array"),
    [
        ("float", "FP32", X),
        ("half", "FP16", np.array([[1.5, -2]], np.float16)),
        ("double", "FP64", np.array([[1e300, -2]])),
        ("bool", "BOOL", np.array([[True, False], [False, True]])),
        ("int8", "INT8", np.array([[-128, 127]], np.int8)),
        ("int64", "INT64", np.array([[-(2**63), 2**63 - 1]])),
        ("uint64", "UINT64", np.array([[0, 2**64 - 1]], np.uint64)),
        ("text", "BYTES", np.array([["grüße", ""]], object)),
        ("float", "FP32", X[:0]),
    ],
)
def test_every_kind_of_tensor_comes_back(triton: Any, model: str, datatype: str, array: np.ndarray) -> None:
    module, client = triton
    answer = client.infer(model, [given(module, array, datatype)], request_id="seven").as_numpy("y")
    if datatype == "BYTES":
        answer = np.vectorize(lambda item: item.decode(), otypes=[object])(answer)
    # Of an empty tensor the HTTP client does not keep the type.
    assert answer.dtype == array.dtype or not array.size
    np.testing.assert_array_equal(answer, array)


def test_an_image_of_600_kilobytes_comes_back(triton: Any) -> None:
    module, client = triton
    image = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    np.testing.assert_array_equal(client.infer("image", [given(module, image, "FP32")]).as_numpy("y"), image)


def test_json_tensors_and_classification(shared: Running) -> None:
    with triton_client(triton_http, shared.address) as client:
        wanted = triton_http.InferRequestedOutput("y", binary_data=False)
        answer = client.infer("float", [given(triton_http, X, "FP32", binary_data=False)], outputs=[wanted])
        np.testing.assert_array_equal(answer.as_numpy("y"), X)


def test_the_best_classes(triton: Any) -> None:
    module, client = triton
    wanted = module.InferRequestedOutput("y", class_count=2)
    answer = client.infer("float", [given(module, X, "FP32")], outputs=[wanted]).as_numpy("y")
    assert answer.shape == (2, 2)
    assert [float(item.split(b":")[0]) for item in answer[1]] == [31, 30]
    assert [int(item.split(b":")[1]) for item in answer[1]] == [15, 14]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed(shared: Running, algorithm: str) -> None:
    big = np.zeros((64, 16), np.float32)
    with triton_client(triton_http, shared.address) as client:
        answer = client.infer(
            "float", [given(triton_http, big, "FP32")],
            request_compression_algorithm=algorithm, response_compression_algorithm=algorithm,
        )  # fmt: skip
    np.testing.assert_array_equal(answer.as_numpy("y"), big)


def test_what_the_server_tells_of_itself(triton: Any) -> None:
    module, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("float")
    assert client.is_model_ready("float", "1")
    as_json = {"as_json": True} if module is triton_grpc else {}
    about = client.get_server_metadata(**as_json)
    assert about["name"] == "deepseek"
    assert {
        "binary_tensor_data", "classification", "generate", "logging", "model_configuration", "model_repository",
        "schedule_policy", "sequence", "statistics", "system_shared_memory", "trace",
    } == set(about["extensions"])  # fmt: skip
    model = client.get_model_metadata("float", **as_json)
    assert model["platform"] == "onnxruntime_onnx"
    assert model["inputs"][0]["datatype"] == "FP32"
    assert [int(size) for size in model["inputs"][0]["shape"]] == [-1, 16]
    config = client.get_model_config("float", **as_json)
    config = config.get("config", config)
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    rows = client.get_model_repository_index(**as_json)
    rows = rows["models"] if module is triton_grpc else rows
    assert {"name": "float", "version": "1", "state": "READY"}.items() <= next(
        r for r in rows if r["name"] == "float"
    ).items()
    assert client.get_log_settings(**as_json)
    assert client.get_trace_settings(**as_json)


def test_statistics_count_rows_and_batches(triton: Any) -> None:
    module, client = triton
    as_json = {"as_json": True} if module is triton_grpc else {}

    def counted() -> tuple[int, int, int]:
        [stats] = client.get_inference_statistics("double", **as_json)["model_stats"]
        success = stats["inference_stats"]["success"].get("count", 0)
        return int(stats.get("inference_count", 0)), int(stats.get("execution_count", 0)), int(success)

    before = counted()
    client.infer("double", [given(module, np.ones((5, 2)), "FP64")])
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [5, 1, 1]


def test_what_is_unknown_is_said(triton: Any) -> None:
    module, client = triton
    with pytest.raises(InferenceServerException, match="there is no model `nobody`"):
        client.infer("nobody", [given(module, X, "FP32")])
    with pytest.raises(InferenceServerException, match="no version `7`"):
        client.infer("float", [given(module, X, "FP32")], model_version="7")


def test_administration_is_off_unless_allowed(triton: Any) -> None:
    _, client = triton
    for call in (lambda: client.load_model("float"), lambda: client.unload_model("float"),
                 lambda: client.register_system_shared_memory("a", "/a", 64), client.get_system_shared_memory_status):  # fmt: skip
        with pytest.raises(InferenceServerException, match="not allowed"):
            call()
    with pytest.raises(InferenceServerException, match="not allowed"):
        client.update_log_settings({"log_info": False})


def test_asynchronous_clients(shared: Running, official: Running) -> None:
    async def ask(module: Any, address: str) -> np.ndarray:
        async with module.InferenceServerClient(address) as client:
            tensors = [given(module, X, "FP32")]
            answers = await asyncio.gather(*(client.infer("float", tensors) for _ in range(20)))
            return np.stack([answer.as_numpy("y") for answer in answers])

    roads = (triton_http_aio, shared.address), (triton_grpc_aio, shared.grpc), (triton_grpc_aio, official.grpc)
    for module, address in roads:
        np.testing.assert_array_equal(asyncio.run(ask(module, address)), np.stack([X] * 20))


def test_a_stream_of_requests_and_of_chunks(carried: Running) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    row = np.ones((1, 4), np.float32)
    with triton_client(triton_grpc, carried.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("many", [given(triton_grpc, row, "FP32")], request_id="a")
        chunks = [answers.get(timeout=30) for _ in range(3)]
        client.async_stream_infer("nobody", [given(triton_grpc, row, "FP32")], request_id="b")
        _, error = answers.get(timeout=30)
        client.stop_stream()
    assert [float(result.as_numpy("y")[0, 0]) for result, _ in chunks] == [1, 2, 3]
    assert [result.get_response().id for result, _ in chunks] == ["a"] * 3
    last = [result.get_response().parameters["triton_final_response"].bool_param for result, _ in chunks]
    assert last == [False, False, True]
    assert "no model `nobody`" in str(error)


def test_an_answer_in_chunks_needs_a_stream(triton: Any) -> None:
    module, client = triton
    with pytest.raises(InferenceServerException, match="several parts"):
        client.infer("many", [given(module, np.ones((1, 4), np.float32), "FP32")])
