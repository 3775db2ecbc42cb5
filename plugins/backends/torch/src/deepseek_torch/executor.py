"""Running a module in inference mode."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from deepseek.plugin import (
    ANY,
    NO_OPTIONS,
    Device,
    DeviceError,
    ExecutionError,
    InputError,
    Model,
    Options,
    OutOfMemoryError,
    Signature,
    Tensors,
    TensorSpec,
)
from deepseek_torch.loading import default_names
from deepseek_torch.settings import TorchSettings

_ROWS, _LENGTH = 2, 13


class TorchExecutor:
    """A module on one device. `run` may be called from any number of threads."""

    concurrency = 0

    def __init__(self, model: Model, settings: TorchSettings, device: Device) -> None:
        self._device = torch.device(device.name)
        self._dtype = getattr(torch, settings.dtype) if settings.dtype else None
        self._layout = torch.channels_last if settings.channels_last else torch.preserve_format
        self._threads = settings.threads
        self._local = threading.local()
        self._keywords = bool(model.facts.get("keywords"))
        self._module: Any = self._place(model.native, settings)
        self._names = [spec.name for spec in model.signature.inputs]
        self._outputs = [spec.name for spec in model.signature.outputs]
        self.signature = self._complete(model.signature)

    def run(self, inputs: Tensors, options: Options) -> dict[str, Any]:
        """Compute; see `deepseek.plugin.Executor.run`."""
        if self._threads and not hasattr(self._local, "ready"):
            # PyTorch keeps the number of threads per calling thread.
            torch.set_num_threads(self._threads)
            self._local.ready = True
        try:
            with torch.inference_mode():
                results = self._call({name: self._tensor(name, inputs[name]) for name in self._names if name in inputs})
                return {name: _to_numpy(value) for name, value in self._named(results)}
        except InputError:
            raise
        # Operators raise RuntimeError, IndexError, TypeError, ...: all are failures of this one request.
        except Exception as exc:
            raise _translate(exc) from exc

    def close(self) -> None:
        """Let the module go; its memory is freed when the last call under way ends."""
        self._module = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _place(self, module: Any, settings: TorchSettings) -> Any:
        try:
            module = module.to(self._device)
            if self._dtype is not None:
                module = module.to(self._dtype)
            return module.to(memory_format=torch.channels_last) if settings.channels_last else module
        except torch.OutOfMemoryError as exc:
            raise OutOfMemoryError(f"the weights do not fit on {self._device}") from exc
        except RuntimeError as exc:
            raise DeviceError(f"PyTorch can't use {self._device}: {exc}") from exc

    def _tensor(self, name: str, value: Any) -> torch.Tensor:
        if isinstance(value, np.ndarray) and any(stride < 0 for stride in value.strides):
            # torch.from_dlpack ends the process (not the call) on a negative stride.
            value = np.ascontiguousarray(value)
        try:
            tensor = value if isinstance(value, torch.Tensor) else from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as exc:
            raise InputError(f"PyTorch can't take the input `{name}`: {exc}") from exc
        dtype = self._dtype if self._dtype is not None and tensor.is_floating_point() else tensor.dtype
        layout = self._layout if tensor.ndim == 4 else torch.preserve_format
        return tensor.to(self._device, dtype, non_blocking=True, memory_format=layout)

    def _call(self, tensors: dict[str, torch.Tensor]) -> Any:
        module = self._module
        return module(**tensors) if self._keywords else module(*tensors.values())

    def _named(self, results: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Outputs by name: a mapping's own keys; else the pipeline's names, or ``output``, ``output_1``, ..."""
        if isinstance(results, Mapping):
            found = {key: value for key, value in results.items() if isinstance(value, torch.Tensor)}
            return iter(found.items() if len(self._outputs) != len(found) else zip(self._outputs, found.values()))  # noqa: B905
        values = [results] if isinstance(results, torch.Tensor) else [v for v in results if isinstance(v, torch.Tensor)]
        return zip(
            self._outputs if len(self._outputs) == len(values) else default_names(len(values)), values, strict=True
        )

    def _complete(self, signature: Signature) -> Signature:
        """The signature with its outputs, which modules do not state: found, and warmed up, by one run."""
        if any(spec.shape is None for spec in signature.inputs) or any(spec.shape for spec in signature.outputs):
            return signature
        tensors = {spec.name: _filler(spec) for spec in signature.inputs if not spec.optional}
        # Zeros may be no legal input (indices, masks); then outputs stay as declared.
        with contextlib.suppress(ExecutionError):
            outputs = self.run(tensors, NO_OPTIONS)
            return Signature(signature.inputs, tuple(_output_spec(name, value) for name, value in outputs.items()))
        return signature


def _filler(spec: TensorSpec) -> torch.Tensor:
    """Zeros; sizes that vary are `_ROWS` for the batch and `_LENGTH` elsewhere, to be told in the outputs."""
    sizes = [n if n != ANY else _LENGTH if axis else _ROWS for axis, n in enumerate(spec.shape or ())]
    return torch.zeros(sizes, dtype=getattr(torch, spec.dtype or "float32"))


def _output_spec(name: str, value: Any) -> TensorSpec:
    shape = tuple(ANY if n == (_LENGTH if axis else _ROWS) else n for axis, n in enumerate(value.shape))
    return TensorSpec(name, str(value.dtype), shape)


def _to_numpy(tensor: torch.Tensor) -> Any:
    """On the host; half precisions as float32, so that a pipeline's outputs do not change with `torch.dtype`."""
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.cpu().numpy()


def _translate(exc: Exception) -> ExecutionError | OutOfMemoryError:
    text = str(exc).strip() or type(exc).__name__
    if isinstance(exc, torch.OutOfMemoryError | MemoryError) or "not enough memory" in text:
        return OutOfMemoryError("PyTorch ran out of memory", hint="send a smaller batch")
    return ExecutionError(f"PyTorch failed: {text.splitlines()[-1]}")
