"""Holds a converted model against the original: both run on the same random input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from msgspec.structs import replace

from deepseek.errors import DeepSeekError, ModelError
from deepseek.offers import Engine
from deepseek.protocols import Executor
from deepseek.types import ANY, Model, Signature, TensorSpec

#: How far an output may be off, relative to the largest value of the original's output.
TOLERANCE = 1e-3

#: Stand in for dimensions that may vary, the first and the others. Not one, which exporters specialise on,
#: and not the same, lest two dimensions be taken for one.
SAMPLE_ROWS, SAMPLE_SIZE = 2, 8

#: Sizes of batches that are compared: the sample's, the smallest, and one of which nothing was said.
SIZES = (SAMPLE_ROWS, 1, 11)


def compare(original: Model, converted: Model, engines: Sequence[Engine]) -> str:
    """Run both models on random input and compare every output.

    Args:
        original: before the conversion.
        converted: after it, in another format.
        engines: those that are installed; one must execute each format.

    Returns:
        A sentence with the largest error, or why nothing was compared.

    Raises:
        ModelError: an output is missing, has another shape, or is off by more than `TOLERANCE`.
    """
    first, second = (_engine(engines, model.format) for model in (original, converted))
    if first is None or second is None:
        return f"not checked: no engine here executes {original.format if first is None else converted.format}"
    with ExitStack() as stack:
        executors = []
        for engine, model in ((first, original), (second, converted)):
            executors.append(executor := _open(engine, model, f"as {model.format}"))
            stack.callback(executor.close)
        return _compare(*executors)


def _open(engine: Engine, model: Model, what: str) -> Executor:
    try:
        return (engine.reference or engine.open)(model)
    except ModelError as exc:
        hint = "use the model's own engine, or convert it with its own tools"
        raise ModelError(f"{engine.name} can't run the model {what}: {exc.what}", hint=hint) from exc


def _engine(engines: Sequence[Engine], kind: str) -> Engine | None:
    return next((engine for engine in engines if kind in engine.accepts), None)


def _compare(original: Executor, converted: Executor) -> str:
    signature = _known(original.signature, converted.signature)
    if any(spec.shape is None for spec in signature.inputs):
        return "not checked: the shapes of the inputs are not known"
    if odd := [spec.dtype for spec in signature.inputs if not _numpys(spec.dtype)]:
        return f"not checked: NumPy has no {odd[0]}"
    worst = 0.0
    # An exporter may have kept the way that a batch of the sample's size takes, and no other.
    sizes = SIZES if any(spec.shape and spec.shape[0] == ANY for spec in signature.inputs) else SIZES[:1]
    # The first once more: a model that counts its calls gives another answer then, and its copy must too.
    for rows in (*sizes, sizes[0]):
        inputs = sample(signature, rows)
        try:
            wanted = original.run(inputs, ())
        except DeepSeekError:
            if rows == SIZES[0]:
                raise
            # A size that the model does not take.
            continue
        worst = max(worst, _difference(wanted, converted.run(inputs, ()), f"a batch of {rows}"))
    return f"largest error on random input {worst:.1e} of the largest output"


def _known(original: Signature, converted: Signature) -> Signature:
    """The converted model's signature; what it does not tell of an input, the original may."""
    own = {spec.name: spec for spec in original.inputs}
    inputs = (own.get(spec.name, spec) if spec.shape is None else spec for spec in converted.inputs)
    return Signature(tuple(replace(spec, optional=False) for spec in inputs), converted.outputs)


def _numpys(dtype: str) -> bool:
    import numpy as np

    try:
        # Other libraries give NumPy dtypes that it computes nothing with: their kind is "V".
        return np.dtype(dtype or "float32").kind != "V"
    except TypeError:
        return False


def _difference(wanted: Mapping[str, Any], got: Mapping[str, Any], what: str) -> float:
    if wanted.keys() != got.keys():
        raise ModelError(f"the conversion changed the outputs from {', '.join(wanted)} to {', '.join(got)}")
    worst = max((_distance(name, wanted[name], got[name]) for name in wanted), default=0.0)
    if not worst <= TOLERANCE:
        hint = "use the model's own engine, or convert it with its own tools"
        raise ModelError(f"the converted model is off by {worst:.2g} with {what} (limit {TOLERANCE:g})", hint=hint)
    return worst


def _distance(name: str, wanted: Any, got: Any) -> float:
    import numpy as np

    if wanted.shape != got.shape:
        raise ModelError(f"the conversion changed the shape of `{name}` from {wanted.shape} to {got.shape}")
    exact = np.complex128 if np.iscomplexobj(wanted) or np.iscomplexobj(got) else np.float64
    wanted, got = wanted.astype(exact), got.astype(exact)
    # What is not finite has no distance: it must be the same in both.
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], got[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        raise ModelError(f"the conversion changed where `{name}` is infinite or not a number")
    wanted, got = wanted[finite], got[finite]
    scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
    return float(np.abs(wanted - got).max(initial=0.0)) / scale


def sample(signature: Signature, rows: int = SAMPLE_ROWS, seed: int = 0) -> dict[str, Any]:
    """Random inputs of the signature's shapes: normal floats, integers 0 and 1, true and false.

    Integers may be indices (0 and 1 are always legal) or a mask; each row starts with 1, because a mask that
    hides everything has no defined result.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    return {spec.name: _random(random, spec, rows) for spec in signature.inputs if not spec.optional}


def _random(random: Any, spec: TensorSpec, rows: int) -> Any:
    import numpy as np

    shape = [size if size != ANY else SAMPLE_SIZE if axis else rows for axis, size in enumerate(spec.shape or ())]
    if spec.dtype == "bool" or "int" in spec.dtype:
        values = np.asarray(random.integers(0, 2, shape))
        if shape:
            values[..., :1] = 1
        return np.asarray(values, spec.dtype)
    return np.asarray(random.standard_normal(shape), spec.dtype or "float32")
