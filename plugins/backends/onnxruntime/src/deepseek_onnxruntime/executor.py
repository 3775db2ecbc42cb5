"""Running a session: NumPy arrays straight through, tensors that are on the card already by IO binding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnxruntime import OrtValue

from deepseek.plugin import (
    ANY,
    Device,
    ExecutionError,
    InputError,
    Model,
    ModelError,
    OutOfMemoryError,
    Share,
    Signature,
    Tensors,
    TensorSpec,
    stated_signature,
)
from deepseek_onnxruntime.kept import open_session
from deepseek_onnxruntime.settings import OnnxRuntimeSettings

#: ONNX Runtime's names of element types that differ from NumPy's.
_DTYPES = {"float": "float32", "double": "float64", "string": "str"}
#: DLPack's numbers of memory that the host reads: its own, and the pinned part of it.
_HOST = (1, 3)


class OnnxRuntimeExecutor:
    """An ONNX model in a session. `run` may be called from any number of threads."""

    concurrency = 0

    def __init__(self, model: Model, settings: OnnxRuntimeSettings, device: Device) -> None:
        self._session: Any = open_session(model.native, settings, device)
        batch = _batch_symbol(self._session.get_inputs())
        inputs = tuple(_spec(item, batch) for item in self._session.get_inputs())
        outputs = tuple(_spec(item, batch) for item in self._session.get_outputs())
        self.signature = stated_signature(Signature(inputs, outputs), model.signature)
        self._names = [spec.name for spec in self.signature.outputs]
        _check_tensors(self._session, self._names, model.native)
        texts = any(spec.dtype == "str" for spec in self.signature.inputs)
        # Binding costs 100 us, and for what comes from the host and goes back to it gains nothing.
        self._bind = settings.io_binding
        self._on_card = device.kind != "cpu"
        self._as_it_comes = not (settings.io_binding or texts)

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        """Compute; see `deepseek.plugin.Executor.run`."""
        try:
            for value in inputs.values():
                if type(value) is not np.ndarray or not self._as_it_comes:
                    return dict(zip(self._names, self._run_other(inputs), strict=True))
            return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        except InputError:
            raise
        # ONNX Runtime's exceptions have no common base below Exception.
        except Exception as exc:
            raise _translate(exc) from exc

    def close(self) -> None:
        """Let the session go; its memory is freed when the last call under way ends."""
        self._session = None

    def _run_other(self, inputs: Tensors) -> Any:
        """Arrays of other libraries: bound where one of them is on the card, as NumPy arrays otherwise."""
        if self._bind or (self._bind is None and self._on_card and not all(map(_on_host, inputs.values()))):
            return self._run_bound(inputs)
        return self._session.run(self._names, {name: as_numpy(value) for name, value in inputs.items()})

    def _run_bound(self, inputs: Tensors) -> Any:
        session = self._session
        binding = session.io_binding()
        on_card = {name: value for name, value in inputs.items() if not _on_host(value)}
        for name, value in inputs.items():
            if name in on_card:
                binding.bind_ortvalue_input(name, _on_card(name, value))
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(as_numpy(value)))
        if on_card:
            # Who computed them may not be done: its stream is not the session's.
            binding.synchronize_inputs()
        for name in self._names:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()


def as_numpy(value: Any) -> np.ndarray[Any, Any]:
    """Any DLPack array on the host as a NumPy one, without a copy. Raises InputError."""
    if isinstance(value, np.ndarray):
        return _text(value) if value.dtype.kind in "SO" else value
    try:
        # TensorFlow ends the process when its text is asked for over DLPack.
        return _text(np.asarray(value)) if "str" in str(value.dtype) else np.from_dlpack(value)
    except InputError:
        raise
    # Tensors on a card, sparse ones and those that need gradients can't be handed over; each library says so its way.
    except Exception as exc:
        raise InputError(f"ONNX Runtime can't take this {type(value).__name__}: {exc}") from exc


def _text(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bytes as the text that they are: ONNX Runtime reads beyond them. Raises InputError."""
    return np.asarray([_word(item) for item in array.ravel()], object).reshape(array.shape)


def _word(item: object) -> str:
    if isinstance(item, bytes):
        try:
            return item.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise InputError(f"ONNX Runtime takes text, and these bytes are none: {item!r}") from exc
    if not isinstance(item, str):
        raise InputError(f"ONNX Runtime takes text, not a {type(item).__name__}")
    return item


def _check_tensors(session: Any, wanted: list[str], path: object) -> None:
    """Sequences and maps have no rows, no shape and no dtype. Raises ModelError."""
    outputs = [item for item in session.get_outputs() if item.name in wanted]
    for what, item in [("input", item) for item in session.get_inputs()] + [("output", item) for item in outputs]:
        if not item.type.startswith("tensor("):
            hint = "export it with tensors only (scikit-learn: zipmap=False)"
            hint += ", or leave the output out of `model.outputs`" if what == "output" else ""
            raise ModelError(f"its {what} `{item.name}` is no tensor: {item.type}", where=str(path), hint=hint)


def _on_host(value: Any) -> bool:
    return isinstance(value, np.ndarray) or value.__dlpack_device__()[0] in _HOST


def _on_card(name: str, value: Any) -> Any:
    """A DLPack array on the card, without a copy. Raises InputError."""
    try:
        return OrtValue.from_dlpack(value)
    # Not contiguous, of a dtype that it lacks, ...; versions before 1.30 lack the function.
    except Exception as exc:
        raise InputError(f"ONNX Runtime can't take the input `{name}` from the card: {exc}") from exc


def _batch_symbol(inputs: Any) -> str | None:
    """The name of the first input's first dimension, where it has one (``batch``)."""
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return first if isinstance(first, str) else None


def _spec(item: Any, batch: str | None) -> TensorSpec:
    kind = item.type.removeprefix("tensor(").removesuffix(")") if item.type.startswith("tensor(") else ""
    # Without dimensions: a number, or a tensor of any; ONNX Runtime does not tell which.
    if not item.shape:
        return TensorSpec(item.name, _DTYPES.get(kind, kind))
    first = item.shape[0]
    if batch and isinstance(first, str) and first != batch:
        # It varies by itself: what the model says of it is no batch, which all inputs would have to share.
        return TensorSpec(item.name, _DTYPES.get(kind, kind))
    # Named (symbolic) and unknown dimensions come as text or None.
    shape = tuple(size if isinstance(size, int) else ANY for size in item.shape)
    return TensorSpec(item.name, _DTYPES.get(kind, kind), shape)


def _translate(exc: Exception) -> InputError | ExecutionError | OutOfMemoryError:
    text = str(exc).removeprefix("[ONNXRuntimeError] : ").replace("\n", " ").strip()
    if type(exc).__name__ == "InvalidArgument":
        return InputError(f"ONNX Runtime refuses the input: {text}")
    if isinstance(exc, MemoryError) or "bad_alloc" in text or "allocate memory" in text:
        return OutOfMemoryError("ONNX Runtime ran out of memory", hint="send a smaller batch")
    return ExecutionError(f"ONNX Runtime failed: {text}")
