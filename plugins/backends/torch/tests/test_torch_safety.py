"""Nothing is unpickled, nothing in a model's file is run, and damaged files say so."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def rewrite(source: str, change: Callable[[str, bytes], bytes | None], **extra: bytes) -> None:
    """Change an archive entry by entry; None drops one."""
    with zipfile.ZipFile(source) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with warnings.catch_warnings(), zipfile.ZipFile(source, "w") as new:
        warnings.simplefilter("ignore")
        for name, data in entries.items():
            changed = change(name, data)
            if changed is not None:
                new.writestr(name, changed)
        for name, data in extra.items():
            new.writestr(name.replace("__", "/"), data)


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


class Spy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("secret", False, 4, dtype=torch.uint8).sum()


class Scribe(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.ops.aten.save([x], "proof")
        return x


@pytest.mark.parametrize("module", [Spy, Scribe])
def test_a_script_that_reaches_files_is_refused(tmp_path: Path, module: type[torch.nn.Module]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module()).save(str(tmp_path / "spy.ts"))
    with pytest.raises(UnsafeModelError, match=r"its code \(.*\) uses `(from_file|save)`, which reaches files"):
        deepseek.build({"model": f"{tmp_path}/spy.ts"})


#: Other ways to write ``torch.from_file`` that TorchScript takes.
DISGUISES = (
    b"torch .from_file",
    b"torch. from_file",
    b"torch.\\\n    from_file",
    b'getattr(torch, "from_" "file")',
    b"ops.aten.from_file",
)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_script_that_hides_what_it_calls_is_refused(tmp_path: Path, disguise: bytes) -> None:
    source = tmp_path / "spy.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Spy()).save(str(source))
    rewrite(str(source), lambda name, old: old.replace(b"torch.from_file", disguise))
    with zipfile.ZipFile(source) as archive:
        assert any(disguise in archive.read(name) for name in archive.namelist())
    with pytest.raises(UnsafeModelError, match="uses `from_file`, which reaches files"):
        deepseek.build({"model": str(source)})


def test_a_script_in_capitals_is_looked_through_too(tmp_path: Path) -> None:
    source = tmp_path / "spy.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Spy()).save(str(source))
    with zipfile.ZipFile(source) as old:
        entries = {name.replace(".py", ".PY"): old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(source, "w") as new:
        for name, data in entries.items():
            new.writestr(name, data)
    with pytest.raises(UnsafeModelError, match="uses `from_file`"):
        deepseek.build({"model": str(source)})


@pytest.mark.parametrize("content", [b"garbage" * 50, bytes(range(256)) * 4, b"hello world, this is text"])
def test_what_is_no_checkpoint_is_called_corrupt(tmp_path: Path, content: bytes) -> None:
    given = config(tmp_path, safetensors)
    (tmp_path / "x.pt").write_bytes(content)
    given["model"]["source"] = f"{tmp_path}/x.pt"
    with pytest.raises(ModelError, match="the checkpoint is corrupt") as caught:
        deepseek.build(given)
    assert not isinstance(caught.value, UnsafeModelError)


def test_a_script_with_two_entries_of_one_name_is_refused(tmp_path: Path) -> None:
    source = torchscript(tmp_path)
    with zipfile.ZipFile(source) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".py"))
    with warnings.catch_warnings(), zipfile.ZipFile(source, "a") as archive:
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr(name, "import os")
    with pytest.raises(UnsafeModelError, match=f"two entries named {name}"):
        deepseek.build({"model": source})


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
