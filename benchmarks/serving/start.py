"""Measures how long a server takes from its start to being ready, and what it holds when idle, beside the bare engine.

Usage: python benchmarks/serving/start.py [--rounds 10] [--name cpu]
Whole processes, in turn. Writes results/start-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bodies
import psutil
from servers import answers

RESULTS = Path(__file__).parents[1] / "results"
PORT = 18400
#: The engine alone: its session made, and an answer had.
BARE = """
import sys, numpy, onnxruntime, psutil
session = onnxruntime.InferenceSession(sys.argv[1])
session.run(None, {"INPUT0": numpy.zeros((1, 16), numpy.float32)})
print(psutil.Process().memory_info().rss)
"""


def server(folder: Path) -> tuple[float, int]:
    """Seconds until a server of both protocols is ready, and bytes that it holds a second later."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "deepseek", "serve", str(folder), "--log-level", "error"]
    process = subprocess.Popen([*command, "--port", str(PORT), "--grpc-port", str(PORT + 1)], stdout=subprocess.DEVNULL)
    try:
        while not answers(f"http://127.0.0.1:{PORT}/v2/health/ready"):
            time.sleep(0.005)
        ready = time.perf_counter() - start
        time.sleep(1)
        return ready, psutil.Process(process.pid).memory_info().rss
    finally:
        process.terminate()
        process.wait()


def bare(model: Path) -> tuple[float, int]:
    """The same of a process that holds the engine alone."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", BARE, str(model)], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, int(done.stdout)


def summary(found: list[tuple[float, int]]) -> dict[str, Any]:
    """Medians, and the range of the times."""
    seconds, sizes = zip(*found, strict=True)
    return {
        "seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds),
        "resident_mib": statistics.median(sizes) / 2**20,
    }  # fmt: skip


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--name", default="cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bodies.make_identity(folder / "m.onnx", ["batch", 16])
        (folder / "identity.yaml").write_text("model: m.onnx\nonnxruntime: {threads: 1}\n")
        rounds = [(server(folder), bare(folder / "m.onnx")) for _ in range(given.rounds)]
    servers, engines = zip(*rounds, strict=True)
    result = {"rounds": given.rounds, "server": summary(servers), "engine": summary(engines)}
    result["beyond_mib"] = result["server"]["resident_mib"] - result["engine"]["resident_mib"]
    (RESULTS / f"start-{given.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
