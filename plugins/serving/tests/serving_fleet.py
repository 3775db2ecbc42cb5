"""`deepseek serve --workers` as a process."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from serving_pieces import body, identity

CONTENT = body([1, 16], [1.0] * 16)
URL = "/v2/models/same/infer"


class Workers:
    """`deepseek serve --workers 2` of one identity."""

    def __init__(self, folder: Path, *more: str) -> None:
        identity(folder / "same.onnx")
        (folder / "same.yaml").write_text("model: same.onnx\n")
        command = [sys.executable, "-P", "-m", "deepseek", "serve", str(folder), "--workers", "2", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--grpc-port", "0", *more], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.line = self.process.stdout.readline()
        assert self.line.startswith("serving same/1 on http://"), self.process.communicate()[1]
        words = self.line.split()
        self.url, self.grpc = words[3], words[5].removeprefix("grpc://")

    def pids(self) -> list[int]:
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                found += [child.pid] if child.status() != "zombie" else []
        return found
