"""The CPU as a container sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepseek.devices import cpu, merge
from deepseek.plugin import Device

CPUINFO = "processor\t: 0\nmodel name\t: Acme 9000\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_tile\n\n"


def test_a_container_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2**28}\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    device = cpu(tmp_path, tmp_path / "cpuinfo")
    assert device.memory_bytes == 2**30
    assert device.available_bytes <= 2**30 - 2**28
    assert device.facts["cores"] == 1
    assert device.facts["processor"] == "Acme 9000"
    assert device.facts["instruction_sets"] == ["avx2", "avx512f", "avx512_vnni", "amx_tile"]


def test_a_container_of_version_1(tmp_path: Path) -> None:
    for folder in ("memory", "cpu"):
        (tmp_path / folder).mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(str(2**31))
    (tmp_path / "memory/memory.usage_in_bytes").write_text("0")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    device = cpu(tmp_path)
    assert (device.memory_bytes, device.facts["cpu_quota"], device.facts["cores"]) == (2**31, 1.0, 1)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_no_limit(tmp_path: Path, limit: str) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "cpu.max").write_text("max 100000")
    device = cpu(tmp_path, tmp_path / "absent")
    assert device.memory_bytes > 2**28
    assert (device.facts["cpu_quota"], device.facts["instruction_sets"]) == (0.0, [])


def test_what_several_engines_know_of_one_card_is_put_together() -> None:
    host = Device("cpu", "cpu", 100, 50, {"cores": 2})
    one = Device("cuda:0", "cuda", 0, 0, {"onnxruntime": "CUDAExecutionProvider", "processor": "A"})
    two = Device("cuda:0", "cuda", 80, 70, {"processor": "B", "capability": "9.0"})
    facts = {"onnxruntime": "CUDAExecutionProvider", "processor": "A", "capability": "9.0"}
    assert merge([host, one, two]) == (host, Device("cuda:0", "cuda", 80, 70, facts))
    assert merge([host, two, one])[1].memory_bytes == 80


@pytest.mark.parametrize(
    ("folder", "limit", "usage", "cached"),
    [
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_cached_files_make_way(tmp_path: Path, folder: str, limit: str, usage: str, cached: str) -> None:
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (group / limit).write_text(str(2**30))
    (group / usage).write_text(str(2**30 - 2**20))
    (group / "memory.stat").write_text(f"cache 1\n{cached} {2**29}\n")
    assert cpu(tmp_path).available_bytes == 2**29 + 2**20
