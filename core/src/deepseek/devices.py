"""The device that every machine has: the CPU, with the limits that a container sets."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import psutil
from msgspec.structs import replace

from deepseek.errors import DeviceError
from deepseek.types import Device

#: Instruction sets that engines choose kernels by; Linux's names, x86-64 and then Arm.
INSTRUCTION_SETS = (
    "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip

_CGROUP = Path("/sys/fs/cgroup")


def cpu(root: Path = _CGROUP, cpuinfo: Path = Path("/proc/cpuinfo")) -> Device:
    """The CPU as this process may use it: cores by affinity and quota, memory by the cgroup's limit.

    Args:
        root: where the cgroup file system is mounted (version 2, or version 1's controllers below it).
        cpuinfo: Linux's description of the processor; elsewhere no instruction sets are known.
    """
    memory = psutil.virtual_memory()
    limit, used = _memory_limit(root)
    total = min(memory.total, limit) if limit else memory.total
    available = min(memory.available, max(0, limit - used)) if limit else memory.available
    model, flags = _processor(cpuinfo)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(root)
    facts = {
        "processor": model,
        "cores": max(1, min(affinity, int(quota))) if quota else affinity,
        "cpu_quota": quota,
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
    }
    return Device("cpu", "cpu", int(total), int(available), facts)


def choose(name: str, devices: Sequence[Device], where: str = "") -> Device:
    """The device of that name.

    Raises:
        DeviceError: there is none; names those that there are.
    """
    for device in devices:
        if device.name == name or (device.kind == name and device.name == f"{name}:0"):
            return device
    found = ", ".join(dict.fromkeys(device.name for device in devices))
    hint = f"found: {found}; is the plugin for that hardware installed, and an engine built for it?"
    raise DeviceError(f"there is no device `{name}` on this machine", where=where, hint=hint)


def merge(devices: Sequence[Device]) -> tuple[Device, ...]:
    """One device of each name: engines see the same card, and each knows something of it (0 bytes: not known)."""
    found: dict[str, Device] = {}
    for device in devices:
        if device.name in found:
            first = found[device.name]
            known = first if first.memory_bytes else device
            device = replace(known, kind=first.kind, facts={**device.facts, **first.facts})
        found[device.name] = device
    return tuple(found.values())


def resident_bytes() -> int:
    """Physical memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _groups(root: Path, controller: str = "") -> list[Path]:
    """The process's cgroup and those around it; limits of all of them hold.

    Args:
        root: where the hierarchy is mounted.
        controller: of version 1; empty: version 2.
    """
    fields = [line.split(":", 2) for line in _read(Path("/proc/self/cgroup")).splitlines()]
    paths = [field[2] for field in fields if len(field) == 3 and controller in field[1].split(",")]
    inner = root / paths[0].lstrip("/") if paths else root
    return [inner, *(parent for parent in inner.parents if parent.is_relative_to(root))]


def _memory_limit(root: Path) -> tuple[int, int]:
    """The tightest memory limit and the use under it in bytes, (0, 0) without a limit.

    Files that the kernel keeps cached and has not used of late count as used there, but make way when memory is
    needed (Kubernetes' "working set" leaves them out too).
    """
    files = [(group, "memory.max", "memory.current", "inactive_file") for group in _groups(root)]
    files += [
        (group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for group in _groups(root / "memory", "memory")
    ]
    limits = []
    for group, limit, usage, cached in files:
        text = _read(group / limit)
        # Version 1 says "no limit" with a number near 2**63.
        if text.isdigit() and int(text) < 1 << 60:
            used = int(_read(group / usage) or 0) - _stat(group / "memory.stat", cached)
            limits.append((int(text), max(0, used)))
    return min(limits, key=lambda found: found[0] - found[1], default=(0, 0))


def _stat(path: Path, name: str) -> int:
    pairs = (line.partition(" ") for line in _read(path).splitlines())
    return next((int(value) for key, _, value in pairs if key == name and value.isdigit()), 0)


def _cpu_quota(root: Path) -> float:
    """CPUs' worth of time that the tightest cgroup grants, 0.0 without a limit."""
    texts = [_read(group / "cpu.max") for group in _groups(root)]
    texts += [
        f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
        for group in _groups(root / "cpu", "cpu")
    ]
    return min(filter(None, map(_quota, texts)), default=0.0)


def _quota(text: str) -> float:
    quota, _, period = text.partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else 0.0


def _processor(cpuinfo: Path) -> tuple[str, set[str]]:
    pairs = (line.partition(":") for line in _read(cpuinfo).splitlines())
    lines = {key.strip(): value.strip() for key, _, value in pairs if value}
    flags = set((lines.get("flags") or lines.get("Features") or "").split())
    return lines.get("model name") or platform.processor() or platform.machine(), flags
