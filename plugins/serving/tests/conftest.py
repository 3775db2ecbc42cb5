"""A server that many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving_pieces import Running, serving, works, write_models


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
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
    with serving(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_works() -> Iterator[None]:
    yield
    works.clear()
