"""Where answers go: a table on the terminal, JSON lines, or a file of tensors; files appear whole or not at all."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from deepseek.cli.tables import print_table
from deepseek.errors import OutputError
from deepseek.files import atomic_write, exists, output_errors


class Results(Protocol):
    """Takes the answers one by one."""

    def add(self, label: str, outputs: Mapping[str, Any], answers: list[dict[str, Any]]) -> None:
        """One item: its label, its raw outputs, and its decoded rows."""


@contextmanager
def open_results(path: Path | None, as_json: bool) -> Iterator[Results]:
    """Results for ``-o path`` or standard output.

    Raises:
        OutputError: an unknown ending, or the file can't be written.
    """
    if path is None:
        table = JsonLines(sys.stdout.buffer, "standard output") if as_json else Table()
        yield table
        if isinstance(table, Table):
            table.show()
        return
    # A device such as /dev/stdout or a named pipe has no ending: JSON lines.
    is_device = exists(path) and not path.is_file()
    if path.suffix not in (".json", ".jsonl", ".npz") and not is_device:
        raise OutputError(f"no way to write `{path.suffix}` files", where=str(path), hint="use .json, .jsonl or .npz")
    with atomic_write(path) as scratch:
        yield from _to_file(path.suffix, scratch, str(path))


def _to_file(suffix: str, scratch: Path, name: str) -> Iterator[Results]:
    if suffix == ".npz":
        tensors = Tensors()
        yield tensors
        tensors.save(scratch)
    elif suffix == ".json":
        everything = Everything()
        yield everything
        scratch.write_bytes(msgspec.json.format(to_json(everything.items), indent=1))
    else:
        with scratch.open("wb") as file:
            yield JsonLines(file, name)


class Table:
    """Rows for people: the label, and each answer in a few words."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, dict[str, str]]] = []

    def add(self, label: str, outputs: Mapping[str, Any], answers: list[dict[str, Any]]) -> None:
        for number, answer in enumerate(answers):
            name = label if len(answers) == 1 else f"{label}[{number}]"
            self._rows.append((name, {str(key): _brief(value) for key, value in answer.items()}))

    def show(self) -> None:
        # Answers need not have the same keys, nor in the same order.
        keys = list(dict.fromkeys(key for _, row in self._rows for key in row))
        print_table(["input", *keys], [[name, *(row.get(key, "") for key in keys)] for name, row in self._rows])


class JsonLines:
    """One object per item and row, written as it comes: a reader sees the first before the last is computed."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name

    def add(self, label: str, outputs: Mapping[str, Any], answers: list[dict[str, Any]]) -> None:
        with output_errors(self._name):
            for answer in answers:
                self._file.write(to_json(labelled(label, answer)) + b"\n")
            self._file.flush()


class Everything:
    """All items, for one JSON document."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []

    def add(self, label: str, outputs: Mapping[str, Any], answers: list[dict[str, Any]]) -> None:
        self.items += [labelled(label, answer) for answer in answers]


class Tensors:
    """The outputs of all items, concatenated along the batch, and the labels beside them.

    What the codec makes arrays of (an embedding) is written as such, what it puts into words (classes) as it came.
    """

    def __init__(self) -> None:
        self._labels: list[str] = []
        self._outputs: list[Mapping[str, Any]] = []

    def add(self, label: str, outputs: Mapping[str, Any], answers: list[dict[str, Any]]) -> None:
        self._labels += [label] * len(answers)
        import numpy as np

        found = {str(name): value for name, value in outputs.items()}
        for name in answers[0] if answers else ():
            rows: list[Any] = [answer.get(name) for answer in answers]
            if all(isinstance(row, np.ndarray) for row in rows) and len({row.shape for row in rows}) == 1:
                found[str(name)] = np.stack(rows)
        self._outputs.append({name: _by_row(name, value, len(answers)) for name, value in found.items()})

    def save(self, path: Path) -> None:
        import numpy as np

        names = list(self._outputs[0]) if self._outputs else []
        try:
            columns = {name: np.concatenate([item[name] for item in self._outputs]) for name in names}
        except ValueError as exc:
            hint = "write .json instead"
            raise OutputError(f"the outputs differ in shape and can't stand in one array: {exc}", hint=hint) from exc
        columns = labelled(np.asarray(self._labels), columns)
        # A name with slashes would be a path to those who unpack the archive.
        members = {name.replace("/", "_").replace("\\", "_"): values for name, values in columns.items()}
        if len(members) < len(columns):
            what = f"two of the outputs {', '.join(names)} would have one name in an archive"
            raise OutputError(what, hint="write .json instead")
        # Not numpy.savez, whose own parameters are names that an output can't have.
        with zipfile.ZipFile(path, "w") as archive:
            for member, values in members.items():
                with archive.open(f"{member}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, _storable(values), allow_pickle=False)


def _by_row(name: str, value: Any, rows: int) -> Any:
    """An output with one entry for each of the answer's rows, so that the labels stand beside them."""
    import numpy as np

    values = np.asarray(value)
    if values.ndim and len(values) == rows:
        return values
    if rows == 1:
        return values[None]
    what = f"the output `{name}` has the shape {list(values.shape)}, which is not one entry for each of {rows} rows"
    raise OutputError(what, hint="write .json instead")


def _storable(values: Any) -> Any:
    """Text as text (objects would have to be pickled), and bfloat16, which NumPy's files do not know, as float32."""
    import numpy as np

    if values.dtype.kind == "O":
        return np.asarray([str(_text(item)) for item in values.ravel()]).reshape(values.shape)
    return values.astype(np.float32) if values.dtype.kind == "V" else values


def labelled(label: Any, answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with the item's label before it, as ``input`` (``_input`` where an output has that name)."""
    if isinstance(label, str):
        # A file's name need not be UTF-8; JSON must.
        label = label.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return {"_input" if "input" in answer else "input": label, **answer}


def to_json(value: Any) -> bytes:
    """JSON: arrays as nested lists, bytes as text, and null for what is infinite or not a number."""
    return msgspec.json.encode(_without_bytes(value), enc_hook=_plain)


def _without_bytes(value: Any) -> Any:
    """Bytes in an answer as text: msgspec would write them as base64."""
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_bytes(item) for key, item in value.items()}
    return _text(value) if isinstance(value, bytes) else value


def _plain(value: Any) -> Any:
    """What JSON has no word for: arrays as lists, bytes as text, complex numbers as ``[real, imaginary]``."""
    if isinstance(value, complex):
        return [value.real, value.imag]
    return _text(value.tolist()) if hasattr(value, "tolist") else str(value)


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_class(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("score"), float) and "label" in item


def _brief(value: Any) -> str:
    """An answer in a few words: the best classes, a number, or an array's shape and first values."""
    if isinstance(value, list):
        return ", ".join(f"{item['label']} {item['score']:.2f}" if _is_class(item) else str(item) for item in value)
    if getattr(value, "ndim", 0):
        first = ", ".join(f"{number:.4g}" if value.dtype.kind == "f" else str(number) for number in value.ravel()[:4])
        return f"{value.dtype}{list(value.shape)}: {first}{', ...' if value.size > 4 else ''}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
