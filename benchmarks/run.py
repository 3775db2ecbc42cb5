"""Runs every benchmark in processes of their own and keeps the figures: results/NAME.json and results/NAME.md.

python benchmarks/run.py                              # about 25 minutes on 2 cores
python benchmarks/run.py --name h100-torch --device cuda:0 --engines torch
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import models

HERE = Path(__file__).parent
LIBRARIES = (
    "torch", "tensorflow", "tensorflow-cpu", "onnxruntime", "onnxruntime-gpu", "numpy", "deepseek-core"
)  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engines", nargs="+", default=list(models.ENGINES))
    parser.add_argument("--seconds", type=float, default=180, help="for each measurement of the overhead")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    models.prepare(arguments.engines)
    results: dict[str, Any] = {"machine": machine(arguments.device), "overhead": {}}
    for engine in arguments.engines:
        say(f"overhead {engine}")
        options = ["--device", arguments.device, "--seconds", str(arguments.seconds)]
        results["overhead"][engine] = script("overhead.py", engine, *options)
    if arguments.device == "cpu":
        results["memory"] = {engine: memory(engine) for engine in arguments.engines}
        results["startup"] = startup()
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / f"{arguments.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / f"{arguments.name}.md").write_text(table(results, " ".join(sys.argv[1:])))
    print(table(results, " ".join(sys.argv[1:])))


def say(what: str) -> None:
    """Progress on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def script(name: str, *arguments: str) -> Any:
    """The JSON that a script of this folder prints."""
    done = subprocess.run([sys.executable, str(HERE / name), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def memory(engine: str, rounds: int = 5) -> dict[str, float]:
    """Medians of fresh processes, in turn."""
    say(f"memory {engine}")
    pairs = [[script("memory.py", engine, how)["resident_bytes"] for how in ("ours", "bare")] for _ in range(rounds)]
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"ours_mib": ours / 2**20, "bare_mib": bare / 2**20, "ratio": statistics.median(a / b for a, b in pairs)}


def startup(rounds: int = 15) -> dict[str, float]:
    """Milliseconds of whole processes, and of the import alone (a bare interpreter's time taken off)."""
    say("startup")
    deepseek = str(Path(sys.executable).parent / "deepseek")
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import deepseek": [sys.executable, "-c", "import deepseek"],
        "import deepseek.kernel": [sys.executable, "-c", "import deepseek.kernel"],
        "deepseek plugins": [deepseek, "plugins"],
        "deepseek --help": [deepseek, "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {**medians, "import deepseek, alone": medians["import deepseek"] - medians["python"]}


def machine(device: str) -> dict[str, Any]:
    """What it was measured on."""
    from deepseek.devices import cpu

    facts = cpu().facts
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    found = {"processor": facts["processor"], "cores": facts["cores"], "python": platform.python_version(), **libraries}
    if device != "cpu":
        import torch

        found["card"] = torch.cuda.get_device_name(device)
    return found


def between(found: dict[str, float], form: str) -> str:
    """A median with its 95% interval."""
    return f"{found['median']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def table(results: dict[str, Any], arguments: str) -> str:
    """The figures for people."""
    described = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = [f"Made by `python benchmarks/run.py {arguments}`".rstrip(" `") + "`.", "", f"{described}.", ""]
    lines += [
        "| call | bare ms | pipeline ms | ratio | bare to itself | added us |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for engine, found in results["overhead"].items():
        rows = {"smallest model": found["smallest"]} if "smallest" in found else {}
        rows |= {f"ResNet-50 {batch}": row for batch, row in found["resnet50"].items()}
        for name, row in rows.items():
            times = f"{row['bare_s'] * 1e3:.4g} | {row['ours_s'] * 1e3:.4g}"
            spread = " | ".join(between(row[key], ".4f") for key in ("ratio", "control"))
            lines.append(
                f"| {engine} on {found['device']}, {name} | {times} | {spread} | {between(row['extra_us'], '.1f')} |"
            )
    if "memory" in results:
        lines += ["", "| resident memory, ResNet-50 | bare MiB | pipeline MiB | ratio |", "| --- | --- | --- | --- |"]
        for engine, row in results["memory"].items():
            lines.append(f"| {engine} | {row['bare_mib']:.0f} | {row['ours_mib']:.0f} | {row['ratio']:.3f} |")
    if "startup" in results:
        lines += ["", "| start-up | ms |", "| --- | --- |"]
        lines += [f"| {name} | {value:.0f} |" for name, value in results["startup"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
