"""The other roads to a model: generate, server-sent events, predict, OpenAI; sequences; metrics; traces; logs."""

from __future__ import annotations

import io
import itertools
import json
import logging
import math
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from serving_pieces import Running, serving, write_models
from serving_puppets import works

ROW = [[1.0, 2.0, 3.0, 4.0]]


def test_generate_takes_and_gives_plain_values(shared: Running) -> None:
    answer = shared.http.post("/v2/models/text/generate", json={"x": ["a", "b"], "id": "7"})
    assert answer.json() == {"model_name": "text", "model_version": "1", "id": "7", "y": ["a", "b"]}
    assert shared.http.post("/v2/models/text/generate", json={"z": "a"}).status_code == 400
    assert shared.http.post("/v2/models/text/generate", json=[1]).status_code == 400


def events(shared: Running, model: str, **body: Any) -> list[dict[str, Any]]:
    with shared.http.stream("POST", f"/v2/models/{model}/generate_stream", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]


def test_chunks_come_as_server_sent_events(shared: Running) -> None:
    assert [event["y"] for event in events(shared, "many", x=[1, 1, 1, 1])] == [[k * 1.0] * 4 for k in (1, 2, 3)]
    assert [event["y"] for event in events(shared, "echo", x=[1, 1, 1, 1])] == [[1.0] * 4]
    assert shared.http.post("/v2/models/many/generate_stream", json={"x": [1]}).status_code == 400


def test_an_error_after_the_first_chunk_is_the_last_event(shared: Running) -> None:
    runs = itertools.count()

    def fail_later(inputs: Any) -> Any:
        if next(runs) == 1:
            raise RuntimeError("no more")
        return {"y": inputs["x"]}

    works["many.puppet"] = fail_later
    first, last = events(shared, "many", x=[1, 1, 1, 1])
    assert first["y"] == [1.0] * 4
    assert (list(last), "no more" in last["error"]) == (["error"], True)


def test_sequences_begin_with_their_start(shared: Running) -> None:
    def part(**parameters: Any) -> int:
        return shared.infer("echo", ROW, parameters={"sequence_id": 5, **parameters}).status_code

    assert part() == 400
    assert part(sequence_start=True) == 200
    assert part() == 200
    assert part(sequence_end=True) == 200
    assert part() == 400
    assert shared.infer("echo", ROW, parameters={"sequence_id": 0}).status_code == 200


@pytest.fixture(scope="module")
def coded(coded_models: Path) -> Iterator[Running]:
    with serving(coded_models) as running:
        yield running


def test_a_picture_is_named_and_a_text_embedded(coded: Running) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (9, 9), (10, 200, 20)).save(picture, "PNG")
    answer = coded.http.post("/v2/models/color/predict", content=picture.getvalue()).json()
    assert answer["rows"][0]["logits"][0]["label"] == "green"
    answer = coded.http.post("/v2/models/embed/predict", content=b"hello world").json()
    assert answer["rows"][0]["embedding"] == [6.0, 7.0, 8.0, 9.0]
    assert coded.http.post("/v2/models/color/predict", content=b"not a picture").status_code == 400
    assert coded.http.post("/v2/models/color/predict", content=b"").status_code == 400


def test_the_best_classes_have_the_names_that_the_pipeline_gives(coded: Running) -> None:
    [given] = coded.http.get("/v2/models/color").json()["inputs"]
    shape = [1 if size < 0 else size for size in given["shape"]]
    tensor = {"name": given["name"], "shape": shape, "datatype": given["datatype"], "data": [0] * math.prod(shape)}
    wish = {"name": "logits", "parameters": {"classification": 1}}
    answer = coded.http.post("/v2/models/color/infer", json={"inputs": [tensor], "outputs": [wish]}).json()
    [best] = answer["outputs"][0]["data"]
    assert best.split(":")[2] in ("red", "green", "blue")


def test_a_text_is_never_a_path(coded: Running, tmp_path: Path) -> None:
    file = tmp_path / "secret.txt"
    file.write_text("hello")
    answer = coded.http.post("/v2/models/embed/predict", content=str(file).encode()).json()
    assert answer["rows"][0]["embedding"] == [0.0, 1.0, 2.0, 3.0]


