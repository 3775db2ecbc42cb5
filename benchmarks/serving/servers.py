"""The servers that are measured: what each serves, how it is started, and what it uses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

PEERS = Path(os.environ.setdefault("PEERS", str(Path(__file__).parent / ".peers")))

#: server -> model as the rows name it -> (the server's own name of it, kinds of requests)
OIP = ("json", "binary", "grpc")
SERVERS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "deepseek": {"identity": ("identity", OIP), "image": ("identity_image", ("binary", "grpc")), "mlp": ("mlp", OIP)},
    "deepseek, 2 workers": {"identity": ("identity", OIP), "mlp": ("mlp", OIP)},
    "deepseek, ONNX Runtime": {"identity": ("identity_onnx", OIP)},
    "deepseek, ONNX Runtime, 2 workers": {"identity": ("identity_onnx", OIP)},
    "deepseek, grpcio": {"identity": ("identity", ("grpc",))},
    "triton": {"identity": ("identity", OIP), "image": ("identity_image", ("binary", "grpc")), "mlp": ("mlp", OIP)},
    "triton, ONNX Runtime": {"identity": ("identity_ort", OIP)},
    "triton, 2 instances": {"mlp": ("mlp_i2", ("json", "grpc"))},
    "triton, 2 instances, no batches": {"mlp": ("mlp_one", ("json", "grpc"))},
    "triton, Python backend": {"identity": ("identity_py", OIP)},
    "mlserver": {"identity": ("identity", ("json", "grpc")), "mlp": ("mlp", ("json", "grpc"))},
    "litserve": {"identity": ("identity", ("lit",)), "mlp": ("mlp", ("lit",))},
}


class Server:
    """A server under load: started, measured, ended."""

    def __init__(self, name: str, model: str, port: int) -> None:
        self.name, self.model, self.port = name, model, port
        self.own = SERVERS[name][model][0]
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command(name, self.own, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        path = "/health" if name == "litserve" else "/v2/health/ready"
        while not answers(f"http://127.0.0.1:{port}{path}"):
            if self.process.poll() is not None:
                raise SystemExit(f"{name} ended with {self.process.returncode}")
            time.sleep(0.01)
        self.ready_s = time.perf_counter() - start

    def cpu(self) -> float:
        """Seconds that it and its children have used."""
        every = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in every)

    def resident(self) -> int:
        """Bytes, of all its processes."""
        every = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return sum(process.memory_info().rss for process in every)

    def stop(self) -> None:
        """End it, and whatever it started."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def command(name: str, own: str, port: int) -> list[str]:
    """How a server is started."""
    if name.startswith("deepseek"):
        more = ["--workers", "2"] if "workers" in name else []
        more += ["--set", "server.grpc.carrier=grpcio"] if "grpcio" in name else []
        serve = [sys.executable, "-m", "deepseek", "serve", str(PEERS / "deepseek" / own)]
        return [*serve, "--port", str(port), "--grpc-port", str(port + 1), "--log-level", "error", *more]
    peer = name.partition(",")[0]
    ports = [str(port)] if peer == "litserve" else [str(port), str(port + 1)]
    return [str(PEERS / peer / "start.sh"), *ports, own]


def answers(url: str) -> bool:
    """Whether a page is there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
