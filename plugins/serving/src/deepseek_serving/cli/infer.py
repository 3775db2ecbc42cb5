"""`deepseek infer`: ask a model on a server."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from deepseek.plugin import DeepSeekError, InputError
from deepseek_serving.cli import options

if TYPE_CHECKING:
    from deepseek_serving.cli.asking import Client


#: Endings of what nobody means as a text.
_FILES = {".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".npz", ".png", ".tif", ".tiff", ".webp"}


@click.command()
@options.server
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each answer.")
def infer(client: Client, model: str, inputs: tuple[str, ...], as_json: bool) -> None:
    """Ask MODEL on the server at URL about INPUTS: pictures, texts, .npy and .npz files of tensors.

    An input that is no file, and does not look like one, is a text.
    """
    path = f"/v2/models/{quote(model, safe='')}"
    for given in inputs:
        file = _file(given)
        if file is not None and file.suffix in (".npy", ".npz"):
            rows: Any = _tensors(client, path, file)
        else:
            body = file.read_bytes() if file is not None else given.encode()
            rows = client.json(path + "/predict", body, field="rows")["rows"]
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise DeepSeekError(f"{client.url} answers with rows that are none", hint="is it a DeepSeek server?")
        if as_json:
            click.echo(json.dumps({"input": given, "rows": rows}))
        else:
            _show(given, rows)


def _file(given: str) -> Path | None:
    """The file that an input names; None: it is a text. Raises InputError."""
    try:
        if Path(given).is_file():
            return Path(given)
    except (OSError, ValueError):
        # Too long for a name, or with a character that none has.
        return None
    if Path(given).suffix.lower() in _FILES and not given.count(" "):
        raise InputError(f"there is no file `{given}`", hint="if it is a text, put a space at its end")
    return None


def _show(given: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for name, value in row.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                text = ", ".join(f"{item.get('label')} {item.get('score', 0):.3f}" for item in value)
            else:
                text = json.dumps(value)
                text = text if len(text) <= 200 else f"{text[:197]}..."
            click.echo(f"{given}  {name}: {text}")


def _tensors(client: Client, path: str, file: Path) -> list[dict[str, Any]]:
    """The answer to tensors, sent and received in binary form."""
    import numpy as np

    from deepseek_serving.oip import datatypes

    wanted = {tensor["name"]: tensor["datatype"] for tensor in client.json(path, field="inputs")["inputs"]}
    if not wanted and file.suffix == ".npy":
        raise InputError("the server does not tell the model's inputs", hint="name them in an .npz file")
    try:
        # Without pickles, which would run code.
        loaded = np.load(file, allow_pickle=False)
        arrays = (
            {name: loaded[name] for name in loaded.files} if file.suffix == ".npz" else {next(iter(wanted)): loaded}
        )
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as exc:
        hint = "write numbers or texts of a fixed length with numpy.save, without objects"
        raise InputError(f"`{file}` holds no tensors that can be read", hint=hint) from exc
    for name, array in arrays.items():
        if array.dtype.kind not in "OSU" and array.dtype.name not in datatypes.PROTOCOL:
            raise InputError(f"`{file}`: `{name}` is of {array.dtype.name}, which the protocol does not have")
    raws = {name: bytes(datatypes.to_bytes(array, wanted.get(name, ""))) for name, array in arrays.items()}
    request = {
        "parameters": {"binary_data_output": True},
        "inputs": [
            {
                "name": name, "shape": list(array.shape), "datatype": datatypes.PROTOCOL.get(array.dtype.name, "BYTES"),
                "parameters": {"binary_data_size": len(raws[name])},
            }
            for name, array in arrays.items()
        ],
    }  # fmt: skip
    top = json.dumps(request).encode()
    header = {"Inference-Header-Content-Length": str(len(top))}
    content, headers = client.ask(path + "/infer", top + b"".join(raws.values()), **header)
    length = int(headers.get("Inference-Header-Content-Length") or len(content))
    try:
        return [_outputs(json.loads(content[:length])["outputs"], memoryview(content)[length:])]
    except (ValueError, KeyError, TypeError) as exc:
        what = f"{client.url} answers with what is no answer of the Open Inference Protocol"
        raise DeepSeekError(what, hint="is it such a server?") from exc


def _outputs(tensors: list[dict[str, Any]], binary: memoryview) -> dict[str, Any]:
    import numpy as np

    from deepseek_serving.oip import datatypes

    rows = {}
    for tensor in tensors:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            rows[tensor["name"]] = tensor["data"]
            continue
        array = datatypes.from_bytes(tensor["name"], tensor["datatype"], tensor["shape"], binary[:size], keep=False)
        items = np.empty(array.size, object)
        items[:] = datatypes.to_list(array, tensor["datatype"])
        rows[tensor["name"]] = items.reshape(array.shape).tolist()
        binary = binary[size:]
    return rows
