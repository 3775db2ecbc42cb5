"""The command where it is run: closed streams, names and encodings of other systems, folders that are gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from command_pieces import Deepseek, Install, X


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("run p.yaml x.npy --json <&- >&- 2>&-", 0),
        ("run p.yaml x.npy >&-", 0),
        ("run p.yaml x.npy -o out.json 2>&-", 0),
        ("run p.yaml - <&-", 12),
        ("explain p.yaml >&-", 0),
        ("plugins >&-", 0),
    ],
)
def test_streams_that_were_closed(
    pipeline: Path, deepseek_command: list[str], tmp_path: Path, arguments: str, code: int
) -> None:
    command = f"{deepseek_command[0]} {arguments}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "internal" not in done.stderr


def test_names_that_are_no_text(pipeline: Path, deepseek_: Deepseek, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.npy")
    (tmp_path / "x.npy").rename(tmp_path / name)
    for arguments in (["--json"], ["-o", "out.json"], ["-o", "out.jsonl"], ["-o", "out.npz"], []):
        done = deepseek_("run", pipeline, name, *arguments)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["input"] == "\ufffd.npy"


def test_a_terminal_that_knows_ascii_only(pipeline: Path, deepseek_: Deepseek, tmp_path: Path) -> None:
    (tmp_path / "x.npy").rename(tmp_path / "café.npy")
    done = deepseek_("run", pipeline, "café.npy", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert r"caf\xe9.npy[1]" in done.stdout


def test_a_working_directory_that_was_removed(pipeline: Path, deepseek_command: list[str], tmp_path: Path) -> None:
    command = f"mkdir gone && cd gone && rmdir ../gone && {deepseek_command[0]} run {tmp_path}/p.yaml {tmp_path}/x.npy"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[0]) == (3, "error: the working directory was removed")


@pytest.mark.parametrize(
    ("argument", "code", "says"),
    [
        ("", 13, "an INPUT is empty"),
        ("~nosuchuser/x.npy", 13, "there is no file ~nosuchuser/x.npy"),
        ("n" * 300 + ".npy", 13, "there is no file nnn"),
        ("no/*.npy", 13, "there is no file no/*.npy\n  fix: the folder no does not exist"),
    ],
)
def test_names_of_no_file(pipeline: Path, deepseek_: Deepseek, argument: str, code: int, says: str) -> None:
    done = deepseek_("run", pipeline, argument)
    assert (done.returncode, done.stderr.startswith(f"error: {says}")) == (code, True), done.stderr
    kept = deepseek_("run", pipeline, argument, "x.npy", "--json", "--keep-going")
    assert (kept.returncode, len(kept.stdout.splitlines())) == (code, 2), kept.stderr
    assert done.stderr == kept.stderr


@pytest.mark.parametrize("output", ["o" * 252 + ".npz", "o" * 300 + ".json"])
def test_a_name_that_is_too_long_to_write(pipeline: Path, deepseek_: Deepseek, output: str) -> None:
    done = deepseek_("run", pipeline, "x.npy", "-o", output)
    assert done.returncode == 16, done.stderr
    assert "  fix: " in done.stderr


def test_what_is_wrong_with_a_tensor_names_its_file(pipeline: Path, deepseek_: Deepseek, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", X.astype("float64"))
    np.savez(tmp_path / "odd.npz", q=X)
    done = deepseek_("run", pipeline, "x.npy", "bad.npy", "odd.npz", "--json", "--keep-going")
    assert done.returncode == 12
    assert "error: bad.npy: the input `x` is float64[2, 4]" in done.stderr
    assert "error: odd.npz: the model has no input `q`" in done.stderr


@pytest.mark.parametrize("arguments", [["--debug", "run"], ["run", "--debug"]])
def test_debug_keeps_the_exit_code(pipeline: Path, deepseek_: Deepseek, arguments: list[str]) -> None:
    done = deepseek_(*arguments, pipeline, "gone.npy")
    assert done.returncode == 13
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-2] == "error: there is no file gone.npy"


def test_labels_stand_beside_their_answers_in_a_file_of_tensors(deepseek_: Deepseek, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, [1])
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0)]
    nodes.append(helper.make_node("Unsqueeze", ["s", "zero"], ["total"]))
    zero = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
    graph = helper.make_graph(nodes, "g", [x], [y, total], [zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    (tmp_path / "p.yaml").write_text("model: m.onnx\n")
    np.save(tmp_path / "x.npy", X)
    done = deepseek_("run", "p.yaml", "x.npy", "x.npy", "-o", "out.npz")
    assert done.returncode == 0, done.stderr
    written = np.load(tmp_path / "out.npz")
    # One answer for each file: a sum over the batch has no rows.
    assert {name: values.shape for name, values in written.items()} == {"input": (2,), "total": (2, 1), "y": (2, 2, 4)}
    np.save(tmp_path / "x.npy", X[:1])
    np.savez(tmp_path / "other.npz", x=X)
    done = deepseek_("run", "p.yaml", "x.npy", "other.npz", "-o", "out.npz")
    assert done.returncode == 16
    assert "the outputs differ in shape and can't stand in one array" in done.stderr


def test_vectors_of_a_model_without_batch_are_stacked(deepseek_: Deepseek, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    (tmp_path / "p.yaml").write_text("model: m.onnx\n")
    np.save(tmp_path / "x.npy", X[0])
    done = deepseek_("run", "p.yaml", "x.npy", "x.npy", "-o", "out.npz")
    assert done.returncode == 0, done.stderr
    written = np.load(tmp_path / "out.npz")
    assert (written["input"].tolist(), written["y"].shape) == (["x.npy", "x.npy"], (2, 4))


UNLIKE = """
class Unlike:
    suffixes = frozenset({'.npy'})
    def read(self, path, stream): yield '', self.encode(path)
    def encode(self, value):
        import numpy
        return {'x': numpy.load(value)}
    def decode(self, outputs): return [{'a': 1, 'b': 2}, {'b': 3, 'a': 4}, {'c': 5}]

