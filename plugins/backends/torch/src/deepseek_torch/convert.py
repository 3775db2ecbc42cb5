"""torch -> onnx, for pipelines whose engine is another than the model's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from deepseek.plugin import (
    ANY,
    HOST,
    Config,
    Decline,
    DeepSeekError,
    Model,
    ModelError,
    Pass,
    Signature,
    Stage,
    TensorSpec,
    library_missing,
    output_errors,
)
from deepseek_torch.quiet import quiet
from deepseek_torch.settings import TorchSettings


def to_onnx(config: Config) -> Pass | Decline:
    """The conversion, as a pass that the kernel uses where formats have to be bridged."""
    for library in ("onnx", "onnxscript"):
        if missing := library_missing(library, "deepseek-torch", "onnx"):
            return missing
    return Pass(
        "torch-to-onnx", Stage.CONVERT, frozenset({"torch"}), lambda m, f: _convert(m, f, config), yields="onnx"
    )


def _convert(model: Model, folder: Path, config: Config) -> Model:
    import torch

    # All inputs of a Hugging Face model, the optional mask too, become inputs of the graph.
    inputs = [spec for spec in model.signature.inputs if not spec.optional or spec.shape is not None]
    _check_declared(inputs, config)
    target = folder / "model.onnx"
    signature = _complete(model)
    examples = {spec.name: _example(spec) for spec in inputs}
    by_name = bool(model.facts.get("keywords"))
    shapes = [
        {axis: torch.export.Dim.DYNAMIC for axis, n in enumerate(spec.shape or ()) if n == ANY} for spec in inputs
    ]
    program: Any = model.facts.get("exported_program") or model.native
    try:
        with quiet("torch"), output_errors(target):
            torch.onnx.export(
                program,
                args=() if by_name else tuple(examples.values()),
                kwargs=examples if by_name else None,
                f=target,
                input_names=list(examples),
                output_names=[spec.name for spec in signature.outputs] or None,
                dynamic_shapes=dict(zip(examples, shapes, strict=True)) if by_name else tuple(shapes),
                dynamo=True,
                external_data=True,
                verbose=False,
            )
    except DeepSeekError:
        raise
    # The exporter raises its own errors, torch's and onnx's.
    except Exception as exc:
        hint = "run it with `engine: torch`, or export it yourself with torch.onnx.export"
        raise ModelError(f"PyTorch can't export this model to ONNX: {_cause(exc)}", hint=hint) from exc
    return Model("onnx", target, signature, {"converted_from": "torch"})


def _complete(model: Model) -> Signature:
    """The signature with the outputs' names, which most modules tell only when they run."""
    from deepseek_torch.executor import TorchExecutor

    return TorchExecutor(model, TorchSettings(), HOST).signature


def _check_declared(inputs: list[TensorSpec], config: Config) -> None:
    for spec in inputs:
        if spec.shape is None:
            hint = f"model: {{inputs: {{{spec.name}: {{dtype: float32, shape: [-1, 3, 224, 224]}}}}}}"
            problem = f"must declare the shape of `{spec.name}`, which the model does not tell, to be converted to ONNX"
            raise config.error("model.inputs", problem, hint=hint)


def _example(spec: TensorSpec) -> Any:
    """A tensor to trace with. Sizes that vary differ from axis to axis and are never 1, which would be baked in."""
    import torch

    shape = [2 + 6 * axis if n == ANY else n for axis, n in enumerate(spec.shape or ())]
    dtype = getattr(torch, spec.dtype or "float32")
    return torch.ones(shape, dtype=dtype)


def _cause(exc: BaseException) -> str:
    """The first line of what went wrong underneath: the exporter's own errors say which of its steps failed."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    # Without the colours that it has for terminals.
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(exc)).splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__
