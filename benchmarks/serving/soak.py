"""Soaks a server: mixed load at 120% of its capacity, with malformed and cancelled requests, while models come and go.

Usage: python benchmarks/serving/soak.py [--seconds 600] [--workers 1] [--name cpu]
Ends with 1 when a promise is broken. Writes results/soak-NAME.json, and a plot of the memory beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import uvloop
from onnx import TensorProto, helper, numpy_helper, save

RESULTS = Path(__file__).parents[1] / "results"
ROWS = 64
MODELS = ("one", "two", "guest")


def make_model(path: Path, seed: int) -> None:
    """An MLP of half a millisecond."""
    chance = np.random.default_rng(seed)
    nodes, weights, value, widths = [], [], "x", (256, 1024, 1024, 16)
    for index in range(3):
        matrix = chance.standard_normal(widths[index : index + 2], dtype=np.float32) / 16
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        made = "y" if index == 2 else f"h{index}"
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [made]))
        value = made
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 256])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


class Soak:
    """The load, and what became of it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)
        self.chance = random.Random(1)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.sent = self.done = 0
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.rows = np.random.default_rng(3).standard_normal((ROWS, 256), dtype=np.float32)
        self.want = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx").run(None, {"x": self.rows})[0]
            for name in MODELS
        }

    async def request(self) -> None:
        """One request of the mix."""
        self.sent += 1
        draw, row = self.chance.random(), self.chance.randrange(ROWS)
        # One in a hundred is for the model that comes and goes.
        model = "guest" if self.chance.random() < 0.05 else self.chance.choice(MODELS[:2])
        name = f"{self.sent}"
        try:
            if draw < 0.01:
                await self.malformed()
            elif draw < 0.06:
                await self.cancelled(model, row, name)
            else:
                await self.proper(model, row, name)
        except (OSError, asyncio.IncompleteReadError) as exc:
            self.seen["broken"] += 1
            self.wrong.append(f"{type(exc).__name__}: {exc}")
        self.done += 1

    def body(self, model: str, row: int, name: str) -> bytes:
        """JSON or binary, as it falls."""
        x = self.rows[row]
        tensor = {"name": "x", "shape": [1, 256], "datatype": "FP32"}
        timeout = {"timeout": 500_000}
        if self.chance.random() < 0.5:
            content = json.dumps(
                {"id": name, "parameters": timeout, "inputs": [{**tensor, "data": x.tolist()}]}
            ).encode()
            head = ""
        else:
            sized = {**tensor, "parameters": {"binary_data_size": x.nbytes}}
            top = json.dumps({"id": name, "parameters": timeout, "inputs": [sized]}).encode()
            content, head = top + x.tobytes(), f"Inference-Header-Content-Length: {len(top)}\r\n"
        return (
            f"POST /v2/models/{model}/infer HTTP/1.1\r\n{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        )

    async def connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that is free, or a new one."""
        return self.free.pop() if self.free else await asyncio.open_connection(self.host, self.port)

    async def answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection may be used again."""
        top = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(top.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(top[9:12]), await reader.readexactly(length), b"connection: close" not in top

    async def proper(self, model: str, row: int, name: str) -> None:
        """A good request: answered with what the bare engine answers, or refused with the right status."""
        reader, writer = await self.connection()
        writer.write(self.body(model, row, name))
        status, body, again = await self.answer(reader)
        self.free.append((reader, writer)) if again else writer.close()
        self.seen[f"{'guest' if model == 'guest' else 'good'} {status}"] += 1
        if status == 200:
            told = json.loads(body)
            got = np.array(told["outputs"][0]["data"], np.float32)
            if told["id"] != name or not np.allclose(got, self.want[model][row], rtol=1e-4, atol=1e-4):
                self.wrong.append(f"request {name} got the answer of {told['id']}, or a wrong one")
        elif status not in ((404, 503) if model == "guest" else (503,)):
            self.wrong.append(f"{status} for a good request: {body[:100]!r}")

    async def malformed(self) -> None:
        """One that can't be served; the status says so."""
        kinds = {
            b"POST /v2/models/one/infer HTTP/1.1\r\nContent-Length: 9\r\n\r\n{\"inputs\"": 400,
            b"POST /v2/models/nobody/infer HTTP/1.1\r\nContent-Length: 13\r\n\r\n{\"inputs\":[]}": 404,
            b"POST /v2/models/one/infer HTTP/1.1\r\nContent-Length: 13\r\n\r\n{\"inputs\":[]}": 400,
            b"POST /v2 HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n": 413,
            b"\x00\x01\x02 nonsense\r\n\r\n": 400,
        }  # fmt: skip
        content, wanted = self.chance.choice(list(kinds.items()))
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(content)
        status, _, _ = await self.answer(reader)
        writer.close()
        self.seen[f"malformed {status}"] += 1
        if status != wanted:
            self.wrong.append(f"{status} instead of {wanted} for {content[:60]!r}")

    async def cancelled(self, model: str, row: int, name: str) -> None:
        """A good request whose client goes away."""
        _, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(self.body(model, row, name))
        await asyncio.sleep(self.chance.random() * 0.01)
        writer.close()
        self.seen["cancelled"] += 1

    async def capacity(self, seconds: float) -> float:
        """Good requests per second that 16 clients get answered."""
        end, before = time.monotonic() + seconds, self.seen["good 200"]

        async def client() -> None:
            while time.monotonic() < end:
                await self.proper(self.chance.choice(MODELS[:2]), self.chance.randrange(ROWS), "0")

        await asyncio.gather(*(client() for _ in range(16)))
        return (self.seen["good 200"] - before) / seconds

    async def load(self, rate: float, seconds: float) -> None:
        """An open loop: requests come whether or not earlier ones are answered."""
        start, tasks = time.monotonic(), set()
        at = 0.0
        while at < seconds:
            at += self.chance.expovariate(rate)
            wait = start + at - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.ensure_future(self.request())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.wait(tasks, timeout=30)

    async def come_and_go(self) -> None:
        """Load and unload the guest, and load another anew, again and again."""
        for turn in range(1 << 30):
            verb, model = (("unload", "guest"), ("load", "guest"), ("load", "one"))[turn % 3]
            reader, writer = await asyncio.open_connection(self.host, self.port)
            writer.write(f"POST /v2/repository/models/{model}/{verb} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode())
            status, body, _ = await self.answer(reader)
            writer.close()
            self.seen[f"{verb} {status}"] += 1
            if status != 200:
                self.wrong.append(f"{verb} {model}: {status} {body[:100]!r}")
            await asyncio.sleep(1.0)


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of the server's processes."""
    every = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(one.memory_info().rss for one in every)


async def run(folder: Path, process: subprocess.Popen[str], url: str, seconds: float) -> dict[str, Any]:
    """The whole soak."""
    soak = Soak(folder, url)
    capacity = await soak.capacity(5.0)
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

    figure, axes = pyplot.subplots(figsize=(8, 3.5))
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
        url = next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        try:
            found = uvloop.run(run(folder, process, url, given.seconds))
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
