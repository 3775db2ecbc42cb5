"""A graph is a program: looked through, before it is loaded, for operators that reach files or Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek.plugin import ModelError, UnsafeModelError

#: Operators that read or write files of the graph's own choice, or call back into Python. (Those that restore the
#: model's own variables, RestoreV2 and SaveV2, are in every SavedModel, and read below its folder.)
REFUSED = frozenset({
    "ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2", "FixedLengthRecordReader",
    "FixedLengthRecordReaderV2", "TextLineReader", "TextLineReaderV2", "TFRecordReader", "TFRecordReaderV2",
    "TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2",
    "PyFunc", "PyFuncStateless", "EagerPyFunc",
})  # fmt: skip


def check_graph(folder: Path) -> None:
    """Look through ``saved_model.pb``.

    Raises:
        UnsafeModelError: it holds one of the operators in `REFUSED`.
        ModelError: it is corrupt.
    """
    saved = _read(folder)
    if not saved.meta_graphs:
        raise ModelError("it holds no graph", where=str(folder), hint="export it again")
    found = sorted(REFUSED & _operators(saved))
    if found:
        hint = "if you trust it, set `tensorflow.file_operators: true`"
        raise UnsafeModelError(f"its graph reaches files or Python ({', '.join(found)})", where=str(folder), hint=hint)


def _operators(saved: Any) -> set[str]:
    graphs = [meta.graph_def for meta in saved.meta_graphs]
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for graph in graphs for function in graph.library.function for node in function.node_def]
    return {node.op for node in nodes}


def _read(folder: Path) -> Any:
    from google.protobuf import message, text_format
    from tensorflow.core.protobuf import saved_model_pb2

    saved, path = saved_model_pb2.SavedModel(), folder / "saved_model.pb"
    try:
        if path.is_file():
            saved.ParseFromString(path.read_bytes())
        else:
            text_format.Parse((folder / "saved_model.pbtxt").read_text(), saved)
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as exc:
        raise ModelError(f"TensorFlow can't read it: {exc}", where=str(folder), hint="export it again") from exc
    return saved
