"""CUDA cards as PyTorch sees them; asked only when the pipeline wants one."""

from __future__ import annotations

from importlib.util import find_spec

from deepseek.plugin import Device


def find_devices(wanted: str) -> list[Device]:
    """Every CUDA (or ROCm) card, when `wanted` is one; else nothing, so that PyTorch is not imported for it."""
    if not wanted.startswith("cuda") or find_spec("torch") is None:
        return []
    import torch

    return [_describe(index) for index in range(torch.cuda.device_count())]


def _describe(index: int) -> Device:
    import torch

    card = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    facts = {
        "processor": card.name,
        "capability": f"{card.major}.{card.minor}",
        "processors": card.multi_processor_count,
    }
    return Device(f"cuda:{index}", "cuda", total, free, facts)
