"""A graph is a program: looked through, before it is loaded, for operators that reach files, hosts or Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deepseek.plugin import ModelError, UnsafeModelError

#: Operators that read or write what the graph itself names, talk to other hosts, or call back into Python. A test
#: compares the list with all operators of the installed TensorFlow.
REFUSED = frozenset({
    "CSVDataset", "CSVDatasetV2", "CacheDataset", "CacheDatasetV2", "CalibrationStatisticsSaver",
    "CreateSummaryDbWriter", "CreateSummaryFileWriter", "DTensorRestoreV2", "DataServiceDataset",
    "DataServiceDatasetV2", "DataServiceDatasetV3", "DataServiceDatasetV4", "DatasetToTFRecord", "DebugIdentity",
    "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DebugNumericSummary", "DebugNumericSummaryV2",
    "DecodeProtoV2", "DistributedSave", "DumpTensor", "EagerPyFunc", "EncodeProto", "ExperimentalCSVDataset",
    "ExperimentalDatasetToTFRecord", "ExperimentalLMDBDataset", "ExperimentalMatchingFilesDataset",
    "ExperimentalSqlDataset", "FileSystemSetConfiguration", "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2",
    "FixedLengthRecordReader", "FixedLengthRecordReaderV2", "FixedUnigramCandidateSampler", "GenerateVocabRemapping",
    "ImmutableConst", "InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "LMDBDataset", "LMDBReader",
    "ListSnapshotChunksDataset", "LoadAndRemapMatrix", "LoadDataset", "MatchingFiles", "MatchingFilesDataset",
    "PrintV2", "PyFunc", "PyFuncStateless", "ReadFile", "RecordInput", "RegisterDataset", "RegisterDatasetV2",
    "RemoteCall", "RpcCall", "RpcClient", "RpcServer", "RpcServerRegister", "RpcServerStart", "SaveDataset",
    "SaveDatasetV2", "Skipgram", "SnapshotChunkDataset", "SnapshotDataset", "SnapshotDatasetReader",
    "SnapshotDatasetV2", "SqlDataset", "TFRecordDataset", "TFRecordDatasetV2", "TFRecordReader", "TFRecordReaderV2",
    "TextLineDataset", "TextLineReader", "TextLineReaderV2", "WholeFileReader", "WholeFileReaderV2", "WriteFile",
})  # fmt: skip

#: Operators that every SavedModel has, to keep and restore its variables. The loader reads the variables itself and
#: runs none of them; in what runs they could reach any file.
SAVERS = frozenset({
    "MergeV2Checkpoints", "Restore", "RestoreSlice", "RestoreV2", "Save", "SaveSlices", "SaveV2",
})  # fmt: skip


def check_graph(folder: Path) -> None:
    """Look through ``saved_model.pb``.

    Raises:
        UnsafeModelError: it holds one of the operators in `REFUSED`, or runs one of those in `SAVERS`.
        ModelError: it is corrupt.
    """
    saved = _read(folder)
    if not saved.meta_graphs:
        raise ModelError("it holds no graph", where=str(folder), hint="export it again")
    found: set[str] = set()
    for meta in saved.meta_graphs:
        everything = [*meta.graph_def.node, *_bodies(meta.graph_def.library.function)]
        found |= REFUSED & {node.op for node in everything}
        found |= SAVERS & {node.op for node in _executed(meta)}
    if found:
        hint = "if you trust it, set `tensorflow.file_operators: true`"
        what = f"its graph reaches files, hosts or Python ({', '.join(sorted(found))})"
        raise UnsafeModelError(what, where=str(folder), hint=hint)


def _executed(meta: Any) -> Iterator[Any]:
    """The nodes that run when the model is loaded or called: not those that save it and restore it."""
    library = {function.signature.name: function for function in meta.graph_def.library.function}
    tensors = [info.name for signature in meta.signature_def.values() for info in signature.outputs.values()]
    names = set(meta.object_graph_def.concrete_functions)
    if not meta.HasField("object_graph_def"):
        # The format of TensorFlow 1: loading runs the restoring node, which may read the variables and do nothing else.
        yield from _besides_restoring(meta)
    nodes = list(_upstream(meta.graph_def, tensors))
    yield from nodes
    todo = [*names, *_called(nodes, library)]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen and name in library:
            seen.add(name)
            body = list(library[name].node_def)
            yield from body
            todo += _called(body, library)


def _besides_restoring(meta: Any) -> Iterator[Any]:
    """What the restoring node of TensorFlow 1 runs, but for reading the file that the loader names."""
    source = meta.saver_def.filename_tensor_name
    nodes = {node.name: node for node in meta.graph_def.node}
    for node in _upstream(meta.graph_def, [meta.saver_def.restore_op_name]):
        if node.op != "RestoreV2" or _origin(node.input[0], nodes) != _node_name(source):
            yield node


def _origin(tensor: str, nodes: dict[str, Any]) -> str:
    """The name of the node that a tensor comes from, unchanged."""
    name = _node_name(tensor)
    while name in nodes and nodes[name].op == "Identity":
        name = _node_name(nodes[name].input[0])
    return name


def _upstream(graph: Any, tensors: Iterable[str]) -> Iterator[Any]:
    """The nodes that have to run for tensors of the graph itself."""
    nodes = {node.name: node for node in graph.node}
    todo, seen = [_node_name(tensor) for tensor in tensors], set[str]()
    while todo:
        name = todo.pop()
        if name in nodes and name not in seen:
            seen.add(name)
            yield nodes[name]
            todo += map(_node_name, nodes[name].input)


def _called(nodes: Iterable[Any], library: dict[str, Any]) -> Iterator[str]:
    """Functions that nodes call: named by an attribute, or (in old graphs) by the operator itself."""
    for node in nodes:
        if node.op in library:
            yield node.op
        for value in node.attr.values():
            if value.HasField("func"):
                yield value.func.name
            yield from (function.name for function in value.list.func)


def _bodies(functions: Iterable[Any]) -> Iterator[Any]:
    for function in functions:
        yield from function.node_def


def _node_name(tensor: str) -> str:
    """``^scope/node:0`` is an output, or a control output, of ``scope/node``."""
    return tensor.removeprefix("^").partition(":")[0]


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
