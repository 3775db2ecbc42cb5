"""A graph is a program: looked through, before it is loaded, for operators that do more than compute.

Operators without state compute, but for a few; those with state are what models keep (variables, tables, random
numbers), or they reach files, hosts and Python. So the first are refused by name, the second unless they are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from deepseek.plugin import ModelError, UnsafeModelError

#: Operators without state that read files, run what is hidden in a constant, call Python, or end the process. A test
#: looks for others among all operators of the installed TensorFlow.
REFUSED = frozenset({
    "Abort", "DebugIdentity", "DebugNanCount", "DebugNumericSummary", "DecodeProtoV2", "EncodeProto",
    "GenerateVocabRemapping", "ImmutableConst", "InitializeTableFromTextFile", "MatchingFiles", "PyFuncStateless",
    "ReadFile", "RemoteFusedGraphExecute", "TPUPartitionedCall",
})  # fmt: skip

#: Operators with state that models are made of.
KEPT = re.compile(
    r"Assert|Assign(Add|Sub)?(VariableOp)?|Case|CheckNumerics(V2)?|CudnnRNN\w*|DisableCopyOnRead|DestroyResourceOp|Empty|"
    r"(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|If|InitializeTable(V2)?|LookupTable\w+|Multinomial|"
    r"ParameterizedTruncatedNormal|Print|Random\w+|ReadVariableOp|Resource(Gather|GatherNd|Scatter\w+|StridedSliceAssign)|"
    r"Rng(ReadAndSkip|Skip)|Scatter\w+|Stack\w*|Stateful(?!.*Dataset)\w+|TensorArray\w*|TruncatedNormal|"
    r"VarHandleOp|VarIsInitializedOp|Variable(V2|Shape)?|While|XlaCallModule"
)

#: Operators that every SavedModel has, to keep and restore its variables. The loader reads the variables itself and
#: runs none of them; in what runs they could reach any file.
SAVERS = frozenset({
    "MergeV2Checkpoints", "Restore", "RestoreSlice", "RestoreV2", "Save", "SaveSlices", "SaveV2",
})  # fmt: skip


def check_graph(folder: Path) -> None:
    """Look through ``saved_model.pb``.

    Raises:
        UnsafeModelError: it holds an operator that is refused, or runs one of those in `SAVERS`, or names files
            outside its folder.
        ModelError: it is corrupt.
    """
    saved = _read(folder)
    if not saved.meta_graphs:
        raise ModelError("it holds no graph", where=str(folder), hint="export it again")
    found: set[str] = set()
    for meta in saved.meta_graphs:
        library = meta.graph_def.library.function
        names = {function.signature.name for function in library}
        everything = {node.op for node in (*meta.graph_def.node, *_bodies(library))} - names - SAVERS
        found |= {name for name in everything if is_refused(name)}
        found |= SAVERS & {node.op for node in _executed(meta)}
        found |= {f"the asset {asset.filename}" for asset in meta.asset_file_def if not _is_inside(asset.filename)}
    if found:
        hint = "if you trust it, set `tensorflow.file_operators: true`"
        what = f"its graph reaches files, hosts or Python ({', '.join(sorted(found))})"
        raise UnsafeModelError(what, where=str(folder), hint=hint)


def is_refused(name: str) -> bool:
    """Whether an operator of the installed TensorFlow may not be in a model."""
    from tensorflow.python.framework import op_def_registry

    if name in REFUSED or "Dataset" in name:
        return True
    known = op_def_registry.get(name)
    return known is not None and known.is_stateful and not KEPT.fullmatch(name)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


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
