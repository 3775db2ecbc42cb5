"""Tensors from files and plain values: .npy, .npz, .json; never unpickled."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from deepseek.plugin import ANY, InputError, Signature, Size, TensorSpec

SUFFIXES = frozenset({".npy", ".npz", ".json"})


def read(
    data: bytes, suffix: str, signature: Signature, label: str, limit: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Items of a tensor file. ``.npy`` is the model's only input; ``.npz`` and ``.json`` name theirs.

    A JSON file is one object ``{"input": nested lists}``, a list of such objects, or, for a model with
    one input, a nested list.

    Raises:
        InputError: damaged, pickled, not of this form, or larger than `limit` bytes when unpacked.
    """
    if suffix == ".json":
        yield from _json(data, signature, label)
        return
    if suffix == ".npy" and not data.startswith(np.lib.format.MAGIC_PREFIX):
        raise InputError(f"{label} is no .npy file", hint="save it with numpy.save")
    try:
        if suffix == ".npy":
            yield label, by_name(np.load(io.BytesIO(data), allow_pickle=False), signature)
        else:
            _check_unpacked(data, label, limit)
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                yield label, {name: archive[name] for name in archive.files}
    # Damaged archives make zipfile and zlib raise errors of many kinds.
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, SyntaxError, zlib.error, RuntimeError) as exc:
        if "pickle" in str(exc):
            hint = "save it again as an array of numbers"
            raise InputError(f"{label} holds Python objects, which are never unpickled", hint=hint) from exc
        raise InputError(f"{label} can't be read: {exc}", hint="save it again with numpy.save") from exc
    # A header may claim any size.
    except MemoryError as exc:
        raise InputError(f"{label} can't be read: it says that it holds more than fits into memory") from exc


def _check_unpacked(data: bytes, label: str, limit: int) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(item.file_size for item in archive.infolist())
    if size > limit:
        what = f"{label} holds {Size(size)} when it is unpacked, more than {Size(limit)}"
        raise InputError(what, hint="raise `inputs.max_file_size`")


def by_name(value: Any, signature: Signature) -> dict[str, Any]:
    """A single array as the model's only input. Raises InputError when the model has several."""
    needed = [spec for spec in signature.inputs if not spec.optional]
    if len(needed) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise InputError("the model has several inputs; name each tensor", hint=f"its inputs are: {names}")
    return {needed[0].name: array(value, needed[0])}


def named(values: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    """Arrays from a mapping of arrays or nested lists."""
    specs = {spec.name: spec for spec in signature.inputs}
    return {name: array(value, specs.get(name, TensorSpec(name))) for name, value in values.items()}


def array(value: Any, spec: TensorSpec) -> Any:
    """An array as it is; nested lists and numbers in the dtype that the model wants. Raises InputError."""
    if hasattr(value, "__dlpack__"):
        return value
    try:
        result = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as exc:
        raise InputError(f"the input `{spec.name}` is not a tensor: {exc}", hint=f"the model takes {spec}") from exc
    if spec.dtype not in ("", "str", result.dtype.name):
        result = _converted(result, spec)
    # One item without its batch dimension, as people write it down.
    if spec.shape and result.ndim == len(spec.shape) - 1 and spec.shape[0] in (ANY, 1):
        result = result[None]
    return result.astype(object) if spec.dtype == "str" else result


def _converted(values: np.ndarray[Any, Any], spec: TensorSpec) -> np.ndarray[Any, Any]:
    """Numbers in the dtype that the model takes, where that loses nothing but precision. Raises InputError."""
    wanted = np.dtype(spec.dtype)
    whole = values.dtype.kind in "iu" and wanted.kind in "iu"
    fits = whole and values.size and np.iinfo(wanted).min <= values.min() and values.max() <= np.iinfo(wanted).max
    if values.size and not fits and (whole or not np.can_cast(values.dtype, wanted, "same_kind")):
        what = f"the input `{spec.name}` holds {values.dtype} values"
        raise InputError(what, hint=f"the model takes {spec}")
    with np.errstate(over="ignore"):
        result = values.astype(wanted)
    if wanted.kind == "f" and np.isinf(result).any() and not np.isinf(values.astype(float)).any():
        what = f"the input `{spec.name}` holds numbers that are too large for {wanted}"
        raise InputError(what, hint=f"the model takes {spec}")
    return result


def lines(content: bytes) -> list[str]:
    """The lines of a UTF-8 text, with or without a byte order mark. Raises UnicodeDecodeError."""
    # Not str.splitlines, to which a form feed and other rare characters end a line, too.
    found = [line.removesuffix("\r") for line in content.decode("utf-8-sig").split("\n")]
    return found if found[-1] else found[:-1]


def is_json(content: bytes) -> bool:
    """Whether the whole of it reads as JSON."""
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"`{next(name for name in names if names.count(name) > 1)}` stands there twice")
    return found


def _json(data: bytes, signature: Signature, label: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except RecursionError as exc:
        raise InputError(f"{label} is not JSON that can be read: it is nested too deeply") from exc
    except ValueError as exc:
        raise InputError(f"{label} is not JSON: {exc}") from exc
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield f"{label}[{index}]", named(item, signature)
    else:
        yield label, named(value, signature) if isinstance(value, dict) else by_name(value, signature)
