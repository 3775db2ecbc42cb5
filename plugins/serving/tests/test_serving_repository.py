"""Models come and go: versions, load, unload, reload, and a folder that is watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepseek.errors import ConfigError
from deepseek_serving import loading
from deepseek_serving.folder import OneFile
from deepseek_serving.opening import open_pipeline
from serving_pieces import Running, serving, write_models

ROW = [[1.0, 2.0, 3.0, 4.0]]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    write_models(tmp_path, {"a/1": "add 1", "a/2": "add 2", "a/3": "add 3", "b": ""})
    settings = {"allow": ["load"], "versions": {"latest": 2}, "models": {"b": {"all": True}}}
    with serving(tmp_path, **settings) as running:  # type: ignore[arg-type]
        yield running


def first(running: Running, model: str) -> float:
    answer = running.infer(model, ROW)
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


def test_the_latest_versions_are_served(running: Running) -> None:
    assert running.http.get("/v2/models/a").json()["versions"] == ["2", "3"]
    assert first(running, "a") == 4.0
    assert first(running, "a/versions/2") == 3.0
    assert running.infer("a/versions/1", ROW).status_code == 404


@pytest.mark.parametrize(
    ("policy", "served"), [({"all": True}, ["1", "2", "3"]), ({"specific": [1, 3, 9]}, ["1", "3"])]
)
def test_version_policies(tmp_path: Path, policy: dict[str, object], served: list[str]) -> None:
    write_models(tmp_path, {"a/1": "", "a/2": "", "a/3": ""})
    with serving(tmp_path, models={"a": policy}) as running:
        assert running.http.get("/v2/models/a").json()["versions"] == served


def test_policies_exclude_one_another(tmp_path: Path) -> None:
    write_models(tmp_path, {"a": ""})
    with (
        pytest.raises(ConfigError, match="exclude one another"),
        serving(tmp_path, versions={"latest": 1, "all": True}),
    ):
        pass


def test_a_model_may_be_called_server(tmp_path: Path) -> None:
    write_models(tmp_path, {"server/2": "add 2"})
    (tmp_path / "server.yaml").write_text("workers: 1\n")
    with serving(tmp_path) as running:
        assert running.http.get("/v2/models/server").json()["versions"] == ["2"]


def test_a_model_is_unloaded_and_loaded(running: Running) -> None:
    assert running.http.post("/v2/repository/models/b/unload").status_code == 200
    assert running.infer("b", ROW).status_code == 404
    rows = {row["name"]: row["state"] for row in running.http.post("/v2/repository/index").json()}
    assert rows == {"a": "READY", "b": "UNAVAILABLE"}
    ready = running.http.post("/v2/repository/index", json={"ready": True}).json()
    assert {row["name"] for row in ready} == {"a"}
    assert running.http.post("/v2/repository/models/b/load").status_code == 200
    assert first(running, "b") == 1.0
    assert running.http.post("/v2/repository/models/nobody/load").status_code == 404
    assert running.http.post("/v2/repository/models/nobody/unload").status_code == 404


@pytest.mark.parametrize("name", ["..", "..%2f..%2fetc", ".hidden", "server", "a%2f1", "%00"])
def test_names_do_not_lead_out_of_the_folder(running: Running, name: str) -> None:
    assert running.http.post(f"/v2/repository/models/{name}/load").status_code == 404


def test_a_reload_brings_new_versions_and_takes_old_ones(running: Running, tmp_path: Path) -> None:
    write_models(tmp_path, {"a/4": "add 4"})
    assert running.http.post("/v2/repository/models/a/load").status_code == 200
    assert running.http.get("/v2/models/a").json()["versions"] == ["3", "4"]
    assert first(running, "a") == 5.0


def test_a_reload_that_fails_changes_nothing(running: Running, tmp_path: Path) -> None:
    (tmp_path / "a/3/a-3.puppet").write_text("broken")
    answer = running.http.post("/v2/repository/models/a/load")
    assert answer.status_code == 500
    assert first(running, "a") == 4.0
    (tmp_path / "a/3/pipeline.yaml").write_text("modell: x\n")
    answer = running.http.post("/v2/repository/models/a/load")
    assert (answer.status_code, "modell" in answer.json()["error"]) == (400, True)
    assert first(running, "a") == 4.0
    assert running.server.ready


def test_a_model_that_never_loaded_says_why(tmp_path: Path) -> None:
    write_models(tmp_path, {"a": "broken", "b": ""})
    with serving(tmp_path) as running:
        answer = running.infer("a", ROW)
        assert (answer.status_code, "could not be loaded" in answer.json()["error"]) == (503, True)
        assert running.http.get("/v2/health/ready").status_code == 400
        assert running.http.get("/v2/models/a/ready").status_code == 400
        assert first(running, "b") == 1.0


def test_what_nobody_foresaw_while_a_model_loads_is_its_own_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    write_models(tmp_path, {"bad": "", "good": ""})

    def fail(path: Path, *more: Any) -> Any:
        if path.parent.name == "bad":
            raise TypeError("data type not understood")
        return open_pipeline(path, *more)

    monkeypatch.setattr(loading, "open_pipeline", fail)
    with serving(tmp_path, allow=["load"]) as running:
        assert running.http.get("/v2/models/good/ready").status_code == 200
        [row] = [row for row in running.http.post("/v2/repository/index").json() if row["name"] == "bad"]
        assert "TypeError: data type not understood" in row["reason"]
        assert running.http.post("/v2/repository/models/bad/load").status_code == 500


def test_files_that_change_while_they_are_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    write_models(tmp_path, {"a": "add 1"})
    changes = iter(["add 2", "add 3"])

    def change(path: Path, *more: Any) -> Any:
        opened = open_pipeline(path, *more)
        for text in changes:
            (tmp_path / "a/a.puppet").write_text(text)
            break
        return opened

    monkeypatch.setattr(loading, "open_pipeline", change)
    with serving(tmp_path, watch="50ms") as running:
        while first(running, "a") != 4.0:
            pass


def test_zeros_of_any_type_warm_a_model_up(tmp_path: Path) -> None:
    write_models(tmp_path, {"half": {"puppet": {"dtype": "bfloat16"}}})
    with serving(tmp_path) as running:
        assert running.http.get("/v2/models/half/ready").status_code == 200


def test_a_single_file_is_a_model_of_its_name() -> None:
    assert OneFile(Path("cats/pipeline.yaml")).names() == ["pipeline"]
    assert OneFile(Path("cats/my model.yaml"), "cats").names() == ["cats"]


def test_counts_outlive_a_reload(running: Running) -> None:
    first(running, "b")
    running.http.post("/v2/repository/models/b/load")
    first(running, "b")
    assert running.http.get("/v2/models/b/stats").json()["model_stats"][0]["inference_count"] == 2
    running.http.post("/v2/repository/models/b/unload")
    assert [row["requests"] for row in running.http.get("/usage").json()["usage"] if row["model"] == "b"] == [2]


def test_versions_are_loaded_together_or_not_at_all(running: Running, tmp_path: Path) -> None:
    (tmp_path / "a/2/a-2.puppet").write_text("add 20")
    (tmp_path / "a/3/a-3.puppet").write_text("broken")
    assert running.http.post("/v2/repository/models/a/load").status_code == 500
    assert (first(running, "a/versions/2"), first(running, "a")) == (3.0, 4.0)
    write_models(tmp_path, {"c/1": "", "c/2": "broken"})
    assert running.http.post("/v2/repository/models/c/load").status_code == 500
    assert running.infer("c", ROW).status_code == 503
    rows = {(row["name"], row["state"]) for row in running.http.post("/v2/repository/index").json()}
    assert ("c", "UNAVAILABLE") in rows
    assert ("c", "READY") not in rows


def test_unloading_gives_the_memory_back(tmp_path: Path) -> None:
    """Measured: of a model of 128 MB hardly anything stays, however often it comes and goes."""
    place = tmp_path / "large"
    place.mkdir()
    weight = numpy_helper.from_array(np.random.default_rng(0).random((16, 2_000_000), np.float32), "w")
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 16), ("y", 2_000_000))
    )
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "large", [x], [y], [weight])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), place / "model.onnx"
    )
    (place / "pipeline.yaml").write_text("model: model.onnx\nonnxruntime: {threads: 1}\n")
    del weight, graph
    size = (place / "model.onnx").stat().st_size
    process = psutil.Process()
    with serving(tmp_path, allow=["load"]) as running:
        for _ in range(3):
            loaded = process.memory_info().rss
            assert running.http.post("/v2/repository/models/large/unload").status_code == 200
            assert loaded - process.memory_info().rss > 0.9 * size
            assert running.http.post("/v2/repository/models/large/load").status_code == 200
