"""Running a module in inference mode."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_unflatten

from deepseek.plugin import (
    ANY,
    DeepSeekError,
    Device,
    DeviceError,
    ExecutionError,
    Model,
    ModelError,
    OutOfMemoryError,
    Share,
    Signature,
    Tensors,
    TensorSpec,
)
from deepseek_torch.loading import default_names
from deepseek_torch.settings import TorchSettings
from deepseek_torch.storage import adopt, buffers_kept, held

_ROWS, _LENGTH = 2, 13


class TorchExecutor:
    """A module on one device. `run` may be called from any number of threads."""

    concurrency = 0

    def __init__(self, model: Model, settings: TorchSettings, device: Device) -> None:
        self._device = torch.device(device.name)
        self._dtype = getattr(torch, settings.dtype) if settings.dtype else None
        self._layout = torch.channels_last if settings.channels_last else torch.preserve_format
        self._on_host = device.kind == "cpu"
        self._as_it_comes = self._on_host and self._dtype is None and not settings.channels_last
        self._threads = _Threads(settings.threads) if settings.threads else contextlib.nullcontext()
        self._keywords = bool(model.facts.get("keywords"))
        self._structure: Any = model.facts.get("structure")
        self._module: Any = self._place(model.native, settings)
        self._names = [spec.name for spec in model.signature.inputs]
        self._outputs = [spec.name for spec in model.signature.outputs]
        # Modules may work in place on what they get, at times: only of a graph can it be known that it does not.
        self._copies = not model.facts.get("pure")
        self._kept = {tensor.untyped_storage().data_ptr() for tensor in held(self._module)}
        self.signature = self._complete(model.signature)

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        """Compute; see `deepseek.plugin.Executor.run`."""
        with self._threads:
            return self._infer(inputs)

    def _infer(self, inputs: Tensors) -> dict[str, Any]:
        try:
            with torch.inference_mode():
                tensors = {name: self._tensor(name, inputs[name]) for name in self._names if name in inputs}
                taken = {t.untyped_storage().data_ptr() for t in tensors.values()} if self._on_host else set()
                return {name: self._to_numpy(value, taken) for name, value in self._named(self._call(tensors))}
        except DeepSeekError:
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
        except torch.OutOfMemoryError as exc:
            raise OutOfMemoryError(f"the weights do not fit on {self._device}") from exc
        except RuntimeError as exc:
            raise DeviceError(f"PyTorch can't use {self._device}: {exc}") from exc
        try:
            return module.to(memory_format=torch.channels_last) if settings.channels_last else module
        except RuntimeError as exc:
            raise ModelError(f"its weights have no such layout: {exc}", hint="leave `torch.channels_last` out") from exc

    def _tensor(self, name: str, value: Any) -> torch.Tensor:
        tensor = adopt(name, value)
        if self._as_it_comes and tensor.is_cpu and not self._copies:
            # Nothing to convert, which `to` takes longer to find out than all of this.
            return tensor
        dtype = self._dtype if self._dtype is not None and tensor.is_floating_point() else tensor.dtype
        layout = self._layout if tensor.ndim == 4 else torch.preserve_format
        # Not waiting pays on the way to a card alone: from there, the host would read what has not arrived.
        return tensor.to(self._device, dtype, non_blocking=not self._on_host, copy=self._copies, memory_format=layout)

    def _to_numpy(self, tensor: torch.Tensor, taken: set[int]) -> Any:
        """On the host, and the caller's own to write to.

        A view of an input, of another output, or of what the module holds is copied. NumPy has no bfloat16, which
        comes as float32; so does a half precision that `torch.dtype` asks for, so that outputs do not change with it.

        Args:
            tensor: an output.
            taken: memory that belongs to somebody; that of the output is added.
        """
        if tensor.dtype is torch.bfloat16 or (self._dtype is torch.float16 and tensor.dtype is torch.float16):
            tensor = tensor.float()
        if not tensor.is_cpu:
            return tensor.cpu().resolve_conj().resolve_neg().numpy()
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        place = tensor.untyped_storage().data_ptr()
        if place in taken or place in self._kept or 0 in tensor.stride():
            return tensor.numpy().copy()
        taken.add(place)
        return tensor.numpy()

    def _call(self, tensors: dict[str, torch.Tensor]) -> Any:
        module = self._module
        if self._structure is not None:
            arguments, keywords = tree_unflatten(list(tensors.values()), self._structure)
            return module(*arguments, **keywords)
        return module(**tensors) if self._keywords else module(*tensors.values())

    def _named(self, results: Any) -> list[tuple[str, torch.Tensor]]:
        """Outputs by name: the pipeline's names; else a mapping's own keys, or ``output``, ``output_0``, ..."""
        if isinstance(results, torch.Tensor) and len(self._outputs) < 2:
            # Most modules; the general way would take longer than all the rest of a call.
            return [(self._outputs[0] if self._outputs else "output", results)]
        if isinstance(results, Mapping):
            found = dict(_members(results))
        else:
            values = [leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor)]
            found = dict(zip(default_names(len(values)), values, strict=True))
        names = self._outputs or list(found)
        if set(names) <= set(found):
            return [(name, found[name]) for name in names]
        if len(names) != len(found):
            hint = f"it gives {len(found)}: {', '.join(found)}"
            raise ModelError(f"`model.outputs` names {len(names)} outputs ({', '.join(names)})", hint=hint)
        return list(zip(names, found.values(), strict=True))

    def _complete(self, signature: Signature) -> Signature:
        """The signature with its outputs, which modules do not state: found, and warmed up, by one run."""
        if any(spec.shape is None for spec in signature.inputs) or any(spec.shape for spec in signature.outputs):
            return signature
        try:
            with self._threads, buffers_kept(self._module), torch.inference_mode():
                given = {s.name: self._tensor(s.name, _filler(s)) for s in signature.inputs if not s.optional}
                answer = [(name, self._to_numpy(value, set())) for name, value in self._named(self._call(given))]
        except DeepSeekError:
            raise
        # The filler may be no legal input (indices, masks); then outputs stay as declared.
        except Exception:
            return signature
        return Signature(signature.inputs, tuple(_output_spec(name, value) for name, value in answer))


def _members(results: Mapping[Any, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a mapping by their keys; those within a list or a mapping are numbered."""
    for key, value in results.items():
        if isinstance(value, torch.Tensor):
            yield str(key), value
        elif isinstance(value, list | tuple | dict):
            leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
            yield from ((f"{key}_{index}", leaf) for index, leaf in enumerate(leaves))


