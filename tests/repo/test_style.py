"""The house's rules that no linter knows."""

from __future__ import annotations

import ast
import configparser
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*ROOT.glob("core/src/**/*.py"), *ROOT.glob("plugins/**/src/**/*.py")]
TESTS = [path for path in ROOT.glob("**/test_*.py") if ".venv" not in path.parts]


def test_hooks_are_asked_in_one_place() -> None:
    assert [path.name for path in SOURCES if "_pm.hook" in path.read_text()] == ["registry.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module"
    if path.name in ("hooks.py", "fakes.py", "fifo.py"):
        # Hook implementations are documented by their specs.
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path: Path) -> None:
    limit = 250
    assert len(path.read_text().splitlines()) <= limit


def test_no_test_sleeps() -> None:
    sleeps = re.compile(r"\bsleep\(")
    assert [path.name for path in TESTS if sleeps.search(path.read_text())] == []


@pytest.mark.parametrize("path", [*ROOT.glob("plugins/**/hooks.py")], ids=lambda path: path.parent.name)
def test_hooks_modules_hold_hooks_alone(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40


def test_the_facade_is_all_that_plugins_see() -> None:
    """The contract in .importlinter lists the core's modules by name; a new one must not be forgotten."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    forbidden = contracts["importlinter:contract:facade"]["forbidden_modules"].split()
    modules = [item.name for item in pkgutil.iter_modules([str(ROOT / "core/src/deepseek")]) if item.name != "__main__"]
    assert forbidden == sorted(f"deepseek.{name}" for name in modules if name != "plugin")
