"""The bad-input list over gRPC: a clear status for each, and the server serves on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from deepseek_serving.grpc import schema
from serving_pieces import Running

Request = schema.ModelInferRequest


@pytest.fixture
def infer(carried: Running) -> Iterator[Any]:
    with grpc.insecure_channel(carried.grpc) as channel:
        path = f"/{schema.SERVICE}/ModelInfer"
        ask = channel.unary_unary(path, Request.SerializeToString, schema.ModelInferResponse.FromString)
        yield ask
        assert ask(good()).outputs[0].shape == [1, 16]


def good(**changes: Any) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], **changes}
    return Request(model_name="float", inputs=[tensor], raw_input_contents=[bytes(64)])


def typed(model: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "contents": contents}
    return Request(model_name=model, inputs=[tensor])


def test_typed_contents(infer: Any) -> None:
    for model, kind, field, values in [
        ("float", "FP32", "fp32_contents", [float(n) for n in range(16)]), ("double", "FP64", "fp64_contents", [1.5, 2.5]),
        ("int64", "INT64", "int64_contents", [-(2**63), 2**63 - 1]), ("int8", "INT8", "int_contents", [-128, 127]),
        ("uint64", "UINT64", "uint64_contents", [0, 2**64 - 1]), ("bool", "BOOL", "bool_contents", [True, False]),
    ]:  # fmt: skip
        answer = infer(typed(model, kind, [1, len(values)], **{field: values}))
        array = np.frombuffer(answer.raw_output_contents[0], answer.outputs[0].datatype.lower().replace("fp", "float"))
        assert array.tolist() == values, kind


def with_two() -> Any:
    request = good()
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(bytes(64))
    return request


def both() -> Any:
    request = typed("float", "FP32", [1, 16], fp32_contents=[0.0] * 16)
    request.raw_input_contents.append(bytes(64))
    return request


def raws(*contents: bytes) -> Any:
    request = good()
    del request.raw_input_contents[:]
    request.raw_input_contents.extend(contents)
    return request


def parameter(**value: Any) -> Any:
    request = good()
    request.parameters["triton_secret"].string_param = "x"
    return request


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (good(datatype="FP31"), "no datatype"),
        (good(shape=[16]), "give it that shape"),
        (good(shape=[1, 15]), "needs 60 bytes, 64 came"),
        (good(shape=[-1, 16]), "negative dimension"),
        (good(shape=[2**40, 2**40]), "too many elements"),
        (good(name="z"), "no input `z`"),
        (good(datatype="INT32"), "the model takes x: float32"),
        (with_two(), "given twice"),
        (both(), "has contents, and the request raw contents"),
        (raws(), "needs 16 elements, 0 came"),
        (raws(bytes(64), bytes(64)), "1 inputs, but 2 raw contents"),
        (raws(bytes(63)), "needs 64 bytes"),
        (typed("float", "FP32", [1, 16], fp32_contents=[0.0] * 15), "needs 16 elements, 15 came"),
        (typed("float", "FP32", [1, 16], fp64_contents=[0.0] * 16), "belongs in fp32_contents"),
        (typed("int8", "INT8", [1, 2], int_contents=[128, 0]), "out of INT8's range"),
        (typed("half", "FP16", [1, 2], fp32_contents=[0.0] * 2), "raw_input_contents only"),
        (parameter(), "reserved"),
        (Request(model_name="float"), "is missing"),
    ],
)
def test_invalid_arguments(infer: Any, request_: Any, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()


def test_other_statuses(carried: Running, infer: Any) -> None:
    def status(call: Any, *arguments: Any) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as caught:
            call(*arguments)
        return caught.value.code()

    assert status(infer, Request(model_name="nobody")) is grpc.StatusCode.NOT_FOUND
    assert status(infer, Request(model_name="float", model_version="9")) is grpc.StatusCode.NOT_FOUND
    with grpc.insecure_channel(carried.grpc) as channel:
        other = channel.unary_unary(f"/{schema.SERVICE}/NoSuchCall")
        assert status(other, b"") is grpc.StatusCode.UNIMPLEMENTED
        raw = channel.unary_unary(f"/{schema.SERVICE}/ModelInfer")
        assert status(raw, b"\xff\xff\xff") in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
        big = channel.unary_unary(f"/{schema.SERVICE}/ModelInfer")
        assert status(big, bytes(65 << 20)) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_messages_are_what_the_proto_file_says(tmp_path: Any) -> None:
    from importlib.resources import files

    folder = files("deepseek_serving.grpc")
    made = tmp_path / "made.binpb"
    # In a process of its own: the compiler's library and those of the engines are not on good terms.
    compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={made}"]
    subprocess.run([*compiler, f"{folder}/open_inference.proto"], check=True)
    assert made.read_bytes() == folder.joinpath("open_inference.binpb").read_bytes(), "run `make proto`"
