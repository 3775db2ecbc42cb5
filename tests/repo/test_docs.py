"""The docs say what is there: every hook, every setting, every link; and every example runs."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import inspect
import pkgutil
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import deepseek
import deepseek.plugin
from deepseek import errors, hookspecs
from deepseek.fifo import FifoSettings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/**/README.md"), ROOT / "benchmarks/README.md"]
)
PLUGINS = (ROOT / "docs/plugins.md").read_text()


def section(heading: str) -> str:
    start = PLUGINS.index(f"## `{heading}`\n")
    end = PLUGINS.find("\n## ", start + 1)
    return PLUGINS[start : end if end > 0 else len(PLUGINS)]


def examples(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize("hook", hookspecs.NAMES)
def test_every_hook_has_a_heading_with_its_arguments_and_an_example_that_runs(hook: str, tmp_path: Path) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    [example] = examples(section(f"{hook}({arguments})"))
    assert re.search(rf"@hookimpl.*\ndef {hook}\(", example)
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_hookspec_is_listed_and_documented() -> None:
    marked = {name for name, value in vars(hookspecs).items() if getattr(value, "deepseek_spec", None)}
    assert marked == set(hookspecs.NAMES)
    for name in marked:
        assert "Example:\n" in (inspect.getdoc(getattr(hookspecs, name)) or "")


def test_the_config_reference_is_what_the_settings_say() -> None:
    script = runpy.run_path(str(ROOT / "scripts/config_reference.py"))
    assert (ROOT / "docs/config.md").read_text() == script["reference"](), "run `make docs`"


def public() -> dict[str, object]:
    """What users and plugin authors import."""
    found = {f"deepseek.{name}": getattr(deepseek, name) for name in deepseek.__all__}
    found |= {f"plugin.{name}": getattr(deepseek.plugin, name) for name in deepseek.plugin.__all__}
    return {n: v for n, v in found.items() if isinstance(v, type) or inspect.isfunction(v)}


def methods(owner: object) -> dict[str, object]:
    members = vars(owner) if isinstance(owner, type) else {}
    return {
        name: getattr(value, "__func__", value)
        for name, value in members.items()
        if not name.startswith("_") and isinstance(value, property | classmethod | types.FunctionType)
    }


@pytest.mark.parametrize("name", public())
def test_what_is_public_has_an_example(name: str) -> None:
    """A method has one of its own, or is called in that of its class."""
    example = (inspect.getdoc(public()[name]) or "").partition(">>> ")[2]
    assert example, name
    for method, value in methods(public()[name]).items():
        doc = inspect.getdoc(value)
        assert doc, f"{name}.{method}"
        assert ">>> " in doc or re.search(rf"\.{method}\b", example), f"{name}.{method}"


@pytest.fixture(scope="module")
def examples_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that examples in docstrings speak of."""
    folder = tmp_path_factory.mktemp("examples")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["a"]), helper.make_node("Flatten", ["a"], ["logits"])]
    graph = helper.make_graph(nodes, "g", [image], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    (folder / "broken.onnx").write_bytes(b"what a download left")
    (folder / "labels.txt").write_text("tabby\nespresso\nmissile\n")
    (folder / "pipeline.yaml").write_text(
        "model: model.onnx\ninputs: {image: {crop: 8, scale: 255}}\n"
        "outputs: {classes: {labels: labels.txt, top_k: 2}}\n"
    )
    Image.fromarray(np.full((9, 9, 3), (150, 90, 60), np.uint8)).save(folder / "cat.jpg", quality=95)
    return folder


@pytest.mark.parametrize(
    "module",
    ["deepseek", *(m.name for m in pkgutil.walk_packages(deepseek.__path__, "deepseek.") if "__main__" not in m.name)],
)
def test_examples_in_docstrings_run(module: str, examples_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(examples_folder)
    # What plugin authors read takes its names from deepseek.plugin, as their own modules do.
    names = {name: getattr(deepseek.plugin, name) for name in deepseek.plugin.__all__}
    names |= {"deepseek": deepseek, "asyncio": asyncio, "numpy": np, "FifoSettings": FifoSettings}
    names |= {"Options": deepseek.Options, "array": np.zeros((1, 3, 8, 8), "float32")}
    with deepseek.build("pipeline.yaml") as pipeline:
        names["pipeline"] = pipeline
        found = importlib.import_module(module)
        own = {name: value for name, value in names.items() if not hasattr(found, name)}
        failed, _ = doctest.testmod(found, extraglobs=own, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_no_example_is_left_out() -> None:
    word = "doctest: +" + "SKIP"
    assert [path.name for path in (ROOT / "core/src").rglob("*.py") if word in path.read_text()] == []


def test_every_error_is_in_the_table_with_its_exit_code() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and "exit_code" in vars(kind) and name != "DeepSeekError":
            assert f"| {kind.exit_code} | `{name}` |" in text


def test_exit_codes_are_distinct() -> None:
    codes = [kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and "exit_code" in vars(kind)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


def test_the_readme_s_two_commands_are_in_the_makefile() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"    make {target} " in readme
        assert re.search(rf"^{target}:", makefile, re.M)


@pytest.mark.slow
def test_the_tutorial_s_python_runs(tmp_path: Path) -> None:
    [example] = examples((ROOT / "docs/tutorial.md").read_text())
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run([sys.executable, str(tmp_path / "example.py")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["tiger cat", "(1, 1000)"]


def test_fragments_are_named_for_what_they_are() -> None:
    for path in (ROOT / "changes").iterdir():
        assert re.fullmatch(r"README\.md|(\d+|\+[a-z0-9-]+)\.(added|changed|fixed)\.md", path.name), path.name
