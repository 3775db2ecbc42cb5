"""`deepseek plugin new` writes a distribution that installs and passes the contract suite at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek.cli.authoring import write
from deepseek.testing.contract import PluginContract

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated distribution, installed into a folder of its own beside it."""
    folder = tmp_path_factory.mktemp("generated")
    write("acme_line", folder / "deepseek-acme-line")
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", folder / "site"]
    subprocess.run([sys.executable, "-m", *map(str, install), str(folder / "deepseek-acme-line")], check=True)
    return folder


def run(generated: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(generated / "site")}
    folder = generated / "deepseek-acme-line"
    return subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True)


def test_it_passes_the_contract_suite(generated: Path) -> None:
    done = run(generated, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    suite = [name for name in dir(PluginContract) if name.startswith("test_")]
    [passed] = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) > len(suite)
    assert "skipped" not in done.stdout


def test_it_is_well_typed_and_clean(generated: Path) -> None:
    assert run(generated, "mypy", "--strict", "src").returncode == 0
    done = run(generated, "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,UP,B", ".")
    assert done.returncode == 0, done.stdout


def test_it_shows_among_the_plugins(generated: Path) -> None:
    done = run(generated, "deepseek", "plugins")
    assert "deepseek-acme-line 0.1.0" in done.stdout, done.stderr