class _Threads:
    """A block with another number of PyTorch's threads, which PyTorch keeps for each calling thread."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._before = threading.local()

    def __enter__(self) -> None:
        self._before.number = torch.get_num_threads()
        torch.set_num_threads(self._number)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before.number)


def _filler(spec: TensorSpec) -> torch.Tensor:
    """Zeros for indices, -1 for numbers.

    Sizes that vary are `_ROWS` for the batch and `_LENGTH` elsewhere, to be told in the outputs.
    """
    sizes = [n if n != ANY else _LENGTH if axis else _ROWS for axis, n in enumerate(spec.shape or ())]
    dtype = getattr(torch, spec.dtype or "float32")
    return torch.full(sizes, -1 if dtype.is_floating_point else 0, dtype=dtype)


def _output_spec(name: str, value: Any) -> TensorSpec:
    shape = tuple(ANY if n == (_LENGTH if axis else _ROWS) else n for axis, n in enumerate(value.shape))
    return TensorSpec(name, str(value.dtype), shape)


def _translate(exc: Exception) -> ExecutionError | OutOfMemoryError:
    text = str(exc).strip() or type(exc).__name__
    lacking = ("not enough memory", "can't allocate memory")
    if isinstance(exc, torch.OutOfMemoryError | MemoryError) or any(words in text for words in lacking):
        return OutOfMemoryError("PyTorch ran out of memory", hint="send a smaller batch")
    return ExecutionError(f"PyTorch failed: {text.splitlines()[-1]}")
