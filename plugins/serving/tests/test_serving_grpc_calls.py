"""Calls over gRPC beside plain inference, on both carriers: the repository, what reaches schedulers and logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from deepseek.plugin import Request
from serving_pieces import Running, serving, triton_client, write_models
from serving_puppets import Chunks, works

ROW = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)


@pytest.fixture(params=["native", "grpcio"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    write_models(tmp_path / "models", {"echo": "", "many": {"puppet": {"chunks": 3}}})
    write_models(tmp_path / "outside", {"evil": ""})
    grpc = {"port": 0, "carrier": request.param}
    with serving(tmp_path / "models", allow=["load"], access_log=True, grpc=grpc, watch=0) as running:
        yield running


def given(rows: np.ndarray = ROW) -> list[triton.InferInput]:
    tensor = triton.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def test_models_are_loaded_and_unloaded(running: Running, tmp_path: Path) -> None:
    with triton_client(triton, running.grpc) as client:
        client.unload_model("echo")
        with pytest.raises(InferenceServerException, match="no model `echo`"):
            client.infer("echo", given())
        (tmp_path / "models/echo/echo.puppet").write_text("add 1")
        client.load_model("echo")
        assert client.is_model_ready("echo")
        np.testing.assert_array_equal(client.infer("echo", given()).as_numpy("y"), ROW + 1)
        states = {model.name: model.state for model in client.get_model_repository_index().models}
        assert states == {"echo": "READY", "many": "READY"}


@pytest.mark.parametrize("name", ["../outside/evil", "..", "echo/../../outside/evil", "", ".", "a\0b"])
def test_names_do_not_lead_out_of_the_folder(running: Running, name: str, tmp_path: Path) -> None:
    with triton_client(triton, running.grpc) as client:
        for path in (name, str(tmp_path / "outside/evil")):
            with pytest.raises(InferenceServerException, match="no model") as caught:
                client.load_model(path)
            assert caught.value.status() == "StatusCode.NOT_FOUND"
        assert {model.name for model in client.get_model_repository_index().models} == {"echo", "many"}


def test_the_access_log_has_calls_and_requests_of_streams(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    access = logging.getLogger("deepseek.access")
    access.addHandler(caplog.handler)
    try:
        with triton_client(triton, running.grpc) as client:
            client.infer("echo", given(), headers={"x-request-id": "mine", "authorization": "Bearer hidden"})
            with pytest.raises(InferenceServerException):
                client.infer("nobody", given())
            errors: list[object] = []
            client.start_stream(lambda result, error: errors.append(error))
            client.async_stream_infer("echo", given())
            client.stop_stream()
    finally:
        access.removeHandler(caplog.handler)
    rows = [json.loads(record.getMessage()) for record in caplog.records if record.name == "deepseek.access"]
    assert [(row["path"], row["status"]) for row in rows] == [
        ("ModelInfer", "OK"), ("ModelInfer", "NOT_FOUND"), ("ModelStreamInfer", "OK"),
    ]  # fmt: skip
    assert rows[0]["id"] == "mine"
    assert "hidden" not in caplog.text


def test_schedulers_are_told_of_priorities(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    answer = Chunks._answer

    def noting(self: Chunks, request: Request) -> None:
        seen.append(request.share.options.priority)
        answer(self, request)

    monkeypatch.setattr(Chunks, "_answer", noting)
    with triton_client(triton, running.grpc) as client:
        client.start_stream(lambda result, error: None)
        client.async_stream_infer("many", given(), priority=3)
        client.stop_stream()
    body = {"x": ROW[0].tolist(), "parameters": {"priority": 2}}
    assert running.http.post("/v2/models/many/generate_stream", json=body).status_code == 200
    running.infer("many", ROW, parameters={"priority": 1})
    assert seen == [3, 2, 1]


def test_numbers_that_are_none_pass_as_they_are(running: Running) -> None:
    strange = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    with triton_client(triton, running.grpc) as client:
        assert client.infer("echo", given(strange)).as_numpy("y").tobytes() == strange.tobytes()
    # JSON has no word for them.
    works["echo.puppet"] = lambda inputs: {"y": strange}
    assert running.infer("echo", ROW).json()["outputs"][0]["data"] == [None, None, None, 0.0]
