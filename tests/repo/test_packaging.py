"""Distributions, versions and extras agree with the one table in `deepseek.versions`."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from deepseek.versions import API, PLUGINS, VERSIONS, distribution, members, unwritten

ROOT = Path(__file__).parents[2]
PROJECTS = {
    path.parent: tomllib.loads(path.read_text())
    for path in ROOT.glob("**/pyproject.toml")
    if ".venv" not in path.parts and "templates" not in path.parts
}


def extras(monkeypatch: pytest.MonkeyPatch, *, release: bool) -> dict[str, list[str]]:
    monkeypatch.setenv("DEEPSEEK_RELEASE", "1" if release else "0")
    core = ProjectMetadata(str(ROOT), PluginManager()).core
    return {"": list(core.dependencies), **{name: list(values) for name, values in core.optional_dependencies.items()}}


def test_every_version_is_an_extra_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    found = extras(monkeypatch, release=True)
    assert {"v1", "v2", "v3", "v4", "v5", "v6", "all"} <= set(found)
    for version in VERSIONS:
        written = [distribution(name) for name in members(version) if name in PLUGINS]
        assert [item.partition("[")[0].partition("=")[0] for item in found[version]] == written
        assert [item.partition("=")[0] for item in found[f"{version}-plugins"]] == written
    assert set(found["v1"]) <= set(found["v2"]) <= set(found["all"])


def test_a_checkout_refers_to_folders_and_a_release_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    version = PROJECTS[ROOT]["project"]["version"]
    for requirement in chain(*extras(monkeypatch, release=False).values()):
        assert " @ file://" in requirement
    for requirement in chain(*extras(monkeypatch, release=True).values()):
        assert requirement.endswith(f"=={version}")
        assert "file:" not in requirement


def test_the_table_is_what_the_folders_hold() -> None:
    folders = {str(path.relative_to(ROOT)) for path in PROJECTS if "plugins" in path.relative_to(ROOT).parts}
    assert folders == {folder for folder, _ in PLUGINS.values()}
    assert unwritten("v1") == ()
    assert "batching" in unwritten("v2")


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_s_distribution(name: str) -> None:
    folder, extra = PLUGINS[name]
    project: dict[str, Any] = PROJECTS[ROOT / folder]["project"]
    assert project["name"] == distribution(name)
    assert project["entry-points"]["deepseek"] == {name: f"deepseek_{name}.hooks"}
    assert project["keywords"] == [f"deepseek-plugin-api-{API[0]}.{API[1]}"]
    assert any(item.startswith("deepseek-core~=") for item in project["dependencies"])
    assert not extra or extra in project["optional-dependencies"]
    # No plugin forces a flavour of its engine: the library is in extras alone.
    assert not [item for item in project["dependencies"] if item.startswith(("torch", "tensorflow", "onnxruntime"))]


def test_all_distributions_have_one_version_and_licence() -> None:
    assert {project["project"]["version"] for project in PROJECTS.values()} == {PROJECTS[ROOT]["project"]["version"]}
    assert {project["project"]["license"] for project in PROJECTS.values()} == {"Apache-2.0"}


def test_every_distribution_carries_the_licence() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert [folder.name for folder in PROJECTS if (folder / "LICENSE").read_text() != licence] == []


def test_torch_is_pinned() -> None:
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.slow
def test_a_release_wheel_carries_pins_and_no_paths(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        ROOT,
    ]
    subprocess.run([str(part) for part in command], env={**os.environ, "DEEPSEEK_RELEASE": "1"}, check=True)
    [wheel] = tmp_path.glob("deepseek-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith("METADATA")]
        required = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []
        assert all(".dist-info/" in name for name in archive.namelist())
    assert 'deepseek-torch[cpu]==0.1.0; extra == "v1"' in [item.replace("'", '"') for item in required]
    assert not any("file:" in item for item in required)


@pytest.mark.slow
def test_plain_pip_resolves_the_checkout() -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-build-isolation",
        "-c",
        "constraints.txt",
        ".[all]",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in PLUGINS:
        assert f"{distribution(name)}-0.1.0" in done.stdout.replace("_", "-")
