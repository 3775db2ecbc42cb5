"""ResNet-50 on a card behind a server, beside PyTorch called in a loop: what serving costs there.

Usage: python benchmarks/serving/card.py [--device cuda:0] [--name h100] [--seconds 1] [--rounds 20]
Writes results/serving-NAME.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import models  # noqa: E402 -- beside this folder

RESULTS = HERE.parent / "results"
CLIENTS = (1, 8, 32)
DEEPSEEK = [sys.executable, "-m", "deepseek"]


@contextmanager
def server(folder: Path, device: str) -> Iterator[str]:
    """The URL of a server of the model."""
    pipeline = {**models.configuration("torch"), "device": device, "serving": {"warmup": 30}}
    (folder / "resnet50.yaml").write_text(yaml.safe_dump(pipeline))
    command = [*DEEPSEEK, "serve", str(folder), "--port", "0", "--grpc-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield next(word for word in process.stdout.readline().split() if word.startswith("http://"))
    finally:
        process.terminate()
        process.wait(60)


def served(url: str, clients: int, seconds: float) -> dict[str, float]:
    """Requests per second and latencies of clients that ask again and again."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        more = ["--clients", str(clients), "--seconds", str(seconds), "--binary", "-o", file.name]
        subprocess.run([*DEEPSEEK, "bench", url, "resnet50", *more], check=True, stdout=subprocess.DEVNULL)
        [result] = json.loads(Path(file.name).read_text())["results"]
    return {"rps": result["rate"], "p50_ms": result["latency_ms"]["p50"], "p99_ms": result["latency_ms"]["p99"]}


def bare(call: models.Call, image: Any, seconds: float) -> dict[str, float]:
    """The same of a loop in this process."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call(image)
        times.append(time.perf_counter() - start)
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"rps": len(times) / sum(times), "p50_ms": float(p50), "p99_ms": float(p99)}


def check(url: str, call: models.Call, image: Any, folder: Path) -> float:
    """The largest difference between the server's answer and the engine's."""
    np.save(folder / "image.npy", image)
    command = [*DEEPSEEK, "infer", url, "resnet50", str(folder / "image.npy"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    [row] = json.loads(done.stdout)["rows"]
    return float(np.abs(np.asarray(row["logits"], np.float32).reshape(1, -1) - call(image)).max())


def main() -> None:
    """Measure in turn, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--name", default="h100")
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    models.prepare(["torch"])
    call, image = models.bare("torch", given.device), models.image("torch", 1)
    bare(call, image, 3)
    seen: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place, server(Path(place), given.device) as url:
        difference = check(url, call, image, Path(place))
        for turn in range(given.rounds):
            print(f"round {turn + 1} of {given.rounds}", file=sys.stderr, flush=True)
            seen.setdefault("bare", []).append(bare(call, image, given.seconds))
            for clients in CLIENTS:
                seen.setdefault(f"served, {clients} clients", []).append(served(url, clients, given.seconds))
        command = [*DEEPSEEK, "usage", url, "--format", "json"]
        usage = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    about = {"device": given.device, "seconds": given.seconds, "rounds": given.rounds, "difference": difference}
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps({**about, "usage": usage, "rounds_of": seen}, indent=1)
    (RESULTS / f"serving-{given.name}.json").write_text(content + "\n")
    text = (
        f"# ResNet-50 served from {given.name} ({given.device})\n\nMedians of {given.rounds} rounds of "
        f"{given.seconds:g} s, binary HTTP, batch 1. Largest difference from PyTorch's answer: {difference:.1e}.\n\n"
        f"{table(seen)}\n"
    )
    (RESULTS / f"serving-{given.name}.md").write_text(text)
    print(text)


def table(seen: dict[str, list[dict[str, float]]]) -> str:
    """For people."""
    lines = ["| | requests/s (range) | of the bare loop, round by round | p50, p99 ms |", "| --- | --- | --- | --- |"]
    for name, items in seen.items():
        rates, p50, p99 = ([item[key] for item in items] for key in ("rps", "p50_ms", "p99_ms"))
        ratio = statistics.median(rate / other["rps"] for rate, other in zip(rates, seen["bare"], strict=True))
        median = statistics.median
        lines.append(
            f"| {name} | {median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {ratio:.2f} "
            f"| {median(p50):.2f}, {median(p99):.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