@hookimpl(tryfirst=True)
def codec(): return Coding('unlike', lambda signature: Unlike())
"""
RAISES = "@hookimpl\ndef commands(app):\n    @app.command('averb')\n    def averb(): raise ValueError('inside')\n"


def test_answers_with_unlike_keys_stand_under_their_own(pipeline: Path, deepseek_: Deepseek, install: Install) -> None:
    done = deepseek_("run", pipeline, "x.npy", env=install("unlike", UNLIKE))
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[::2]] == [
        ["input", "a", "b", "c"],
        ["[0]", "1", "2"],
        ["[2]", "5"],
    ]
    assert done.stdout.splitlines()[3].split() == ["[1]", "4", "3"]


def test_a_verb_that_raises_is_blamed_on_its_plugin(deepseek_: Deepseek, install: Install) -> None:
    done = deepseek_("averb", env=install("verb", RAISES))
    assert done.returncode == 5
    assert done.stderr.startswith("error: acme-verb 1 raised: ValueError: inside\n  fix: report it to the plugin's")


def test_names_of_kinds_of_files_are_no_names_for_plugins(deepseek_: Deepseek, tmp_path: Path) -> None:
    for name in ("onnx", "fake", "safetensors"):
        done = deepseek_("plugin", "new", name)
        assert (done.returncode, os.listdir(tmp_path)) == (2, []), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_a_conversion_leaves_nothing(
    deepseek_command: list[str], examples: Path, tmp_path: Path, number: int, code: int
) -> None:
    arguments = [*deepseek_command, "run", examples / "classify-tensorflow.yaml", examples / "models/photos"]
    arguments += ["--set", "engine=onnxruntime", "-o", "o.json"]
    (tmp_path / "scratch").mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "scratch"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    # The tests themselves may run under nohup.
    heed = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(
        arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=env, preexec_fn=heed
    ) as process:
        # The conversion's folder is made as its step begins.
        while not list((tmp_path / "scratch").glob("deepseek-*")):
            assert process.poll() is None
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert list((tmp_path / "scratch").glob("deepseek-*")) == []
    assert not (tmp_path / "o.json").exists()
