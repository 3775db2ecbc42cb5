"""What is known of earlier requests gives what the exact readers give, or nothing."""

from __future__ import annotations

import json

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.plugin import InputError
from deepseek_serving.grpc import messages, schema, wire
from deepseek_serving.oip import requests
from deepseek_serving.oip.datatypes import NUMPY
from deepseek_serving.oip.recipes import Recipes
from deepseek_serving.oip.requests import Question

TYPES = [name for name in NUMPY if name not in ("BYTES", "BF16")]
tensors = st.tuples(st.sampled_from(["x", "y", ""]), st.sampled_from(TYPES), st.lists(st.integers(0, 3), max_size=3))
parameters = st.dictionaries(
    st.sampled_from(["priority", "timeout", "sequence_id", "other"]), st.integers(0, 1 << 40), max_size=2
)
changes = st.tuples(st.integers(0, 400), st.integers(0, 255), st.integers(-3, 3))


def content(datatype: str, shape: list[int], seed: int) -> bytes:
    size = int(np.prod(shape)) * np.dtype(NUMPY[datatype]).itemsize
    return np.random.default_rng(seed).bytes(size)


def changed(data: bytes, change: tuple[int, int, int]) -> bytes:
    """One byte is another, and the end comes sooner or later."""
    at, byte, longer = change
    data = data[: at % len(data)] + bytes((byte,)) + data[at % len(data) + 1 :]
    return data + bytes(longer) if longer > 0 else data[: len(data) + longer]


def same(found: Question, exact: Question) -> None:
    assert found.inputs.keys() == exact.inputs.keys()
    for name, array in exact.inputs.items():
        assert (found.inputs[name].dtype, found.inputs[name].shape) == (array.dtype, array.shape)
        assert found.inputs[name].tobytes() == array.tobytes()
    assert (found.wishes, found.binary, found.id) == (exact.wishes, exact.binary, exact.id)
    assert found.options.parameters == exact.options.parameters
    assert found.options.priority == exact.options.priority
    # A deadline of its own is never taken for another's.
    assert exact.options.deadline is None


@settings(max_examples=300, deadline=None)
@given(st.lists(tensors, max_size=3), parameters, st.lists(changes, max_size=4))
def test_messages_that_begin_as_earlier_ones(
    inputs: list[tuple[str, str, list[int]]], given_: dict[str, int], edits: list[tuple[int, int, int]]
) -> None:
    openings, recipes = wire.Openings(), Recipes()

    def message(seed: int) -> bytes:
        request = schema.ModelInferRequest(model_name="m")
        for name, datatype, shape in inputs:
            request.inputs.add(name=name, datatype=datatype, shape=shape)
            request.raw_input_contents.append(content(datatype, shape, seed))
        for name, value in given_.items():
            request.parameters[name].int64_param = value
        return bytes(request.SerializeToString())

    def exact(raw: bytes) -> tuple[str, Question] | None:
        try:
            request = schema.ModelInferRequest.FromString(raw)
            return request.model_name, messages.question(request, "", None, None)
        except (InputError, DecodeError):
            return None

    for seed in range(3):
        raw = message(seed)
        for one in [raw, *(changed(raw, edit) for edit in edits if raw)]:
            opening, wanted = openings.find(one), exact(one)
            found = recipes.read(one, opening[2], keep=True) if opening else None
            if found is not None:
                assert wanted is not None
                assert opening is not None
                assert opening[0] == wanted[0]
                same(found, wanted[1])
            elif opening and wanted:
                timeout = "timeout" in schema.ModelInferRequest.FromString(one).parameters
                recipes.learn_message(one, opening[2], wanted[1], timeout=timeout)


@settings(max_examples=300, deadline=None)
@given(st.lists(tensors, max_size=3), parameters, st.lists(changes, max_size=4))
def test_json_parts_that_came_before(
    inputs: list[tuple[str, str, list[int]]], given_: dict[str, int], edits: list[tuple[int, int, int]]
) -> None:
    recipes = Recipes()

    def binary(seed: int) -> tuple[bytes, int]:
        described, raw = [], b""
        for name, datatype, shape in inputs:
            data = content(datatype, shape, seed)
            size = {"binary_data_size": len(data)}
            described.append({"name": name, "datatype": datatype, "shape": shape, "parameters": size})
            raw += data
        top = json.dumps({"inputs": described, "parameters": given_}).encode()
        return top + raw, len(top)

    for seed in range(3):
        body, length = binary(seed)
        for one in [body, *(changed(body, edit) for edit in edits)]:
            try:
                wanted = requests.parse(memoryview(one), length, keep=False)
            except InputError:
                wanted = None
            found = recipes.read(one, length, keep=False)
            if found is not None:
                assert wanted is not None
                same(found, wanted)
            elif wanted is not None:
                recipes.learn(one, length, wanted)
