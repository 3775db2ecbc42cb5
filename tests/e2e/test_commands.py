"""The command with small models: every kind of input and output, and every mistake with its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

Deepseek = Callable[..., "subprocess.CompletedProcess[str]"]
Install = Callable[[str, str], dict[str, str]]
X = np.arange(8, dtype="float32").reshape(2, 4)


def rows(done: subprocess.CompletedProcess[str]) -> list[Any]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


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


def test_keep_going_does_not_go_on_without_a_disk(pipeline: Path, deepseek_: Deepseek) -> None:
    done = deepseek_("run", pipeline, "x.npy", "x.npy", "-o", "/dev/full", "--keep-going")
    assert done.returncode == 16, done.stderr
    assert done.stderr.count("the disk is full") == 1


def test_verbose_shows_plan_and_times(pipeline: Path, deepseek_: Deepseek) -> None:
    done = deepseek_("run", pipeline, "x.npy", "-v")
    assert "execute    onnxruntime" in done.stderr
    assert "built      open onnxruntime: " in done.stderr


PICKLE = "import torch; torch.save(torch.nn.Linear(2, 2), 'evil.pth')"

#: name -> (what to prepare, arguments, exit code, what standard error must say)
MISTAKES: dict[str, tuple[Callable[[Path], object], list[str], int, str]] = {
    "no such pipeline": (lambda d: None, ["run", "q.yaml", "x.npy"], 3, "q.yaml: there is no such pipeline file\n  fix: the folder has p.yaml"),
    "unknown key": (lambda d: (d / "p.yaml").write_text("model: neg.onnx\nenigne: x\n"), ["run", "p.yaml", "x.npy"], 3, "p.yaml:2:9: `enigne` is not a known key\n  fix: did you mean `engine`?"),
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_nothing(
    pipeline: Path, deepseek_command: list[str], tmp_path: Path, number: int, code: int
) -> None:
    os.mkfifo(tmp_path / "never.json")
    before = set(os.listdir(tmp_path))
    arguments = [*deepseek_command, "run", "p.yaml", "x.npy", "never.json", "-o", "out.json", "-v"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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


def test_standard_output_on_a_full_disk(pipeline: Path, deepseek_command: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        arguments = [*deepseek_command, "run", str(pipeline), "x.npy", "--json"]
        done = subprocess.run(arguments, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 16
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error(pipeline: Path, deepseek_command: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.ones((20000, 4), "float32"))
    command = f"{deepseek_command[0]} run p.yaml big.npy --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(done.stdout)["input"] == "big.npy"
    assert (done.returncode, done.stderr) == (0, "")


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


def test_plugins_versions_and_schema(pipeline: Path, deepseek_: Deepseek) -> None:
    plugins = {item["name"]: item for item in json.loads(deepseek_("plugins", "--json").stdout)}
    assert {"codecs", "onnxruntime", "tensorflow", "torch"} <= set(plugins)
    assert plugins["torch"]["hooks"] == ["sections", "probe", "load", "optimize", "execute"]
    pipeline.write_text("model: neg.onnx\nplugins: {disable: [torch]}\n")
    plugins = {item["name"]: item for item in json.loads(deepseek_("plugins", "p.yaml", "--json").stdout)}
    assert (plugins["torch"]["state"], plugins["torch"]["why"]) == ("blocked", "disabled by plugins.disable")
    versions = {item["version"]: item["state"] for item in json.loads(deepseek_("versions", "--json").stdout)}
    assert versions["v1"] == "installed"
    assert versions["v2"].startswith("not complete: batching, openvino, quant, serving not written yet")
    schema = json.loads(deepseek_("schema").stdout)
    assert {"model", "torch", "onnxruntime", "tensorflow", "inputs", "outputs", "fifo"} <= set(schema["properties"])


def test_the_schema_takes_the_examples_and_refuses_a_mistake(
    pipeline: Path, deepseek_: Deepseek, tmp_path: Path
) -> None:
    (tmp_path / "schema.json").write_text(deepseek_("schema").stdout)
    examples = Path(__file__).parents[2] / "examples"
    checker = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(tmp_path / "schema.json")]
    assert subprocess.run([*checker, *map(str, examples.glob("*.yaml"))], capture_output=True).returncode == 0
    pipeline.write_text("model: neg.onnx\ntorch: {dtype: float7}\n")
    assert subprocess.run([*checker, str(pipeline)], capture_output=True).returncode == 1


SECTION = "class S(Settings): pass\n@hookimpl\ndef sections(): return {'shared': S}\n"
PLUGIN_FAULTS = {
    "two claim one section": ({"one": SECTION, "two": SECTION}, 4, "`shared` is claimed by acme-one 1 and acme-two 1"),
    "raises in a hook": ({"bad": "@hookimpl\ndef probe(config): 1 / 0\n"}, 5, "acme-bad 1 raised in its hook `probe`: ZeroDivisionError"),
    "raises in a record": ({"bad": "@hookimpl\ndef execute(): return Wrapper('w', lambda e: 1 / 0)\n"}, 5, "acme-bad 1 raised while it did its part of the build (wrap w): ZeroDivisionError"),
    "exits in a hook": ({"bad": "@hookimpl\ndef probe(config): raise SystemExit(0)\n"}, 5, "acme-bad 1 raised in its hook `probe`: SystemExit"),
    "exits when imported": ({"bad": "raise SystemExit(0)\n"}, 4, "acme-bad 1 (plugin `bad`) can't be imported: SystemExit"),
    "misspells a hook": ({"bad": "@hookimpl\ndef lode(source): ...\n"}, 4, "implements `lode`, which is not a hook"),
    "can't be imported": ({"bad": "import nothing_here\n"}, 4, "acme-bad 1 (plugin `bad`) can't be imported"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLUGIN_FAULTS)
def test_a_faulty_plugin_has_its_exit_code_and_is_named(
    pipeline: Path, deepseek_: Deepseek, install: Install, tmp_path: Path, name: str
) -> None:
    plugins, code, says = PLUGIN_FAULTS[name]
    for plugin, hooks in plugins.items():
        install(plugin, hooks)
    done = deepseek_("run", pipeline, "x.npy", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "  fix: " in done.stderr
    assert "Traceback" not in done.stderr


BOXES = """
import numpy as np

