"""Soaks a server: mixed load at 120% of its capacity, with malformed and cancelled requests, while models come and go.

Seven of ten requests come over HTTP, three over gRPC.

Usage: python benchmarks/serving/soak.py [--seconds 600] [--workers 1] [--name cpu]
Ends with 1 when a promise is broken. Writes results/soak-NAME.json, and a plot of the memory beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from soak_load import Soak
from soak_pieces import MODELS, make_model

RESULTS = Path(__file__).parents[1] / "results"


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of the server's processes."""
    every = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(one.memory_info().rss for one in every)


async def run(folder: Path, process: subprocess.Popen[str], url: str, address: str, seconds: float) -> dict[str, Any]:
    """The whole soak."""
    soak = Soak(folder, url, address)
    capacity = await soak.capacity(5.0)
    await soak.crowd()
    memory: list[tuple[float, int]] = []
    start = time.monotonic()

    async def watch() -> None:
        while True:
            memory.append((time.monotonic() - start, resident(process)))
            left = seconds - memory[-1][0]
            print(f"\r{left:5.0f} s to go, {soak.done} requests, {memory[-1][1] >> 20} MiB ", end="", file=sys.stderr)
            await asyncio.sleep(1.0)

    others = [asyncio.ensure_future(watch()), asyncio.ensure_future(soak.come_and_go())]
    await soak.load(1.2 * capacity, seconds)
    for task in others:
        task.cancel()
    await soak.channel.close()
    warm = [size for at, size in memory if at > seconds * 0.2]
    third = max(1, len(warm) // 3)
    first, last = np.median(warm[:third]), np.median(warm[-third:])
    return {
        "seconds": seconds, "capacity_rps": capacity, "offered_rps": 1.2 * capacity, "sent": soak.sent,
        "unanswered": soak.sent - soak.done, "seen": dict(sorted(soak.seen.items())), "wrong": soak.wrong[:20],
        "wrong_count": len(soak.wrong), "resident_growth": float(last / first - 1), "memory": memory,
    }  # fmt: skip


def draw(path: Path, memory: list[tuple[float, int]]) -> None:
    """Memory against time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.5), layout="constrained")
    axes.plot([at for at, _ in memory], [size / 2**20 for _, size in memory])
    axes.set(xlabel="seconds", ylabel="resident set, MiB", ylim=(0, None), title="Server under 120% of its capacity")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Start the server, soak it, and hold it against what it promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--name", default="cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for seed, name in enumerate(MODELS):
            make_model(folder / f"{name}.onnx", seed)
            (folder / f"{name}.yaml").write_text(
                f"model: {name}.onnx\nonnxruntime: {{threads: 1}}\nfifo: {{max_queue: 64}}\n"
            )
        command = [sys.executable, "-m", "deepseek", "serve", str(folder), "--port", "0", "--grpc-port", "0"]
        more = ["--workers", str(given.workers), "--set", "server.allow=[load]", "--log-level", "error"]
        process = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        words = process.stdout.readline().split()
        url, address = (next(word for word in words if word.startswith(scheme)) for scheme in ("http://", "grpc://"))
        try:
            found = uvloop.run(run(folder, process, url, address.removeprefix("grpc://"), given.seconds))
        finally:
            process.terminate()
            found_code = process.wait(60)
    print(file=sys.stderr)
    found["exit_code"] = found_code
    draw(RESULTS / f"soak-{given.name}.png", found.pop("memory"))
    (RESULTS / f"soak-{given.name}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    broken = found["wrong_count"] or found["unanswered"] or found_code or abs(found["resident_growth"]) > 0.03
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
