"""Tensor files become inputs, and are never unpickled."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codecs_pieces import build, items, jpeg
from deepseek.errors import InputError, InputNotFoundError
from deepseek.plugin import Signature, TensorSpec
from deepseek_codecs.tensors import array


def test_tensor_files(tmp_path: Path) -> None:
    x = np.arange(8, dtype="float32").reshape(2, 4)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x)
    (tmp_path / "a.json").write_text(json.dumps({"x": x.tolist()}))
    (tmp_path / "b.json").write_text(json.dumps(x.tolist()))
    (tmp_path / "c.json").write_text(json.dumps([{"x": [0, 1, 2, 3]}, {"x": [4, 5, 6, 7]}]))
    with build() as pipeline:
        for name in ("a.npy", "a.npz", "a.json", "b.json"):
            assert items(pipeline, tmp_path / name) == [(str(tmp_path / name), x.tolist())]
        rows = items(pipeline, tmp_path / "c.json")
        assert rows == [(f"{tmp_path}/c.json[0]", [x[0].tolist()]), (f"{tmp_path}/c.json[1]", [x[1].tolist()])]
        for name in ("a.npy", "a.npz", "a.json"):
            assert items(pipeline, None, (tmp_path / name).read_bytes()) == [("<stdin>", x.tolist())]


def test_damaged_and_strange_archives(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).standard_normal((50, 4)).astype("float32"))
    whole = (tmp_path / "a.npz").read_bytes()
    with build() as pipeline:
        for offset in range(0, len(whole), 11):
            spoilt = bytearray(whole)
            spoilt[offset] ^= 0xFF
            (tmp_path / "a.npz").write_bytes(spoilt)
            # Either it still reads, or the error is the input's.
            with contextlib.suppress(InputError):
                items(pipeline, tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", b"garbage", "a.npy is no .npy file"),
        ("a.npy", b"", "a.npy is no .npy file"),
        ("a.npz", b"PK\x03\x04", "a.npz can't be read"),
        ("a.json", b"{", "a.json is not JSON"),
        ("a.json", b"[" * 100_000, "a.json is not JSON"),
        ("a.json", b'{"x": [[1, 2], [3]]}', "the input `x`"),
        ("a.json", b'{"x": [["a", "b", "c", "d"]]}', "the input `x` holds <U1 values"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.txt", b"hello", "this pipeline takes no texts\n  fix: add the section `inputs.text`"),
        ("a.png", jpeg(), "this pipeline takes no pictures\n  fix: add the section `inputs.image`"),
        ("a.xyz", b"", "of no known type"),
    ],
)
def test_files_that_can_not_be_read(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with build() as pipeline, pytest.raises(InputError) as caught:
        items(pipeline, tmp_path / name)
    assert says in str(caught.value)


def test_pickled_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], object))
    with build() as pipeline:
        for name in ("a.npy", "a.npz"):
            with pytest.raises(InputError, match="never unpickled"):
                items(pipeline, tmp_path / name)


def test_files_that_are_absent_or_too_large(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 4), "float32"))
    with build(inputs={"max_file_size": "1KiB"}) as pipeline:
        with pytest.raises(InputError, match=r"larger than 1KiB\n  fix: raise `inputs.max_file_size`"):
            items(pipeline, tmp_path / "a.npy")
        with pytest.raises(InputNotFoundError, match="there is no file .*b.npy"):
            items(pipeline, tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("dtype", "values", "right"),
    [
        ("float32", [1, 2], [1.0, 2.0]),
        ("int64", [1, 2], [1, 2]),
        ("uint8", [0, 255], [0, 255]),
        ("uint8", [0, 256], None),
        ("int64", [1.7, 2.9], None),
        ("int64", ["3", "4"], None),
        ("bool", [True, False], [True, False]),
        ("bool", [1, 2], None),
    ],
)
def test_numbers_are_never_bent(tmp_path: Path, dtype: str, values: list[Any], right: list[Any] | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"x": [values]}))
    with build({"x": {"dtype": dtype, "shape": [-1, 2]}}) as pipeline:
        if right is None:
            with pytest.raises(InputError, match=rf"the input `x` holds .* values\n  fix: the model takes x: {dtype}"):
                items(pipeline, tmp_path / "a.json")
        else:
            assert items(pipeline, tmp_path / "a.json") == [(f"{tmp_path}/a.json", [right])]


def test_specs_without_a_batch_dimension_take_single_items() -> None:
    assert array([1, 2], TensorSpec("x", "float32", (-1, 2))).shape == (1, 2)
    assert array([1, 2], TensorSpec("x", "float32", (2,))).shape == (2,)
    assert Signature().batched is False


def test_archives_are_measured_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((10_000, 4), "float32"))
    with (
        build(inputs={"max_file_size": "100KiB"}) as pipeline,
        pytest.raises(
            InputError, match=r"holds 156.* when it is unpacked, more than 100KiB\n  fix: raise `inputs.max_file_size`"
        ),
    ):
        items(pipeline, tmp_path / "a.npz")


def test_a_stream_has_the_limit_of_a_file() -> None:
    with (
        build(inputs={"max_file_size": "1KiB"}) as pipeline,
        pytest.raises(InputError, match="<stdin> is larger than 1KiB"),
    ):
        items(pipeline, None, bytes(2000))


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 42, 4)})
    (tmp_path / "a.npy").write_bytes(head.getvalue())
    with build() as pipeline, pytest.raises(InputError, match=r"a.npy can't be read"):
        items(pipeline, tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"x": [1, 2, 3, 4], "x": [5, 6, 7, 8]}', "a.json is not JSON: `x` stands there twice"),
        ('{"x": [1e300, 0, 0, 0]}', "the input `x` holds numbers that are too large for float32"),
    ],
)
def test_json_says_one_thing_or_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with build() as pipeline, pytest.raises(InputError, match=says):
        items(pipeline, tmp_path / "a.json")