class Boxes:
    suffixes = frozenset({'.npy'})
    def read(self, path, stream): yield str(path), self.encode(path)
    def encode(self, value): return {'x': np.load(value)}
    def decode(self, outputs): return [{'boxes': [{'box': [1, 2], 'score': 'high'}], 'phase': np.array([1 + 2j])}]

@hookimpl(tryfirst=True)
def codec(): return Coding('boxes', lambda signature: Boxes())
"""


def test_answers_of_other_codecs_are_shown_as_they_are(
    pipeline: Path, deepseek_: Deepseek, install: Install, tmp_path: Path
) -> None:
    install("boxes", BOXES)
    env = {"PYTHONPATH": str(tmp_path)}
    table = deepseek_("run", pipeline, "x.npy", env=env)
    assert table.returncode == 0, table.stderr
    assert "{'box': [1, 2], 'score': 'high'}" in table.stdout
    [row] = rows(deepseek_("run", pipeline, "x.npy", "--json", env=env))
    assert row["phase"] == [[1.0, 2.0]]


def test_a_verb_that_is_there_already_is_not_replaced(deepseek_: Deepseek, install: Install, tmp_path: Path) -> None:
    verb = "@hookimpl\ndef commands(app):\n    @app.command('{}')\n    def verb(): print('{}')\n"
    for name, code in (
        ("one", verb.format("hello", "one")),
        ("two", verb.format("hello", "two")),
        ("run", verb.format("run", "mine")),
    ):
        install(name, code)
    done = deepseek_("hello", env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout == "one\n"
    assert "without the verbs of two, which is broken: the verb `hello` is there already" in done.stderr
    assert "the verb `run` is there already" in done.stderr


def test_a_plugin_adds_its_own_verb_and_a_broken_one_does_not_take_help_away(
    deepseek_: Deepseek, install: Install, tmp_path: Path
) -> None:
    hello = "@hookimpl\ndef commands(app):\n    @app.command('hello')\n    def hello():\n        'Say hello.'\n        print('hello')\n"
    for name, code in (("hello", hello), ("broken", "1 / 0\n")):
        install(name, code)
    env = {"PYTHONPATH": str(tmp_path)}
    assert deepseek_("hello", env=env).stdout == "hello\n"
    assert "hello" in deepseek_("--help", env=env).stdout
    states = {item["name"]: item["state"] for item in json.loads(deepseek_("plugins", "--json", env=env).stdout)}
    assert (states["hello"], states["broken"]) == ("active", "broken")
    (tmp_path / "p.yaml").write_text("model: m.onnx\n")
    (tmp_path / "m.onnx").touch()
    done = deepseek_("explain", "p.yaml", env=env)
    assert done.returncode == 4
    assert "acme-broken 1 (plugin `broken`) can't be imported: ZeroDivisionError" in done.stderr
