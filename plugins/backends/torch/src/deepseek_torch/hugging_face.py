"""A Hugging Face folder becomes a `Model`: weights and settings are its own, code is transformers' alone."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from deepseek.plugin import ANY, Config, Model, ModelError, Source, TensorSpec
from deepseek_torch.loading import as_model, corrupt
from deepseek_torch.quiet import unlogged
from deepseek_torch.safety import check_shards
from deepseek_torch.settings import TorchSettings

#: Inputs of Hugging Face models that are tensors, with their dtypes and numbers of dimensions.
_HF_INPUTS = {
    "input_ids": ("int64", 2), "attention_mask": ("int64", 2), "token_type_ids": ("int64", 2),
    "pixel_values": ("float32", 4), "input_features": ("float32", 3), "input_values": ("float32", 2),
    "decoder_input_ids": ("int64", 2),
}  # fmt: skip
_HF_NEEDED = {"input_ids", "pixel_values", "input_features", "input_values"}


def hugging_face(source: Source, config: Config) -> Model:
    """A folder with ``config.json`` and ``model.safetensors``; code in the folder is never run."""
    import transformers

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    check_shards(source.path)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        settings = transformers.AutoConfig.from_pretrained(source.path, **safe)
        _check_references(settings)
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
        raise corrupt(source, exc) from exc
    lacking = [*map(str, found["missing_keys"]), *(str(item[0]) for item in found["mismatched_keys"])]
    if lacking and config[TorchSettings].strict:
        what = f"{len(lacking)} of its weights are missing or of another shape: {', '.join(sorted(lacking)[:5])}"
        hint = "save the whole model, or set `torch.strict: false` to let them be random"
        raise ModelError(what, where=str(source.path), hint=hint)
    taken = [name for name in inspect.signature(module.forward).parameters if name in _HF_INPUTS]
    # A decoder wants to be told with what it begins.
    needed = _HF_NEEDED | ({"decoder_input_ids"} if getattr(settings, "is_encoder_decoder", False) else set())
    specs = [
        TensorSpec(name, _HF_INPUTS[name][0], (ANY,) * _HF_INPUTS[name][1], optional=name not in needed)
        for name in taken
    ]
    return as_model(source, module.eval(), specs, keywords=True)


def _check_references(settings: Any) -> None:
    """Nothing of a model lies elsewhere: a kernel with a slash would be looked up on the Hub. Raises ValueError."""
    weights = str(getattr(settings, "transformers_weights", None) or "")
    if Path(weights).name != weights:
        raise ValueError(f"its configuration names weights elsewhere: `{weights}`")
    for wanted in (settings, *(getattr(settings, name, None) for name in getattr(settings, "sub_configs", ()))):
        if "/" in str(getattr(wanted, "_attn_implementation", None) or ""):
            raise ValueError(f"its configuration asks for the kernel `{wanted._attn_implementation}` from elsewhere")


def _is_model_class(kind: Any) -> bool:
    """A class whose code is transformers' own; the Auto classes may look for code in the folder."""
    import transformers

    return isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
