"""One function per format: a source becomes a `Model` whose native object is a module in eval mode."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_unflatten

from deepseek.plugin import ANY, Config, ConfigError, Model, ModelError, Signature, Source, TensorSpec
from deepseek_torch.quiet import unlogged
from deepseek_torch.safety import (
    check_archive,
    check_graphs,
    check_script,
    read_checkpoint,
    restricted_reader,
)
from deepseek_torch.settings import TorchSettings


def torchscript(source: Source, config: Config) -> Model:
    """A ``torch.jit`` archive, looked through by `deepseek_torch.safety` first."""
    check_script(source.path)
    try:
        with warnings.catch_warnings():
            # PyTorch deprecates TorchScript; the file is what the user has.
            warnings.simplefilter("ignore", DeprecationWarning)
            module: Any = torch.jit.load(str(source.path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as exc:
        raise corrupt(source, exc) from exc
    check_graphs(module, source.path)
    arguments = module.forward.schema.arguments[1:]
    specs = [TensorSpec(argument.name, optional=argument.has_default_value()) for argument in arguments]
    return as_model(source, module.eval(), specs, keywords=_by_name(source, specs))


def exported(source: Source, config: Config) -> Model:
    """A ``torch.export`` archive, looked through by `deepseek_torch.safety` first."""
    check_archive(source.path)
    try:
        with restricted_reader(), unlogged("torch"):
            program = torch.export.load(source.path)
    # The archive's reader raises whatever its parsers do (AssertionError, KeyError, JSON errors, ...).
    except Exception as exc:
        raise corrupt(source, exc) from exc
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [_exported_spec(str(name), values.get(str(name))) for name in program.graph_signature.user_inputs]
    names = [str(name) for name in program.graph_signature.user_outputs]
    declared = [spec.name for spec in source.outputs]
    labels = declared if len(declared) == len(names) else _labels(program, names)
    outputs = tuple(_exported_output(label, values.get(name)) for label, name in zip(labels, names, strict=True))
    pure = not any(map(_works_in_place, _nodes(program.graph_module)))
    model = as_model(source, program.module(), inputs)
    signature = Signature(model.signature.inputs, outputs)
    facts = {"exported_program": program, "pure": pure, "structure": _structure(program, len(inputs))}
    return Model(model.format, model.native, signature, {**model.facts, **facts})


def _labels(program: Any, names: list[str]) -> list[str]:
    """The keys of the mapping that a program gives; default names where it gives something else."""
    found = tree_unflatten(names, program.call_spec.out_spec)
    flat = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return list(map(str, found)) if flat else default_names(len(names))


def _nodes(module: Any) -> Iterator[Any]:
    """Every node of a graph, and of the graphs that it branches into."""
    for part in module.modules():
        yield from part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ()


def _works_in_place(node: Any) -> bool:
    """Whether a node writes to one of its arguments: training IR keeps ``add_`` and its like."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _structure(program: Any, count: int) -> Any:
    """How a program takes its tensors, where that is not one after another: by keyword, in lists, in mappings."""
    structure = program.call_spec.in_spec
    places = tuple(range(count))
    return None if tree_unflatten(places, structure) == (places, {}) else structure


def state_dict(source: Source, config: Config) -> Model:
    """Weights without code, put into the module that `torch.factory` builds."""
    module = _factory(config)
    weights = _weights(source.path)
    try:
        module.load_state_dict(weights, strict=config[TorchSettings].strict)
    except RuntimeError as exc:
        first = " ".join(str(exc).split())[:300]
        hint = "check `torch.factory` and `torch.factory_args`, or set `torch.strict: false`"
        raise ModelError(f"the weights do not fit the module: {first}", where=str(source.path), hint=hint) from exc
    specs = _forward_specs(module)
    return as_model(source, module.eval(), specs, keywords=_by_name(source, specs))


def _forward_specs(module: Any) -> list[TensorSpec]:
    """What ``forward`` takes; an argument that has a default may be left out."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [item for item in parameters if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]
    return [TensorSpec(item.name, optional=item.default is not item.empty) for item in named]


def _by_name(source: Source, specs: list[TensorSpec]) -> bool:
    """Whether ``forward`` can be called by name: not where the pipeline gives its arguments other names."""
    return {spec.name for spec in source.inputs} <= {spec.name for spec in specs}


def as_model(source: Source, module: Any, specs: list[TensorSpec], *, keywords: bool = False) -> Model:
    """The pipeline's own declaration of inputs and outputs, where there is one, goes over the module's."""
    inputs = source.inputs or tuple(specs)
    tensors = (*module.parameters(), *module.buffers())
    facts = {"bytes": sum(t.numel() * t.element_size() for t in tensors), "keywords": keywords}
    return Model("torch", module, Signature(inputs, source.outputs), facts)


def default_names(count: int) -> list[str]:
    """Names for outputs that have none: ``output``, or ``output_0``, ``output_1``, ..."""
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _exported_spec(name: str, value: Any) -> TensorSpec:
    if not isinstance(value, torch.Tensor):
        return TensorSpec(name)
    shape = tuple(size if isinstance(size, int) else ANY for size in value.shape)
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), shape)


def _exported_output(name: str, value: Any) -> TensorSpec:
    """As it comes out of the executor: NumPy has no bfloat16."""
    spec = _exported_spec(name, value)
    return TensorSpec(name, "float32", spec.shape) if spec.dtype == "bfloat16" else spec


def _weights(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix.lower() == ".safetensors":
        import safetensors
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (safetensors.SafetensorError, OSError) as exc:
            raise ModelError(f"the safetensors file is corrupt: {exc}", where=str(path)) from exc
    loaded = read_checkpoint(path)
    # Trainers wrap the weights: {"state_dict": {...}, "epoch": ...}.
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(inner, Mapping) or not all(isinstance(value, torch.Tensor) for value in inner.values()):
        raise ModelError("the checkpoint holds something else than a state dict", where=str(path))
    return inner


def _factory(config: Config) -> torch.nn.Module:
    """Build the module that `torch.factory` names. Raises ConfigError."""
    name, arguments = config[TorchSettings].factory, config[TorchSettings].factory_args
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise config.error("torch.factory", f"must be `package.module:name` or `./file.py:name` (got `{name}`)")
    try:
        module = _python_file(config.resolve(place)) if place.endswith(".py") else importlib.import_module(place)
        build: Callable[..., Any] = getattr(module, attribute)
        built = build(**arguments)
    # The factory is the user's own code and may raise anything.
    except Exception as exc:
        raise config.error("torch.factory", f"failed: {type(exc).__name__}: {exc}") from exc
    if not isinstance(built, torch.nn.Module):
        raise config.error("torch.factory", f"must return a torch.nn.Module (got {type(built).__name__})")
    return built


def _python_file(path: Path) -> Any:
    """The module of a file: known by name while it runs (dataclasses ask for it), and able to import its neighbours."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    name = f"{path.stem}_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def corrupt(source: Source, exc: Exception) -> ModelError:
    """The error for a source that its library can't read, in the first line of the library's words."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()] or [type(exc).__name__]
    return ModelError(f"PyTorch can't read it: {lines[0]}", where=str(source.path), hint="save or export it again")
