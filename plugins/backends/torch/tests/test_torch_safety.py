"""Nothing is unpickled, nothing in a model's file is run, and damaged files say so."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import deepseek
from deepseek.errors import (
    ModelError,
    UnsafeModelError,
)
from torch_models import (
    config,
    exported,
    network,
    rewrite,
    safetensors,
    state_dict,
    torchscript,
)


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return (Path.touch, (self.proof,))


def whole_module(path: Path, proof: Path) -> None:
    torch.save(network(), path)


def evil_checkpoint(path: Path, proof: Path) -> None:
    torch.save({"weights": Evil(proof)}, path)


def evil_legacy_checkpoint(path: Path, proof: Path) -> None:
    torch.save({"weights": Evil(proof)}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(proof), protocol=2))


@pytest.mark.parametrize("write", [whole_module, evil_checkpoint, evil_legacy_checkpoint, plain_pickle])
def test_pickles_are_refused_with_the_way_out(tmp_path: Path, write: Callable[[Path, Path], None]) -> None:
    proof = tmp_path / "proof"
    write(tmp_path / "evil.pth", proof)
    given = config(tmp_path, safetensors)
    given["model"]["source"] = str(tmp_path / "evil.pth")
    with pytest.raises(UnsafeModelError, match=r"never unpickles\n  fix: save its weights alone"):
        deepseek.build(given)
    assert not proof.exists()


def evil_sample_inputs(source: str, proof: Path) -> None:
    evil = source + ".evil"
    torch.save(((Evil(proof),), {}), evil)
    data = Path(evil).read_bytes()
    rewrite(source, lambda name, old: data if "sample_inputs" in name else old)


def evil_constant(source: str, proof: Path) -> None:
    config = {
        "config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    }
    text = json.dumps(config).encode()
    rewrite(source, lambda name, old: text if name.endswith("constants_config.json") else old,
            m__data__constants__opaque_obj_0=pickle.dumps(Evil(proof)))  # fmt: skip


def machine_code(source: str, proof: Path) -> None:
    rewrite(source, lambda name, old: old, **{"m__data__aotinductor__model__model.so": b"\x7fELF"})


def twice(source: str, proof: Path) -> None:
    rewrite(source, lambda name, old: old, m__archive_format=b"pt2")


def evil_size(source: str, proof: Path) -> None:
    evil = f"__import__('pathlib').Path({str(proof)!r}).touch()"

    def change(name: str, old: bytes) -> bytes:
        if "/models/" not in name:
            return old
        return re.sub(rb'"expr_str": "[^"]*"', b'"expr_str": ' + json.dumps(evil).encode(), old)

    rewrite(source, change)


def evil_guard(source: str, proof: Path) -> None:
    evil = json.dumps([f"__import__('pathlib').Path({str(proof)!r}).touch() is None"]).encode()
    rewrite(source, lambda name, old: old.replace(b'"guards_code": []', b'"guards_code": ' + evil))


def evil_name(source: str, proof: Path) -> None:
    evil = json.dumps(f"relu\n    __import__('pathlib').Path({str(proof)!r}).touch()").encode()
    rewrite(source, lambda name, old: old.replace(b'"name": "relu"', b'"name": ' + evil))


def capitals(source: str, proof: Path) -> None:
    """PyTorch's reader of archives does not tell capitals from small letters."""
    evil_size(source, proof)
    with zipfile.ZipFile(source) as old:
        entries = {name.replace(".json", ".JSON"): old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(source, "w") as new:
        for name, data in entries.items():
            new.writestr(name, data)


def evil_target(source: str, proof: Path) -> None:
    rewrite(source, lambda name, old: re.sub(rb"torch.ops.aten.relu.default", b"torch.os.system", old))


def file_target(source: str, proof: Path) -> None:
    rewrite(source, lambda name, old: re.sub(rb"torch.ops.aten.relu.default", b"torch.ops.aten.from_file.default", old))


def endless_size(source: str, proof: Path) -> None:
    rewrite(source, lambda name, old: re.sub(rb'"expr_str": ?"[^"]*"', b'"expr_str": "Pow(9, Pow(9, 9))"', old))


@pytest.mark.parametrize(
    "spoil",
    [
        evil_sample_inputs, evil_constant, evil_size, evil_guard, evil_name, machine_code, twice,
        capitals, evil_target, file_target, endless_size,
    ],
)  # fmt: skip
def test_an_archive_that_would_run_code_is_refused(tmp_path: Path, spoil: Callable[[str, Path], None]) -> None:
    source, proof = exported(tmp_path), tmp_path / "proof"
    spoil(source, proof)
    with pytest.raises(UnsafeModelError, match="the archive holds"):
        deepseek.build({"model": source})
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"garbage" * 50, bytes(range(256)) * 4, b"hello world, this is text"])
def test_what_is_no_checkpoint_is_called_corrupt(tmp_path: Path, content: bytes) -> None:
    given = config(tmp_path, safetensors)
    (tmp_path / "x.pt").write_bytes(content)
    given["model"]["source"] = f"{tmp_path}/x.pt"
    with pytest.raises(ModelError, match="the checkpoint is corrupt") as caught:
        deepseek.build(given)
    assert not isinstance(caught.value, UnsafeModelError)


@pytest.mark.parametrize("write", [torchscript, exported, state_dict, safetensors])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, write: Callable[[Path], str], keep: float) -> None:
    given = config(tmp_path, write)
    path = Path(given["model"]["source"])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ModelError) as caught:
        deepseek.build(given)
    assert path.name in str(caught.value)


def test_a_damaged_directory_of_an_archive(tmp_path: Path) -> None:
    path = Path(exported(tmp_path))
    data = path.read_bytes()
    start = data.rindex(b"PK\x05\x06")
    for offset in range(start - 400, start, 7):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :])
        # Either it still loads, or the error is the model's.
        with contextlib.suppress(ModelError):
            deepseek.build({"model": str(path)}).close()


@pytest.mark.parametrize("name", ["metadata", "guards_code", "expr_str", "target"])
def test_a_tensor_may_have_any_name_and_hides_nothing_behind_it(tmp_path: Path, name: str) -> None:
    source, proof, x = str(tmp_path / "m.pt2"), tmp_path / "proof", np.ones((3, 4), "float32")
    scope: dict[str, Any] = {"torch": torch}
    exec(f"class Named(torch.nn.Module):\n    def forward(self, {name}): return 2 * {name}", scope)
    program = torch.export.export(scope["Named"](), (torch.ones(2, 4),), dynamic_shapes=({0: torch.export.Dim("b")},))
    torch.export.save(program, source)
    with deepseek.build({"model": source}) as pipeline:
        assert pipeline.run({name: x})["output"].sum() == 24

    def change(entry: str, old: bytes) -> bytes:
        if "/models/" not in entry:
            return old
        document = json.loads(old)
        size = document["graph_module"]["graph"]["tensor_values"][name]["sizes"][0]
        size["as_expr"]["expr_str"] = f"__import__('pathlib').Path({str(proof)!r}).touch()"
        return json.dumps(document).encode()

    rewrite(source, change)
    with pytest.raises(UnsafeModelError, match="a size that is no arithmetic"):
        deepseek.build({"model": source})
    assert not proof.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_of_any_protocol_is_refused_with_what_it_would_call(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "proof"
    given = config(tmp_path, safetensors)
    given["model"]["source"] = f"{tmp_path}/x.ckpt"
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({"a": Evil(proof)}, protocol))
    with pytest.raises(UnsafeModelError, match=r"would import and call `\S+`; DeepSeek never"):
        deepseek.build(given)
    assert not proof.exists()
