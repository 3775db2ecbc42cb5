"""`deepseek plugin new` writes a distribution that installs and passes the contract suite at once."""

from __future__ import annotations

import os
import re
import shutil
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


RUN, MADE = "        given: Any = inputs[self._input]\n", "        self.signature = model.signature\n"

#: What an author may do wrong -> the file, what is put in, what it stands behind, the test that must notice.
FAULTS = {
    "claims every file": ("hooks", "    source = Source(source.path.with_suffix('.acme_line'))\n", "Loader | None:\n", "not_claimed"),
    "raises for files of others": ("hooks", "    source.path.read_text('ascii')[100]\n", "Loader | None:\n", "not_claimed"),
    "prints": ("hooks", "    print('hello')\n", "Engine | Decline:\n", "standard_output"),
    "writes to its inputs": ("executor", "        inputs[self._input][...] += 1\n", RUN, "callers_own"),
    "answers otherwise than it states": ("executor", "        return {'z': np.zeros((2, 4))}\n", RUN, "signature_says"),
    "mixes the rows of a batch": ("executor", "        return {'y': inputs[self._input] - inputs[self._input].mean(0)}\n", RUN, "equals_its_rows"),
    "takes NumPy's arrays only": ("executor", "        assert isinstance(inputs[self._input], np.ndarray)\n", RUN, "any_library"),
    "leaks with each build": ("executor", "        KEPT.append(np.ones(400_000))\n", MADE, "leak"),
    "leaks with each call": ("executor", "        KEPT.append(np.ones(40_000))\n", RUN, "leak"),
    "leaves a thread": ("executor", "        Thread(target=Event().wait, daemon=True).start()\n", MADE, "threads_and_processes"),
    "leaves a process": ("executor", "        KEPT.append(Popen(['sleep', '5']))\n", MADE, "threads_and_processes"),
}  # fmt: skip
HEAD = "from subprocess import Popen\nfrom threading import Event, Thread\n\nKEPT = []\n"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_suite_notices(generated: Path, tmp_path: Path, fault: str) -> None:
    module, code, behind, test = FAULTS[fault]
    shutil.copytree(generated, tmp_path / "copy")
    path = tmp_path / "copy/site/deepseek_acme_line" / f"{module}.py"
    text = path.read_text()
    assert text.count(behind) == 1
    future = "from __future__ import annotations\n"
    path.write_text(text.replace(behind, behind + code).replace(future, future + HEAD))
    done = run(tmp_path / "copy", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "-k", test)
    assert done.returncode == 1, done.stdout
    assert re.search(rf"FAILED .*{test}", done.stdout)
