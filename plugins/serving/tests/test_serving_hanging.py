"""Models that hang, or are thought to: who is answered, and what is replaced."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serving_pieces import later, serving, write_models
from serving_puppets import Blocked, gates, works

ROW = [[1.0, 2.0, 3.0, 4.0]]


def test_a_model_that_hangs_is_not_ready_and_is_replaced(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": "", "echo": ""})
    with serving(tmp_path, stall="300ms") as running:
        blocked = Blocked("slow.puppet")
        hanging = later(running, 1)
        blocked.entered.acquire()
        answer = hanging.result()
        assert (answer.status_code, "stopped answering" in answer.json()["error"]) == (503, True)
        del works["slow.puppet"]
        while running.http.get("/v2/models/slow/ready").status_code != 200:
            pass
        assert running.infer("slow", ROW).status_code == 200
        assert (
            running.http.get("/v2/models/slow/stats").json()["model_stats"][0]["inference_stats"]["fail"]["count"] == 1
        )
        blocked.go.set()


def test_a_model_that_hangs_is_noticed_under_traffic_too(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": {"fifo": {"max_queue": 1}, "serving": {"timeout": "50ms"}}})
    with serving(tmp_path, stall="500ms") as running:
        blocked = Blocked("slow.puppet")
        first = later(running, 1)
        blocked.entered.acquire()
        # Refused for a full queue, or late: neither is a sign of life.
        while "stopped answering" not in running.http.get("/state").text and len(blocked.runs) < 2:
            running.infer("slow", ROW)
            if running.http.get("/v2/models/slow/ready").status_code != 200:
                break
        assert first.result().status_code == 503
        del works["slow.puppet"]
        while running.infer("slow", ROW).status_code != 200:
            pass
        blocked.go.set()


def test_a_model_that_cannot_be_replaced_is_tried_again(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": ""})
    file = tmp_path / "slow/slow.puppet"
    with serving(tmp_path, stall="300ms") as running:
        blocked = Blocked("slow.puppet")
        hanging = later(running, 1)
        blocked.entered.acquire()
        away = file.rename(tmp_path / "away")
        assert hanging.result().status_code == 503
        while "loaded anew" in running.http.post("/v2/repository/index").json()[0]["reason"]:
            pass
        away.rename(file)
        del works["slow.puppet"]
        while running.http.get("/v2/models/slow/ready").status_code != 200:
            pass
        assert running.infer("slow", ROW).status_code == 200
        blocked.go.set()


@pytest.mark.parametrize("what", ["load", "unload"])
def test_who_waits_for_a_pipeline_that_hangs_is_told_also_when_it_was_replaced(tmp_path: Path, what: str) -> None:
    write_models(tmp_path, {"slow": ""})
    with serving(tmp_path, stall="1s", allow=["load"]) as running:
        blocked = Blocked("slow.puppet")
        hanging = later(running, 1)
        blocked.entered.acquire()
        behind = later(running, 2)
        while running.on_loop(lambda: running.server.repository.find("slow").traffic.sent) != 2:
            pass
        del works["slow.puppet"]
        changing = threading.Thread(
            target=lambda: running.http.post(f"/v2/repository/models/slow/{what}").raise_for_status()
        )
        changing.start()
        try:
            for answer in (hanging.result(20), behind.result(20)):
                assert (answer.status_code, "stopped answering" in answer.json()["error"]) == (503, True)
        finally:
            blocked.go.set()
            changing.join()


@pytest.mark.parametrize("how", ["client", "deadline"])
def test_a_stream_that_was_given_up_is_no_hanging_model(tmp_path: Path, how: str) -> None:
    write_models(tmp_path, {"many": {"puppet": {"chunks": 2}}})
    with serving(tmp_path, stall="500ms") as running:
        runs, go = iter(range(2)), threading.Event()
        works["many.puppet"] = lambda inputs: (next(runs) == 0 or go.wait(60)) and {"y": inputs["x"]}
        headers = {"X-Request-Timeout": "0.1"} if how == "deadline" else {}
        road = "/v2/models/many/generate_stream"
        served = running.server.repository.find("many")
        with running.http.stream("POST", road, json={"x": ROW[0]}, headers=headers) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            if how == "deadline":
                assert any("deadline" in line for line in lines)
        while served.calls:
            pass
        go.set()
        # Its scheduler was told, and stopped.
        while served.traffic.busy:
            pass
        assert served.statistics.loads == 1


def test_a_load_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    write_models(tmp_path, {"bad": "", "good": ""})
    with serving(tmp_path, loading="4s", allow=["load"]) as running:
        go = gates["bad.puppet"] = threading.Event()
        try:
            (tmp_path / "bad/bad.puppet").write_text("hang")
            failed = running.http.post("/v2/repository/models/bad/load")
            assert (failed.status_code, "was not loaded after" in failed.json()["error"]) == (503, True)
            assert running.http.post("/v2/repository/models/good/load").status_code == 200
            # What served before serves still.
            assert running.http.get("/v2/models/bad/ready").status_code == 200
        finally:
            go.set()


def test_models_that_take_long_are_left_alone_if_the_settings_say_so(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": ""})
    with serving(tmp_path, stall="0us") as running:
        blocked = Blocked("slow.puppet")
        answer = later(running, 1)
        blocked.entered.acquire()
        # Longer than the server takes between two looks.
        running.on_loop(lambda: running.server._look(set(), keys=False))
        assert running.http.get("/v2/models/slow/ready").status_code == 200
        blocked.go.set()
        assert answer.result().status_code == 200
