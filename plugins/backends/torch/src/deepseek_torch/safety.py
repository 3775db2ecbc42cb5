"""Nothing is unpickled. PyTorch's restricted reader (`weights_only`) is used, and archives that need more
are refused before anything in them is read.

`torch.export.load` of PyTorch 2.13 unpickles custom objects and, where a tensor was pickled, falls back from
the restricted reader to the full one (torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py).
It also evaluates the expressions of the graph's sizes (`sympy.sympify`) and compiles its guards and names as Python.
Therefore an archive is looked through first: only raw tensors, pickles that the restricted reader takes, plain names,
and expressions that are arithmetic (`deepseek_torch.expressions`).
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import pickletools
import re
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from deepseek.plugin import ModelError, UnsafeModelError
from deepseek_torch.expressions import program_faults

#: TorchScript's operators that reach files: ``aten::save`` and ``aten::from_file``.
_FILE_OPERATORS = frozenset({"save", "from_file"})

_WORD = re.compile(r"\w+")

_one_at_a_time = threading.RLock()

_WAY_OUT = "save its weights alone: safetensors.torch.save_file(model.state_dict(), ...), and set `torch.factory`"


def read_checkpoint(path: Path) -> Any:
    """What a checkpoint holds, read with ``weights_only=True``.

    Raises:
        UnsafeModelError: it needs code to be imported and called.
        ModelError: it is corrupt.
    """
    try:
        with warnings.catch_warnings():
            # It warns of plain pickles before it refuses them.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        if called := _called(path):
            raise UnsafeModelError(_refusal(called), where=str(path), hint=_WAY_OUT) from exc
        if "Weights only load failed" not in str(exc) or "GLOBAL" not in str(exc):
            what = "the checkpoint is corrupt, or no checkpoint of PyTorch's"
            raise ModelError(what, where=str(path), hint="save or download it again") from exc
        raise UnsafeModelError(_reason(exc), where=str(path), hint=_WAY_OUT) from exc
    # Random bytes make the unpickler raise IndexError, TypeError, ... as well.
    except Exception as exc:
        what = f"the checkpoint is corrupt: {type(exc).__name__}: {_first_line(exc)}"
        raise ModelError(what, where=str(path), hint="save or download it again") from exc


def check_archive(path: Path) -> None:
    """Look through a ``.pt2`` archive before `torch.export.load` does.

    Raises:
        UnsafeModelError: it holds pickled objects, machine code, or two entries of one name.
        ModelError: it is corrupt.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for fault in _faults(archive):
                hint = "export the program again without custom objects, or use its weights with `torch.factory`"
                raise UnsafeModelError(f"the archive holds {fault}", where=str(path), hint=hint)
    except UnsafeModelError:
        raise
    # Damaged entries make zipfile, zlib and json raise errors of many kinds.
    except Exception as exc:
        raise ModelError(f"the archive is corrupt: {exc}", where=str(path), hint="export it again") from exc


def check_shards(folder: Path) -> None:
    """Look at the lists of weight files in a Hugging Face folder.

    Raises:
        UnsafeModelError: one names a file outside the folder.
        ModelError: it is corrupt.
    """
    for index in folder.rglob("*.index.json"):
        try:
            names = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
            raise ModelError(f"the list of weight files is corrupt: {exc}", where=str(index)) from exc
        outside = [str(name) for name in names if Path(str(name)).name != name]
        if outside:
            hint = "weights lie in the model's own folder"
            raise UnsafeModelError(f"it names weights outside the folder ({outside[0]})", where=str(index), hint=hint)