def test_openais_client(coded: Running) -> None:
    client = openai.OpenAI(base_url=f"{coded.url}/v1", api_key="none", max_retries=0)
    assert {model.id for model in client.models.list()} == {"color", "embed"}
    assert client.models.retrieve("embed").id == "embed"
    made = client.embeddings.create(model="embed", input=["hello", "hello world"])
    assert [item.embedding for item in made.data] == [[4, 5, 6, 7], [6, 7, 8, 9]]
    assert (made.usage.prompt_tokens, made.data[1].index) == (3, 1)
    plain = client.embeddings.create(model="embed", input="world", encoding_format="float")
    assert plain.data[0].embedding == [8, 9, 10, 11]
    tokens = client.embeddings.create(model="embed", input=[[1, 2], [2]])
    assert [item.embedding for item in tokens.data] == [[6, 7, 8, 9], [8, 9, 10, 11]]
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.embeddings.create(model="nobody", input="a")
    for wrong in ("", [], ["a", 1], [[]], [3], [[-1]], [1] * 513):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="embed", input=wrong)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="`color` does not take this text"):
        client.embeddings.create(model="color", input="a")


def test_more_texts_than_the_queue_holds(coded_models: Path, tmp_path: Path) -> None:
    shutil.copytree(coded_models, tmp_path / "models")
    with (tmp_path / "models/embed.yaml").open("a") as file:
        file.write("fifo: {max_queue: 70}\n")
    with serving(tmp_path / "models") as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        made = client.embeddings.create(model="embed", input=["hello", "world"] * 200)
        assert [item.embedding for item in made.data] == [[4, 5, 6, 7], [8, 9, 10, 11]] * 200


def test_a_client_that_does_not_read_its_events_is_given_up(tmp_path: Path) -> None:
    write_models(tmp_path, {"many": {"puppet": {"chunks": 40_000}}})
    with serving(tmp_path) as running:
        content = json.dumps({"x": [[1.0] * 4] * 100}).encode()
        host, _, port = running.address.partition(":")
        with socket.create_connection((host, int(port)), 30) as connection:
            top = b"POST /v2/models/many/generate_stream HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
            connection.sendall(top % len(content) + content)
            while 'cause="slow_reader"' not in running.http.get("/metrics").text:
                pass
            assert running.infer("many", ROW).status_code == 400


def test_prometheus_reads_the_metrics(shared: Running) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    shared.infer("echo", ROW + ROW)
    shared.infer("echo", [1.0])
    page = shared.http.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(page.text)}

    def value(family: str, **labels: str) -> float:
        found = [s.value for s in families[family].samples if labels.items() <= s.labels.items()]
        return found[0]

    assert value("deepseek_requests", model="echo", outcome="success") >= 1
    assert value("deepseek_errors", model="echo", cause="input") >= 1
    assert value("deepseek_rows", model="echo") >= 2
    assert value("deepseek_ready", model="echo") == 1
    for name in ("queue", "execute", "total"):
        samples = [s for s in families[f"deepseek_{name}_seconds"].samples if s.labels.get("model") == "echo"]
        buckets = [s.value for s in samples if s.name.endswith("_bucket")]
        [count] = [s.value for s in samples if s.name.endswith("_count")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == count >= 1
    assert value("deepseek_usage_rows", model="echo", tenant="") >= 2
    assert "process_resident_memory_bytes" in families


def test_the_access_log_names_requests_and_holds_no_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, access_log=True) as running:
        access = logging.getLogger("deepseek.access")
        access.addHandler(caplog.handler)
        try:
            answer = running.http.get(
                "/v2?key=hidden", headers={"X-Request-Id": "mine", "Authorization": "Bearer hidden"}
            )
            made = running.infer("echo", ROW).headers["x-request-id"]
            streamed = running.http.post(
                "/v2/models/echo/generate_stream", json={"x": ROW[0]}, headers={"X-Request-Id": "parts"}
            )
        finally:
            access.removeHandler(caplog.handler)
    assert (answer.headers["x-request-id"], streamed.headers["x-request-id"]) == ("mine", "parts")
    rows = [json.loads(record.getMessage()) for record in caplog.records if record.name == "deepseek.access"]
    assert [(row["id"], row["path"], row["status"]) for row in rows] == [
        ("mine", "/v2", 200), (made, "/v2/models/echo/infer", 200), ("parts", "/v2/models/echo/generate_stream", 200),
    ]  # fmt: skip
    assert "hidden" not in caplog.text


def test_log_settings_are_changed_where_allowed(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, allow=["settings"]) as running:
        logger = logging.getLogger("deepseek")
        before = logger.level
        try:
            assert running.http.post("/v2/logging", json={"log_info": False}).json()["log_info"] is False
            assert running.http.get("/v2/logging").json()["log_warning"] is True
            assert running.http.post("/v2/logging", json={"log_file": "/etc/passwd"}).status_code == 400
            assert running.http.post("/v2/logging", json={"log_info": 1}).status_code == 400
            assert running.http.post("/v2/logging", json={"nonsense": 1}).status_code == 400
        finally:
            logger.setLevel(before)
