"""A folder of models that is watched: what changes in it, comes late, or can't be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepseek_serving.prints import fingerprint
from serving_pieces import Running, serving, write_models

ROW = [[1.0, 2.0, 3.0, 4.0]]


def first(running: Running, model: str) -> float:
    answer = running.infer(model, ROW)
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


def test_a_watched_folder_is_followed(tmp_path: Path) -> None:
    write_models(tmp_path, {"a": "add 1", "b": ""})
    with serving(tmp_path, watch="20ms") as running:
        assert first(running, "a") == 2.0
        (tmp_path / "a/a.puppet").write_text("add 10")
        while first(running, "a") != 11.0:
            pass
        write_models(tmp_path, {"c": "add 5"})
        while running.infer("c", ROW).status_code != 200:
            pass
        assert first(running, "c") == 6.0
        (tmp_path / "b/pipeline.yaml").unlink()
        while running.infer("b", ROW).status_code != 404:
            pass
        (tmp_path / "a/a.puppet").write_text("broken")
        assert first(running, "a") == 11.0


def test_a_model_whose_file_comes_late_is_loaded_when_it_comes(tmp_path: Path) -> None:
    (tmp_path / "late.yaml").write_text("model: late.puppet\n")
    with serving(tmp_path, watch="50ms") as running:
        assert running.infer("late", ROW).status_code == 503
        (tmp_path / "late.puppet").write_text("broken")
        while "broken" not in running.http.post("/v2/repository/index").text:
            pass
        (tmp_path / "late.puppet").write_text("add 1")
        while running.http.get("/v2/models/late/ready").status_code != 200:
            pass
        assert first(running, "late") == 2.0


def test_what_changed_once_is_tried_once(tmp_path: Path) -> None:
    (tmp_path / "late.yaml").write_text("model: late.puppet\n")
    with serving(tmp_path, watch="20ms") as running:
        # Another model that comes shows that the folder was looked at again.
        write_models(tmp_path, {"first": ""})
        while running.infer("first", ROW).status_code != 200:
            pass
        assert running.server.repository.failures == {"late": 1}
        (tmp_path / "late.puppet").write_text("")
        while running.infer("late", ROW).status_code != 200:
            pass
        write_models(tmp_path, {"second": ""})
        while running.infer("second", ROW).status_code != 200:
            pass
        served = running.server.repository.find("late")
        assert (served.statistics.loads, running.server.repository.failures) == (1, {"late": 1})


@pytest.mark.parametrize("model", ["weights/late.puppet", "../elsewhere.puppet"])
def test_a_model_that_lies_elsewhere_may_come_late(tmp_path: Path, model: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "late.yaml").write_text(f"model: {{source: {model}}}\n")
    with serving(folder, watch="20ms") as running:
        assert running.infer("late", ROW).status_code == 503
        (folder / model).parent.mkdir(exist_ok=True)
        (folder / model).write_text("add 1")
        while running.infer("late", ROW).status_code != 200:
            pass


def test_a_folder_that_cannot_be_read_is_one_models_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_models(tmp_path, {"echo": "", "private": ""})
    is_file = Path.is_file

    def forbidden(path: Path) -> bool:
        # As it is for all but the superuser, who may run this.
        if path.parent == tmp_path / "private":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    with monkeypatch.context() as patched, serving(tmp_path, watch="20ms", allow=["load"]) as running:
        assert running.http.post("/v2/repository/models/private/unload").status_code == 200
        patched.setattr(Path, "is_file", forbidden)
        for _ in range(2):
            answer = running.http.post("/v2/repository/models/private/load", timeout=5)
            assert (answer.status_code, "Permission denied" in answer.text) == (400, True)
        assert "can't be looked at: Permission denied" in running.infer("private", ROW).json()["error"]
        assert running.http.get("/v2/health/ready").status_code == 400
        rows = {row["name"]: row["state"] for row in running.http.post("/v2/repository/index").json()}
        assert rows == {"echo": "READY", "private": "UNAVAILABLE"}
        write_models(tmp_path, {"late": ""})
        while running.infer("late", ROW).status_code != 200:
            pass
        patched.undo()
        while running.infer("private", ROW).status_code != 200:
            pass


@pytest.mark.parametrize(
    "text", ['model: "a\\0b"', f"model: {'[' * 3000}", 'model: "\\ud800"', "model: [1, 2]", "- model", "model: {}", "model: /"],
    ids=["null", "deep", "surrogate", "list", "no-mapping", "empty", "root"],
)  # fmt: skip
def test_an_odd_pipeline_file_is_one_models_trouble(tmp_path: Path, text: str) -> None:
    write_models(tmp_path, {"echo": ""})
    (tmp_path / "odd.yaml").write_text(text)
    with serving(tmp_path, watch="20ms", allow=["load"]) as running:
        assert first(running, "echo") == 1.0
        assert running.infer("odd", ROW).status_code == 503
        assert running.http.post("/v2/repository/models/odd/load").status_code in (400, 500)
        write_models(tmp_path, {"late": ""})
        while running.infer("late", ROW).status_code != 200:
            pass


def test_no_folder_is_looked_into_that_may_be_lacked(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/file").write_text("")
    assert [item[0] for item in fingerprint([], [], [tmp_path])] == [str(tmp_path)]
    assert [item[0] for item in fingerprint([], [tmp_path])] == [str(tmp_path / "inner/file")]