def check_script(path: Path) -> None:
    """Look through a TorchScript archive for operators that read or write files, before it is loaded.

    Its code runs in TorchScript's own interpreter, some of it already while it loads. It is Python as far as syntax
    goes, and is read as such: nothing by the name of one of those operators may stand in it, whatever it is taken from.

    Raises:
        UnsafeModelError: it uses ``torch.save`` or ``torch.from_file``, or holds two entries of one name.
        ModelError: it is corrupt.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for fault in _script_faults(archive):
                raise UnsafeModelError(fault, where=str(path), hint="save the model without it")
    except UnsafeModelError:
        raise
    except Exception as exc:
        raise ModelError(f"the archive is corrupt: {exc}", where=str(path), hint="save it again") from exc


def check_graphs(module: Any, path: Path) -> None:
    """The same of a module that is loaded, in the form that runs: the second look, at what was made of the code."""
    for name in _FILE_OPERATORS:
        if module.inlined_graph.findAllNodes(f"aten::{name}", True):
            raise UnsafeModelError(f"its code uses `{name}`, which reaches files", where=str(path))


def _script_faults(archive: zipfile.ZipFile) -> Iterator[str]:
    yield from _twice(archive)
    for name in archive.namelist():
        # As PyTorch reads it: Python would go by a comment that names another encoding.
        code = archive.read(name).decode("utf-8") if name.lower().endswith(".py") else ""
        # What Python takes for text or a comment, PyTorch's own parser may not.
        words = set(_WORD.findall(code))
        for node in ast.walk(ast.parse(code)):
            # In `getattr(torch, "sa" "ve")` it is a constant, however it is spelt.
            word = getattr(node, "value", None)
            words |= {word} if isinstance(word, str) else set()
        for word in sorted(words & _FILE_OPERATORS):
            yield f"its code ({name}) uses `{word}`, which reaches files"


@contextmanager
def restricted_reader() -> Iterator[None]:
    """Make every `torch.load` in the block use the restricted reader, those inside PyTorch included."""
    # The variable is the process's: two builds at once must not undo one another's.
    with _one_at_a_time:
        before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
            else:
                os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _faults(archive: zipfile.ZipFile) -> Iterator[str]:
    yield from _twice(archive)
    for entry in archive.namelist():
        # As PyTorch's reader finds entries: whatever the case of their names.
        name = entry.lower()
        if "/aotinductor/" in f"/{name}" or name.endswith((".so", ".cubin")):
            yield f"machine code ({name})"
        elif name.endswith("_constants_config.json"):
            yield from _pickled_constants(json.loads(archive.read(entry)))
        elif ("/models/" in f"/{name}" and name.endswith(".json")) or name == "serialized_exported_program.json":
            yield from program_faults(json.loads(archive.read(entry)))
        elif name.endswith(".pt") and not _is_restricted(archive.read(entry)):
            yield f"pickled objects ({name})"


def _twice(archive: zipfile.ZipFile) -> Iterator[str]:
    """Two readers may disagree on which of two entries counts; PyTorch's does not tell capitals from small letters."""
    names = Counter(name.lower() for name in archive.namelist())
    yield from (f"two entries named {name}" for name, count in names.items() if count > 1)


def _pickled_constants(config: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in config.get("config", {}).items():
        if not str(entry.get("path_name", "")).startswith("tensor_"):
            yield f"a pickled object (constant {name})"


def _is_restricted(data: bytes) -> bool:
    if not data:
        return True
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # Whatever the restricted reader objects to is not to be read at all.
    except Exception:
        return False
    return True


def _called(path: Path) -> str:
    """The first thing that a plain pickle would import, found by reading its operations; empty: it is none."""
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                strings += [argument] if isinstance(argument, str) else []
    # What is no pickle makes it raise ValueError, UnicodeDecodeError, ...
    except Exception:
        return ""
    return ""


def _reason(exc: BaseException) -> str:
    text = str(exc)
    start = text.find("GLOBAL ")
    return _refusal(text[start:].split(" ")[1] if start >= 0 else "code")


def _refusal(called: str) -> str:
    return f"loading this pickle would import and call `{called}`; DeepSeek never unpickles"


def _first_line(exc: BaseException) -> str:
    return str(exc).partition("\n")[0] or type(exc).__name__
