"""Measures DeepSeek's serving beside Triton, MLServer and LitServe: same machine, same client, taking turns.

Usage: python benchmarks/serving/run.py [--seconds 5] [--rounds 3] [--only deepseek,triton] [--name cpu]
Needs the peers (benchmarks/serving/peers/install.sh), wrk and h2load. Writes results/serving-NAME.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import bodies
import numpy as np
from servers import PEERS, SERVERS, Server

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
BODIES = PEERS / "bodies"

#: model -> connections, with which it is asked
CONNECTIONS = {"identity": (64,), "image": (8,), "mlp": (8, 32, 64)}


def models() -> None:
    """Our pipelines of the models that all serve, and the requests."""
    mlp = PEERS / "models/mlp.onnx"
    if not mlp.exists():
        bodies.make_mlp(mlp)
    ours = PEERS / "deepseek"
    bodies.make_identity(ours / "identity_onnx/m.onnx", ["batch", 16])
    bodies.make_identity(ours / "identity_image/m.onnx", ["batch", 3, 224, 224])
    # The engine of ./noop, which does as little as Triton's identity backend.
    (ours / "identity").mkdir(parents=True, exist_ok=True)
    (ours / "identity/m.noop").write_text("[-1, 16]")
    (ours / "identity/identity.yaml").write_text("model: m.noop\n")
    for name, more in (("identity_onnx", ""), ("identity_image", ""), ("mlp", "fifo: {workers: 2}\n")):
        (ours / name).mkdir(exist_ok=True)
        source = mlp if name == "mlp" else "m.onnx"
        (ours / name / f"{name}.yaml").write_text(f"model: {source}\nonnxruntime: {{threads: 1}}\n{more}")
    bodies.write(BODIES)


def measure(server: Server, kind: str, connections: int, seconds: float) -> dict[str, Any]:
    """One load, by wrk or h2load."""
    before, client = server.cpu(), os.times()
    figures = grpc(server, connections, seconds) if kind == "grpc" else http(server, kind, connections, seconds)
    after, client_after = server.cpu(), os.times()
    used = client_after.children_user + client_after.children_system - client.children_user - client.children_system
    requests = figures.pop("requests") or 1
    return {**figures, "server_us": (after - before) / requests * 1e6, "client_us": used / requests * 1e6}


def http(server: Server, kind: str, connections: int, seconds: float) -> dict[str, Any]:
    """Requests over HTTP/1.1."""
    environment = dict(os.environ)
    environment["BODY"] = str(
        BODIES / f"{server.model}.{ {'json': 'v2.json', 'binary': 'v2.bin', 'lit': 'lit.json'}[kind] }"
    )
    if kind == "binary":
        environment["HDRLEN"] = (BODIES / f"{server.model}.hdrlen").read_text()
        environment["TYPE"] = "application/octet-stream"
    path = "/predict" if kind == "lit" else f"/v2/models/{server.own}/infer"
    load = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s", "-s", str(HERE / "peers/post.lua")]
    done = subprocess.run(
        [*load, f"http://127.0.0.1:{server.port}{path}"], env=environment, capture_output=True, text=True, check=True
    )
    found = dict(re.findall(r"(\w+)=([0-9.]+)", done.stdout[done.stdout.index("RESULT") :]))
    bad = sum(int(found[name]) for name in ("non2xx", "connect", "read", "write", "timeout"))
    return {
        "rps": float(found["rps"]), "p50_ms": float(found["p50_ms"]), "p99_ms": float(found["p99_ms"]),
        "requests": int(found["requests"]), "bad": bad,
    }  # fmt: skip


def grpc(server: Server, connections: int, seconds: float) -> dict[str, Any]:
    """Requests over gRPC, one at a time on each connection. (h2load knows HTTP's status alone; `check` has looked.)"""
    body = BODIES / f"{server.model}.{server.own}.grpc"
    url = f"http://127.0.0.1:{server.port + 1}/inference.GRPCInferenceService/ModelInfer"
    load = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{max(1, round(seconds))}", "-d", str(body)]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    out = subprocess.run([*load, *headers, url], capture_output=True, text=True, check=True).stdout
    total, rate = re.search(r"requests: (\d+) total", out), re.search(r"([0-9.]+) req/s", out)
    failed = re.search(r"(\d+) failed, (\d+) errored", out)
    if not (total and rate and failed):
        raise SystemExit(out)
    return {"rps": float(rate[1]), "requests": int(total[1]), "bad": int(failed[1]) + int(failed[2])}


def check(server: Server, kind: str) -> None:
    """The answers are those of the bare engine. Ends the run where they are not."""
    if kind == "grpc":
        bodies.write_grpc(BODIES, server.model, server.own)
    got = bodies.answer(kind, BODIES, server.model, server.own, server.port)
    np.testing.assert_allclose(got, bodies.expected(server.model, PEERS / "models/mlp.onnx"), rtol=1e-4, atol=1e-4)


def compare(model: str, names: list[str], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """All servers of a model, started together, measured in turn."""
    chosen = [name for name in names if model in SERVERS[name]]
    servers: list[Server] = []
    seen: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    try:
        for index, name in enumerate(chosen):
            servers.append(Server(name, model, 18000 + 10 * index))
        for server in servers:
            for kind in SERVERS[server.name][model][1]:
                check(server, kind)
        for turn in range(rounds):
            for connections in CONNECTIONS[model]:
                for server in servers[turn % len(servers) :] + servers[: turn % len(servers)]:
                    for kind in SERVERS[server.name][model][1]:
                        figures = measure(server, kind, connections, seconds)
                        seen.setdefault((server.name, kind, connections), []).append(figures)
                        print(model, connections, server.name, kind, figures, file=sys.stderr, flush=True)
        facts = {server.name: {"ready_s": server.ready_s, "resident_bytes": server.resident()} for server in servers}
    finally:
        for server in servers:
            server.stop()
    return [
        {
            "model": model, "server": name, "kind": kind, "connections": connections, **facts[name],
            **{key: statistics.median(item[key] for item in items) for key in items[0]},
            "rps_min": min(item["rps"] for item in items), "rps_max": max(item["rps"] for item in items),
        }
        for (name, kind, connections), items in seen.items()
    ]  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """For people."""
    lines = [
        "| model, connections | request | server | requests/s (range) | p50, p99 ms | CPU us: server, client | bad |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (row["model"], row["connections"], row["kind"], -row["rps"])):
        times = f"{row['p50_ms']:.1f}, {row['p99_ms']:.1f}" if "p50_ms" in row else ""
        lines.append(
            f"| {row['model']}, {row['connections']} | {row['kind']} | {row['server']} | {row['rps']:,.0f} "
            f"({row['rps_min']:,.0f} to {row['rps_max']:,.0f}) | {times} "
            f"| {row['server_us']:.0f}, {row['client_us']:.0f} | {row['bad']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(SERVERS).replace(", ", ";"))
    parser.add_argument("--models", default=",".join(CONNECTIONS))
    parser.add_argument("--name", default="cpu")
    given = parser.parse_args()
    for tool in ("wrk", "h2load"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed: see peers/install.sh")
    models()
    names = [name.replace(";", ", ") for name in given.only.split(",")]
    rows = [row for model in given.models.split(",") for row in compare(model, names, given.seconds, given.rounds)]
    about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "rounds": given.rounds}
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps({**about, "seconds": given.seconds, "rows": rows}, indent=2)
    (RESULTS / f"serving-{given.name}.json").write_text(content + "\n")
    how = f"Medians of {given.rounds} rounds of {given.seconds:g} s; the client shares the {os.cpu_count()} cores."
    (RESULTS / f"serving-{given.name}.md").write_text(f"# Serving, {given.name}\n\n{how}\n\n{table(rows)}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
