"""The command with plugins of strangers, good and bad, and what it tells of plugins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command_pieces import Deepseek, Install, rows

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


def test_plugins_versions_and_schema(pipeline: Path, deepseek_: Deepseek) -> None:
    plugins = {item["name"]: item for item in json.loads(deepseek_("plugins", "--json").stdout)}
    assert {"codecs", "onnxruntime", "tensorflow", "torch"} <= set(plugins)
    assert plugins["torch"]["hooks"] == ["sections", "probe", "load", "optimize", "execute"]
    pipeline.write_text("model: neg.onnx\nplugins: {disable: [torch]}\n")
    plugins = {item["name"]: item for item in json.loads(deepseek_("plugins", "p.yaml", "--json").stdout)}
    assert (plugins["torch"]["state"], plugins["torch"]["why"]) == ("blocked", "disabled by plugins.disable")
    versions = {item["version"]: item["state"] for item in json.loads(deepseek_("versions", "--json").stdout)}
    assert versions["v1"] == "installed"
    assert versions["v2"].startswith("not complete: batching, openvino, quant not written yet")
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
