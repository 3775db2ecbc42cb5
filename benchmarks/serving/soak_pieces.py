"""What the soak is made of: its models, and a request as it travels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

MODELS = ("one", "two", "guest")
#: Rows that the models are asked about.
ROWS = 64


def make_model(path: Path, seed: int) -> None:
    """An MLP of half a millisecond."""
    chance = np.random.default_rng(seed)
    nodes, weights, value, widths = [], [], "x", (256, 1024, 1024, 16)
    for index in range(3):
        matrix = chance.standard_normal(widths[index : index + 2], dtype=np.float32) / 16
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        made = "y" if index == 2 else f"h{index}"
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [made]))
        value = made
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 256])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def post(path: str, content: bytes, more: str = "") -> bytes:
    """A request over HTTP; `more` are lines of its head."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


#: Requests that can't be served, and the status that says so.
MALFORMED = (
    (post("/v2/models/one/infer", b'{"inputs"'), 400),
    (post("/v2/models/nobody/infer", b'{"inputs":[]}'), 404),
    (post("/v2/models/one/infer", b'{"inputs":[]}'), 400),
    (b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", 413),
    (b"\x00\x01\x02 nonsense\r\n\r\n", 400),
)
