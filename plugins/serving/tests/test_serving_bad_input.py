"""The bad-input list of the protocol: every line gets a clear error over HTTP, and the server serves on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving_pieces import Running, body

GOOD = body([1, 16], [1.0] * 16)


@pytest.fixture(autouse=True)
def _serves_on(shared: Running) -> Iterator[None]:
    yield
    answer = shared.http.post("/v2/models/float/infer", content=GOOD)
    assert answer.status_code == 200, answer.text


def post(shared: Running, content: bytes, model: str = "float", **headers: str) -> tuple[int, str]:
    answer = shared.http.post(f"/v2/models/{model}/infer", content=content, headers=headers)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json().get("error", "")


def tensor(**changes: Any) -> bytes:
    """The good request with changes to its only input."""
    request = json.loads(GOOD)
    request["inputs"][0].update(changes)
    return json.dumps(request).encode()


def request(**changes: Any) -> bytes:
    return json.dumps({**json.loads(GOOD), **changes}).encode()


X = json.loads(GOOD)["inputs"][0]
DEEP = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + b"[" * 5000 + b"]" * 5000 + b"}]}"

#: content -> what the error says. All of them are 400.
WRONG: dict[str, tuple[bytes, str]] = {
    "empty body": (b"", "not JSON"),
    "not JSON": (b"{", "not JSON"),
    "not an object": (b"[]", "Expected `object`"),
    "not UTF-8": (b'{"inputs":"\xff"}', "not"),
    "no inputs": (b"{}", "missing required field `inputs`"),
    "nested 5000 deep": (DEEP, "more than 100 deep"),
    "nested 101 deep, where nobody looks": (
        GOOD[:-1] + b',"more":' + b"[" * 100 + b"]" * 100 + b"}", "more than 100 deep",
    ),
    "5000 lists that do not end, where nobody looks": (GOOD[:-1] + b',"more":' + b"[" * 5000, "100 deep"),
    "many lists for one element": (tensor(shape=[1], data=[[]] * 1000), "1000 lists"),
    "more inputs than any model has": (
        b'{"inputs":[' + b",".join([b'{"name":"x","shape":[1],"datatype":"FP32","data":[1]}'] * 1025) + b"]}",
        "more than 1024 inputs",
    ),
    "nested 150 deep": (tensor(data=json.loads("[" * 150 + "1" + "]" * 150)), "more than 100 deep"),
    "NaN": (GOOD.replace(b"1.0", b"NaN", 1), "not JSON"),
    "Infinity": (GOOD.replace(b"1.0", b"Infinity", 1), "not JSON"),
    "a number beyond FP32": (tensor(data=[1e39] * 16), "out of FP32's range"),
    "unknown datatype": (tensor(datatype="FP31"), "no datatype `FP31`"),
    "wrong datatype": (tensor(datatype="INT32", data=[1] * 16), "the model takes x: float32"),
    "fractions for whole numbers": (tensor(datatype="INT32"), "whole numbers"),
    "texts for numbers": (tensor(data=["1"] * 16), "given as numbers"),
    "nothing for numbers": (tensor(data=[None] * 16), "given as numbers"),
    "objects for numbers": (tensor(data=[{}] * 16), "given as numbers"),
    "ragged lists": (tensor(data=[[1, 2], [3]]), "no tensor"),
    "data that is no list": (tensor(data=7), "must be a list"),
    "FP16 as JSON": (tensor(datatype="FP16"), "binary form only"),
    "wrong rank": (tensor(shape=[16]), "give it that shape"),
    "wrong shape": (tensor(shape=[2, 8]), "give it that shape"),
    "too few elements": (tensor(data=[1.0] * 15), "needs 16 elements, 15 came"),
    "too many elements": (tensor(data=[1.0] * 17), "needs 16 elements, 17 came"),
    "negative dimension": (tensor(shape=[-1, -16]), "negative dimension"),
    "a product that overflows": (tensor(shape=[2**40, 2**40]), "too many elements"),
    "more dimensions than an array has": (tensor(shape=[1] * 65), "more than 32"),
    "nothing of very much": (tensor(shape=[0, 2**62], data=[]), "too many elements"),
    "a timeout beyond any": (request(parameters={"timeout": 10**400}), "`timeout`"),
    "a long text for a number": (tensor(data=["x" * 1000000] + [""] * 15), "given as numbers"),
    "a dimension beyond 64 bits": (tensor(shape=[2**70, 1]), "too many elements"),
    "missing input": (request(inputs=[]), "the input `x` is missing"),
    "extra input": (request(inputs=[X, {**X, "name": "z"}]), "no input `z`"),
    "duplicate input": (request(inputs=[X, X]), "given twice"),
    "no data": (request(inputs=[{"name": "x", "shape": [1, 16], "datatype": "FP32"}]), "has no data"),
    "unknown output": (request(outputs=[{"name": "z"}]), "no output `z`"),
    "reserved parameter": (request(parameters={"triton_x": 1}), "reserved"),
    "parameter that is a list": (request(parameters={"a": [1]}), "not as the protocol has it"),
    "negative priority": (request(parameters={"priority": -1}), "`priority`"),
    "timeout that is a word": (request(parameters={"timeout": "soon"}), "`timeout`"),
    "sequence that has not begun": (request(parameters={"sequence_id": 77}), "no sequence 77"),
    "classification that is negative": (request(outputs=[{"name": "y", "parameters": {"classification": -1}}]), "classif"),
    "binary_data that is a number": (request(outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), "binary_data"),
    "shared memory that is not allowed": (
        tensor(data=None) and request(inputs=[{k: v for k, v in X.items() if k != "data"}
                                              | {"parameters": {"shared_memory_region": "a"}}]), "not allowed"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_is_told_why(shared: Running, what: str) -> None:
    content, why = WRONG[what]
    status, error = post(shared, content)
    assert (status, why in error) == (400, True), error


@pytest.mark.parametrize(
    ("model", "kind", "data", "why"),
    [
        ("int8", "INT8", [128, 0], "out of INT8's range"),
        ("uint64", "UINT64", [-1, 0], "out of UINT64's range"),
        ("int64", "INT64", [2**63, 0], "out of INT64's range"),
        ("bool", "BOOL", [0, 1], "true and false"),
        ("text", "BYTES", [1, 2], "given as texts"),
    ],
)
def test_values_out_of_a_datatypes_range(shared: Running, model: str, kind: str, data: list[Any], why: str) -> None:
    status, error = post(shared, body([1, 2], data, kind), model)
    assert status == 400
    assert why in error


def binary(size: Any = 64, tail: bytes = bytes(64), datatype: str = "FP32", shape: Any = (1, 16), **more: Any) -> Any:
    given = {"name": "x", "shape": list(shape), "datatype": datatype, "parameters": {"binary_data_size": size}, **more}
    top = json.dumps({"inputs": [given]}).encode()
    return top + tail, {"Inference-Header-Content-Length": str(len(top))}


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (binary(size=63, tail=bytes(63)), "needs 64 bytes, 63 came"),
        (binary(size=65), "claims 65 bytes, 64 came"),
        (binary(tail=bytes(65)), "1 bytes follow"),
        (binary(size=-1), "number of bytes"),
        (binary(size="64"), "number of bytes"),
        (binary(size=True), "number of bytes"),
        (binary(data=[1.0] * 16), "both data and binary data"),
        (binary(shape=[2**40, 2**40]), "too many elements"),
        (binary(size=6, tail=b"\x05\0\0\0ab", datatype="BYTES", shape=[1, 1]), "middle of element 0"),
        (binary(size=3, tail=b"\x05\0\0", datatype="BYTES", shape=[1, 1]), "middle of element 0"),
        (binary(size=6, tail=b"\x02\0\0\0ab", datatype="BYTES", shape=[1, 2]), "needs 2 elements, 1 came"),
    ],
)
def test_binary_tensors_that_are_not_what_they_claim(shared: Running, made: Any, why: str) -> None:
    content, headers = made
    status, error = post(shared, content, **headers)
    assert status == 400
    assert why in error


@pytest.mark.parametrize("length", ["9999", "-1", "x", "1e3", "5"])
def test_a_wrong_header_length(shared: Running, length: str) -> None:
    status, error = post(shared, binary()[0], **{"Inference-Header-Content-Length": length})
    assert status == 400
    assert error


def test_a_raw_body(shared: Running) -> None:
    array = np.arange(32, dtype=np.float32)
    answer = shared.http.post(
        "/v2/models/float/infer", content=array.tobytes(), headers={"Inference-Header-Content-Length": "0"}
    )
    assert answer.status_code == 200
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["shape"] == [2, 16]
    assert answer.content[length:] == array.tobytes()
    assert post(shared, bytes(65), **{"Inference-Header-Content-Length": "0"})[0] == 400


@pytest.mark.parametrize(
    ("encoding", "content", "status"),
    [
        ("br", GOOD, 400), ("gzip", GOOD, 400), ("gzip", gzip.compress(GOOD)[:-9], 400),
        ("identity", GOOD, 200), ("gzip", gzip.compress(GOOD), 200),
        ("gzip", gzip.compress(bytes(100 << 20)), 413),
    ],
    ids=["br", "not gzip", "half", "identity", "gzip", "bomb"],
)  # fmt: skip
def test_content_encodings(shared: Running, encoding: str, content: bytes, status: int) -> None:
    assert post(shared, content, **{"Content-Encoding": encoding})[0] == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/nobody/infer", 404), ("POST", "/v2/models/float/versions/9/infer", 404),
        ("POST", "/v2/models/float/versions/x/infer", 404), ("POST", "/v2/models/..%2f..%2fetc/infer", 404),
        ("GET", "/v2/models/float/infer", 405), ("POST", "/v2/models/float", 405), ("POST", "/v2", 405),
        ("GET", "/v2/models/nobody", 404), ("GET", "/v2/models/nobody/ready", 404), ("GET", "/nowhere", 404),
        ("GET", "/dashboard/..%2fserver.py", 404), ("GET", "/dashboard/%00", 404),
        ("POST", "/v2/repository/models/float/load", 403), ("DELETE", "/v2/models/float", 405),
        ("PUT", "/v2/models/float/infer", 405), ("POST", "/v2/cudasharedmemory/region/a/register", 404),
    ],
)  # fmt: skip
def test_what_is_not_there_or_not_so(shared: Running, method: str, path: str, status: int) -> None:
    answer = shared.http.request(method, path, content=GOOD if method == "POST" else None)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
