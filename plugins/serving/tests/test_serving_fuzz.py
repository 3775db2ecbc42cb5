"""The decoders under random and mutated requests: an answer or an InputError, never anything else."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepseek.plugin import ANY, InputError, Signature, TensorSpec
from deepseek_serving.bodies import unpacked
from deepseek_serving.errors import TooLargeError
from deepseek_serving.grpc import messages, schema
from deepseek_serving.oip import quick, raw, requests
from deepseek_serving.oip.datatypes import NUMPY

SIGNATURE = Signature((TensorSpec("x", "float32", (ANY, 4)),), (TensorSpec("y", "float32", (ANY, 4)),))

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
parameters = st.none() | st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "classification", "timeout", "priority", "sequence_id",
                     "sequence_start", "shared_memory_region", "triton_x", "binary_data_output", "a"]), scalars, max_size=4,
)  # fmt: skip
tensors = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "z", ""]), "datatype": st.sampled_from([*NUMPY, "FP31"]),
     "shape": st.lists(st.integers(-2, 2**65), max_size=4) | st.just([1, 4])},
    optional={"data": values, "parameters": parameters},
)  # fmt: skip
bodies = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3)},
    optional={"id": st.text(max_size=4) | scalars, "parameters": parameters,
              "outputs": st.lists(st.fixed_dictionaries({"name": st.just("y")}, optional={"parameters": parameters}), max_size=2)},
)  # fmt: skip


def accepts(content: bytes, header: int | None) -> None:
    try:
        question = requests.parse(memoryview(content), header, keep=False)
    except InputError:
        return
    for array in question.inputs.values():
        assert isinstance(array, np.ndarray)


@settings(max_examples=400, deadline=None)
@given(bodies, st.binary(max_size=40), st.booleans())
def test_json_requests(body: dict[str, object], tail: bytes, binary: bool) -> None:
    top = json.dumps(body).encode()
    accepts(top + tail if binary else top, len(top) if binary else None)
    found = quick.reader(SIGNATURE)(top)
    if found is not None:
        exact = requests.parse(memoryview(top), None, keep=False)
        for name, array in found.inputs.items():
            np.testing.assert_array_equal(array, exact.inputs[name])


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200), st.integers(-1, 210) | st.none())
@example(
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":3}}]}\xff\xff\xff', 88
)
def test_any_bytes(content: bytes, header: int | None) -> None:
    accepts(content, header)
    assert quick.reader(SIGNATURE)(content) is None or content


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_raw_bodies(content: bytes) -> None:
    try:
        question = raw.parse_raw(memoryview(content), SIGNATURE, keep=False)
    except InputError:
        assert len(content) % 16
    else:
        assert question.inputs["x"].nbytes == len(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_protobuf_messages(content: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        request = schema.ModelInferRequest.FromString(content)
    except DecodeError:
        return
    with suppress(InputError):
        messages.question(request, "", None, None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.sampled_from([b"gzip", b"deflate", b"br", b"", b"GZIP "]))
def test_compressed_bodies(content: bytes, encoding: bytes) -> None:
    with pytest.raises((InputError, TooLargeError)):
        unpacked(content, encoding, 1000)
