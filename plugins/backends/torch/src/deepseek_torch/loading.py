"""One function per format: a source becomes a `Model` whose native object is a module in eval mode."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from deepseek.plugin import ANY, Config, ConfigError, Model, ModelError, Signature, Source, TensorSpec
from deepseek_torch.quiet import unlogged
from deepseek_torch.safety import (
    check_archive,
    check_graphs,
    check_script,
    check_shards,
    read_checkpoint,
    restricted_reader,
)
from deepseek_torch.settings import TorchSettings

#: Inputs of Hugging Face models that are tensors, with their dtypes and numbers of dimensions.
_HF_INPUTS = {
    "input_ids": ("int64", 2), "attention_mask": ("int64", 2), "token_type_ids": ("int64", 2),
    "pixel_values": ("float32", 4), "input_features": ("float32", 3), "input_values": ("float32", 2),
}  # fmt: skip
_HF_NEEDED = {"input_ids", "pixel_values", "input_features", "input_values"}


def torchscript(source: Source, config: Config) -> Model:
    """A ``torch.jit`` archive, looked through by `deepseek_torch.safety` first."""
    check_script(source.path)
    try:
        with warnings.catch_warnings():
            # PyTorch deprecates TorchScript; the file is what the user has.
            warnings.simplefilter("ignore", DeprecationWarning)
            module: Any = torch.jit.load(str(source.path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as exc:
        raise _corrupt(source, exc) from exc
    check_graphs(module, source.path)
    arguments = module.forward.schema.arguments[1:]
    specs = [TensorSpec(argument.name, optional=argument.has_default_value()) for argument in arguments]
    return _model(source, module.eval(), specs, keywords=_by_name(source, specs))


def exported(source: Source, config: Config) -> Model:
    """A ``torch.export`` archive, looked through by `deepseek_torch.safety` first."""
    check_archive(source.path)
    try:
        with restricted_reader(), unlogged("torch"):
            program = torch.export.load(source.path)
    # The archive's reader raises whatever its parsers do (AssertionError, KeyError, JSON errors, ...).
    except Exception as exc:
        raise _corrupt(source, exc) from exc
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [_exported_spec(str(name), values.get(str(name))) for name in program.graph_signature.user_inputs]
    names = [str(name) for name in program.graph_signature.user_outputs]
    declared = [spec.name for spec in source.outputs]
    labels = declared if len(declared) == len(names) else default_names(len(names))
    outputs = tuple(_exported_spec(label, values.get(name)) for label, name in zip(labels, names, strict=True))
    pure = not program.graph_signature.user_inputs_to_mutate
    model = _model(source, program.module(), inputs)
    signature = Signature(model.signature.inputs, outputs)
    return Model(model.format, model.native, signature, {**model.facts, "exported_program": program, "pure": pure})


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
    return _model(source, module.eval(), specs, keywords=_by_name(source, specs))


def hugging_face(source: Source, config: Config) -> Model:
    """A folder with ``config.json`` and ``model.safetensors``; code in the folder is never run."""
    import transformers

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    check_shards(source.path)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        settings = transformers.AutoConfig.from_pretrained(source.path, **safe)
        _check_attention(settings)
        name = (getattr(settings, "architectures", None) or ["AutoModel"])[0]
        kind = getattr(transformers, name, None)
        if kind is None or (kind is not transformers.AutoModel and not _is_model_class(kind)):
            raise ValueError(f"its architecture `{name}` is no model class of transformers")
        with unlogged("transformers"):
            # What does not fit is told in `found`, and refused below.
            module, found = kind.from_pretrained(
                source.path,
                config=settings,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **safe,
            )
    # transformers raises OSError, ValueError, KeyError, SafetensorError and more for a folder that is not whole.
    except Exception as exc:
        raise _corrupt(source, exc) from exc
    lacking = [*map(str, found["missing_keys"]), *(str(item[0]) for item in found["mismatched_keys"])]
    if lacking and config[TorchSettings].strict:
        what = f"{len(lacking)} of its weights are missing or of another shape: {', '.join(sorted(lacking)[:5])}"
        hint = "save the whole model, or set `torch.strict: false` to let them be random"
        raise ModelError(what, where=str(source.path), hint=hint)
    taken = [name for name in inspect.signature(module.forward).parameters if name in _HF_INPUTS]
    specs = [
        TensorSpec(name, _HF_INPUTS[name][0], (ANY,) * _HF_INPUTS[name][1], optional=name not in _HF_NEEDED)
        for name in taken
    ]
    return _model(source, module.eval(), specs, keywords=True)


def _check_attention(settings: Any) -> None:
    """A name with a slash would be looked up on the Hub, and its code run. Raises ValueError."""
    for wanted in (settings, *(getattr(settings, name, None) for name in getattr(settings, "sub_configs", ()))):
        if "/" in str(getattr(wanted, "_attn_implementation", None) or ""):
            raise ValueError(f"its configuration asks for the kernel `{wanted._attn_implementation}` from elsewhere")


def _forward_specs(module: Any) -> list[TensorSpec]:
    """What ``forward`` takes; an argument that has a default may be left out."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [item for item in parameters if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]
    return [TensorSpec(item.name, optional=item.default is not item.empty) for item in named]


def _by_name(source: Source, specs: list[TensorSpec]) -> bool:
    """Whether ``forward`` can be called by name: not where the pipeline gives its arguments other names."""
    return {spec.name for spec in source.inputs} <= {spec.name for spec in specs}


def _is_model_class(kind: Any) -> bool:
    """A class whose code is transformers' own; the Auto classes may look for code in the folder."""
    import transformers

    return isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)


def _model(source: Source, module: Any, specs: list[TensorSpec], *, keywords: bool = False) -> Model:
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


def _corrupt(source: Source, exc: Exception) -> ModelError:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()] or [type(exc).__name__]
    return ModelError(f"PyTorch can't read it: {lines[0]}", where=str(source.path), hint="save or export it again")
