"""Every mistake that a user can make at the command line, full disks and exhausted memory among them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from command_pieces import Deepseek, X

PICKLE = "import torch; torch.save(torch.nn.Linear(2, 2), 'evil.pth')"


#: name -> (what to prepare, arguments, exit code, what standard error must say)
MISTAKES: dict[str, tuple[Callable[[Path], object], list[str], int, str]] = {
    "no such pipeline": (lambda d: None, ["run", "q.yaml", "x.npy"], 3, "q.yaml: there is no such pipeline file\n  fix: the folder has p.yaml"),
    "unknown key": (lambda d: (d / "p.yaml").write_text("model: neg.onnx\nenigne: x\n"), ["run", "p.yaml", "x.npy"], 3, "p.yaml:2:1: `enigne` is not a known key\n  fix: did you mean `engine`?"),
    "unknown override": (lambda d: None, ["run", "p.yaml", "x.npy", "--set", "onnxruntime.thread=1"], 3, "--set onnxruntime.thread: `onnxruntime.thread` is not a known key\n  fix: did you mean `onnxruntime.threads`?"),
    "no such model": (lambda d: (d / "p.yaml").write_text("model: gone.onnx\n"), ["run", "p.yaml", "x.npy"], 8, "there is no model at"),
    "corrupt model": (lambda d: (d / "neg.onnx").write_bytes(b"garbage"), ["run", "p.yaml", "x.npy"], 9, "ONNX Runtime can't open this model"),
    "unsafe model": (lambda d: subprocess.run([sys.executable, "-c", PICKLE], cwd=d, check=True), ["run", "p.yaml", "x.npy", "--set", "model=evil.pth", "--set", "torch.factory=torch.nn:Identity"], 10, "would import and call `torch.nn.modules.linear.Linear`"),
    "no such engine": (lambda d: None, ["run", "p.yaml", "x.npy", "--set", "engine=onyx"], 6, "there is no engine `onyx`"),
    "no such device": (lambda d: None, ["run", "p.yaml", "x.npy", "--set", "device=tpu:0"], 11, "there is no device `tpu:0`"),
    "no such input": (lambda d: None, ["run", "p.yaml", "gone.npy"], 13, "there is no file gone.npy"),
    "empty folder": (lambda d: (d / "empty").mkdir(), ["run", "p.yaml", "empty"], 13, "there is no input file"),
    "wrong shape": (lambda d: np.save(d / "x.npy", X[:, :3]), ["run", "p.yaml", "x.npy"], 12, "the input `x` is float32[2, 3]; the model takes x: float32[*, 4]"),
    "wrong dtype": (lambda d: np.save(d / "x.npy", X.astype("int64")), ["run", "p.yaml", "x.npy"], 12, "the input `x` is int64[2, 4]"),
    "incomplete version": (lambda d: None, ["run", "p.yaml", "x.npy", "--set", "version=v2"], 4, "v2 is not complete yet"),
    "no such plugin": (lambda d: None, ["run", "p.yaml", "x.npy", "--set", "plugins.disable=[tensroflow]"], 4, "did you mean `tensorflow`?"),
    "unknown file type": (lambda d: (d / "x.xyz").touch(), ["run", "p.yaml", "x.xyz"], 12, "x.xyz is of no known type"),
    "unknown output type": (lambda d: None, ["run", "p.yaml", "x.npy", "-o", "out.txt"], 16, "no way to write `.txt` files"),
    "no folder for the output": (lambda d: None, ["run", "p.yaml", "x.npy", "-o", "no/out.json"], 16, "can't write"),
    "full device": (lambda d: None, ["run", "p.yaml", "x.npy", "-o", "/dev/full"], 16, "/dev/full: the disk is full"),
    "no input": (lambda d: None, ["run", "p.yaml"], 2, "give at least one INPUT"),
    "no such command": (lambda d: None, ["rum"], 2, "No such command 'rum'"),
    "taken plugin name": (lambda d: None, ["plugin", "new", "model"], 2, "`model` is taken"),
    "plugin name that pip refuses": (lambda d: None, ["plugin", "new", "acme_"], 2, "end with none of _"),
    "name of the kernel": (lambda d: None, ["plugin", "new", "core"], 2, "`core` is taken"),
    "name of a plugin to come": (lambda d: None, ["plugin", "new", "batching"], 2, "`batching` is taken"),
    "bad plugin name": (lambda d: None, ["plugin", "new", "Bad-Name"], 2, "must start with a letter"),
    "plugin folder there": (lambda d: (d / "deepseek-acme").mkdir(), ["plugin", "new", "acme"], 16, "there is something already"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_its_exit_code_and_no_traceback(
    pipeline: Path, deepseek_: Deepseek, tmp_path: Path, name: str
) -> None:
    prepare, arguments, code, says = MISTAKES[name]
    prepare(tmp_path)
    before = set(os.listdir(tmp_path))
    done = deepseek_(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    # A wrong command line is click's to report, with a pointer to --help.
    assert "  fix: " in done.stderr or code == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert set(os.listdir(tmp_path)) == before


def test_debug_shows_the_traceback(pipeline: Path, deepseek_: Deepseek) -> None:
    done = deepseek_("--debug", "run", pipeline, "gone.npy")
    assert "Traceback" in done.stderr
    assert "InputNotFoundError" in done.stderr


def limit(what: int, amount: int) -> Callable[[], None]:
    """In the child, before it starts: a ceiling on memory or on the size of files."""

    def apply() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(what, (amount, amount))

    return apply


def test_keep_going_does_not_go_on_without_a_disk(pipeline: Path, deepseek_: Deepseek) -> None:
    done = deepseek_("run", pipeline, "x.npy", "x.npy", "-o", "/dev/full", "--keep-going")
    assert done.returncode == 16, done.stderr
    assert done.stderr.count("the disk is full") == 1


@pytest.mark.parametrize("name", ["out.json", "out.jsonl", "out.npz"])
def test_a_disk_that_fills_up_leaves_the_old_file(
    pipeline: Path, deepseek_: Deepseek, tmp_path: Path, name: str
) -> None:
    np.save(tmp_path / "big.npy", np.ones((2000, 4), "float32"))
    (tmp_path / name).write_text("old")
    before = set(os.listdir(tmp_path))
    done = deepseek_("run", pipeline, "big.npy", "-o", name, preexec_fn=limit(resource.RLIMIT_FSIZE, 8192))
    assert done.returncode == 16, done.stderr
    assert "the disk is full" in done.stderr
    assert (tmp_path / name).read_text() == "old"
    assert set(os.listdir(tmp_path)) == before


def test_a_full_disk_while_the_optimized_model_is_kept(pipeline: Path, deepseek_: Deepseek, tmp_path: Path) -> None:
    arguments = ["run", pipeline, "x.npy", "--set", "onnxruntime.optimized_model=kept/fast.onnx"]
    done = deepseek_(*arguments, preexec_fn=limit(resource.RLIMIT_FSIZE, 16))
    assert done.returncode == 16, done.stderr
    assert "the optimized model can't be written" in done.stderr
    assert os.listdir(tmp_path / "kept") == []


def test_a_full_disk_while_a_plugin_is_written(deepseek_: Deepseek, tmp_path: Path) -> None:
    done = deepseek_("plugin", "new", "acme", preexec_fn=limit(resource.RLIMIT_FSIZE, 100))
    assert done.returncode == 16, done.stderr
    assert "the disk is full" in done.stderr
    assert os.listdir(tmp_path) == []


def test_standard_output_on_a_full_disk(pipeline: Path, deepseek_command: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        arguments = [*deepseek_command, "run", str(pipeline), "x.npy", "--json"]
        done = subprocess.run(arguments, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 16
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_that_runs_out(pipeline: Path, deepseek_: Deepseek, tmp_path: Path) -> None:
    with open(tmp_path / "big.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 27, 4)})
        file.truncate(file.tell() + (1 << 31))
    done = deepseek_(
        "run", pipeline, "big.npy", "--set", "inputs.max_file_size=8GiB", preexec_fn=limit(resource.RLIMIT_AS, 3 << 30)
    )
    assert done.returncode == 15, done.stderr
    assert "memory" in done.stderr
    assert "Traceback" not in done.stderr
