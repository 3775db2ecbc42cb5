"""TorchScript that reaches files, in every disguise."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import pytest
import torch

import deepseek
from deepseek.errors import (
    UnsafeModelError,
)
from torch_models import (
    rewrite,
    torchscript,
)


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


def test_a_script_with_two_entries_of_one_name_is_refused(tmp_path: Path) -> None:
    source = torchscript(tmp_path)
    with zipfile.ZipFile(source) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".py"))
    with warnings.catch_warnings(), zipfile.ZipFile(source, "a") as archive:
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr(name, "import os")
    with pytest.raises(UnsafeModelError, match=f"two entries named {name}"):
        deepseek.build({"model": source})


class State(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.w

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.w = state[0]
        self.training = state[1]


def test_code_that_python_would_read_otherwise_is_looked_through_as_pytorch_reads_it(tmp_path: Path) -> None:
    """A comment makes Python read the rest as UTF-7, in which the call stands within quotes. It runs as it loads."""
    source, proof = tmp_path / "state.pt", tmp_path / "proof"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(State()).save(str(source))

    def hide(name: str, old: bytes) -> bytes:
        if not name.endswith(".py"):
            return old
        head, mark, tail = old.decode().replace("+", "+-").partition("def __setstate__")
        body, end, rest = tail.partition("return None")
        quotes = "+ACIAIgAi-"
        call = f'y0 = "{quotes}"\n    torch.save((self).w, "{proof}")\n    z0 = "{quotes}"\n    '
        return ("# coding: utf-7\n" + head + mark + body + call + end + rest).encode()

    rewrite(str(source), hide)
    with pytest.raises(UnsafeModelError, match="uses `save`, which reaches files"):
        deepseek.build({"model": str(source)})
    assert not proof.exists()
