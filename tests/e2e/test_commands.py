"""The command with small models: every kind of input and output, signals, terminals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from command_pieces import Deepseek, X, rows


def test_files_folders_globs_and_standard_input(pipeline: Path, deepseek_: Deepseek, tmp_path: Path) -> None:
    (tmp_path / "in/deeper").mkdir(parents=True)
    for name in ("in/a.npy", "in/deeper/b.npy"):
        np.save(tmp_path / name, X)
    (tmp_path / "in/c.json").write_text(json.dumps({"x": X.tolist()}))
    np.savez(tmp_path / "d.npz", x=X)
    (tmp_path / "in/notes.md").touch()

    def inputs(*arguments: object, **more: Any) -> list[str]:
        answers = rows(deepseek_("run", pipeline, *arguments, "--json", **more))
        assert [answer["y"] for answer in answers] == [(-row).tolist() for row in X] * (len(answers) // 2)
        return list(dict.fromkeys(answer["input"] for answer in answers))

    assert inputs("x.npy") == ["x.npy"]
    assert inputs("in") == ["in/a.npy", "in/c.json", "in/deeper/b.npy"]
    assert inputs("in/*.npy", "d.npz") == ["in/a.npy", "d.npz"]
    assert inputs("in/**/*.npy") == ["in/a.npy", "in/deeper/b.npy"]
    # Once, although the pattern matches the folder too.
    assert len(rows(deepseek_("run", pipeline, "in/**/deeper/**", "--json"))) == 2
    assert inputs("-", input=json.dumps({"x": X.tolist()})) == ["<stdin>"]


def test_a_table_for_people(pipeline: Path, deepseek_: Deepseek) -> None:
    done = deepseek_("run", pipeline, "x.npy")
    assert done.stdout.splitlines()[0].split() == ["input", "y"]
    assert "x.npy[1]" in done.stdout
    assert "float32[4]: -4, -5, -6, -7" in done.stdout


@pytest.mark.parametrize("name", ["out.json", "out.jsonl", "out.npz"])
def test_results_in_a_file(pipeline: Path, deepseek_: Deepseek, tmp_path: Path, name: str) -> None:
    assert deepseek_("run", pipeline, "x.npy", "x.npy", "-o", name).returncode == 0
    if name.endswith("npz"):
        found = np.load(tmp_path / name)
        assert (found["y"] == -np.concatenate([X, X])).all()
        assert found["input"].tolist() == ["x.npy"] * 4
        return
    text = (tmp_path / name).read_text()
    answers = json.loads(text) if name.endswith("json") else [json.loads(line) for line in text.splitlines()]
    assert [answer["y"] for answer in answers] == (-np.concatenate([X, X])).tolist()


def test_keep_going_reports_and_goes_on(pipeline: Path, deepseek_: Deepseek, tmp_path: Path) -> None:
    (tmp_path / "bad.npy").write_bytes(b"garbage")
    done = deepseek_("run", pipeline, "x.npy", "bad.npy", "x.npy", "--json", "--keep-going")
    assert done.returncode == 12
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr.startswith("error: bad.npy is no .npy file")


def test_verbose_shows_plan_and_times(pipeline: Path, deepseek_: Deepseek) -> None:
    done = deepseek_("run", pipeline, "x.npy", "-v")
    assert "execute    onnxruntime" in done.stderr
    assert "built      open onnxruntime: " in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_nothing(
    pipeline: Path, deepseek_command: list[str], tmp_path: Path, number: int, code: int
) -> None:
    os.mkfifo(tmp_path / "never.json")
    before = set(os.listdir(tmp_path))
    arguments = [*deepseek_command, "run", "p.yaml", "x.npy", "never.json", "-o", "out.json", "-v"]
    # The tests themselves may run under nohup.
    heed = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    )
    assert process.stderr
    # The last line of the build; after it the command waits for the pipe that nobody writes to.
    while not process.stderr.readline().startswith("built      open"):
        assert process.poll() is None
    # Opening the pipe for reading has happened once this succeeds.
    with open(tmp_path / "never.json", "w"):
        process.send_signal(number)
    # The pipe is closed again: a signal that another thread of the process took is acted on when the read returns.
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert set(os.listdir(tmp_path)) == before


def test_what_is_ignored_stays_ignored_as_nohup_has_it(
    pipeline: Path, deepseek_command: list[str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "later.json")
    arguments = [*deepseek_command, "run", "p.yaml", "later.json", "--json"]
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, text=True, preexec_fn=ignore)
    with open(tmp_path / "later.json", "w") as pipe:
        process.send_signal(signal.SIGHUP)
        pipe.write(json.dumps({"x": X.tolist()}))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(output.splitlines()) == 2


def test_long_inputs_show_progress_in_a_terminal(pipeline: Path, deepseek_command: list[str], tmp_path: Path) -> None:
    for number in range(5):
        np.save(tmp_path / f"{number}.npy", X)
    controller, terminal = pty.openpty()
    arguments = [*deepseek_command, "run", "p.yaml", *(f"{n}.npy" for n in range(5)), "-o", "out.json"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=terminal, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while chunk := os.read(controller, 4096):
            shown += chunk
    assert process.wait(60) == 0
    assert b"/5" in shown
    assert b"items" in shown
    assert len(json.loads((tmp_path / "out.json").read_text())) == 10


def test_outputs_of_any_name_and_value(deepseek_: Deepseek, tmp_path: Path) -> None:
    names = ["input", "file", "allow_pickle"]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in names]
    nodes = [helper.make_node("Sqrt", ["x"], [name]) for name in names]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "p.yaml").write_text("model: m.onnx\n")
    np.save(tmp_path / "x.npy", np.array([[-1, 0, 1, 4]], "float32"))
    assert deepseek_("run", "p.yaml", "x.npy", "-o", "out.npz").returncode == 0
    found = np.load(tmp_path / "out.npz")
    assert found["_input"].tolist() == ["x.npy"]
    assert np.array_equal(found["file"], [[np.nan, 0, 1, 2]], equal_nan=True)
    assert rows(deepseek_("run", "p.yaml", "x.npy", "--json")) == [
        {"_input": "x.npy", **{name: [None, 0, 1, 2] for name in names}}
    ]


def test_nothing_on_standard_input(pipeline: Path, deepseek_: Deepseek) -> None:
    done = deepseek_("run", pipeline, "-", input="")
    assert done.returncode == 12
    assert "standard input holds no item" in done.stderr


def test_a_reader_that_goes_away_is_no_error(pipeline: Path, deepseek_command: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.ones((20000, 4), "float32"))
    command = f"{deepseek_command[0]} run p.yaml big.npy --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(done.stdout)["input"] == "big.npy"
    assert (done.returncode, done.stderr) == (0, "")
