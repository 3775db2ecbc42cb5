"""Pictures and texts: who waits for a codec, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving_pieces import Running, serving


@pytest.fixture
def coded(coded_models: Path) -> Iterator[Running]:
    with serving(coded_models) as running:
        yield running


def test_a_codec_that_takes_long_delays_no_other_model_and_no_deadline(
    coded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = coded.server.repository.find("embed").pipeline
    assert pipeline is not None
    entered, go, encode = threading.Semaphore(0), threading.Event(), pipeline.codec.encode

    def slow(value: object) -> object:
        entered.release()
        assert go.wait(60)
        return encode(value)

    monkeypatch.setattr(pipeline.codec, "encode", slow)
    road = "/v2/models/embed/predict"
    with ThreadPoolExecutor(4) as pool:
        # As many as the model has threads for.
        waiting = [pool.submit(coded.http.post, road, content=b"hello") for _ in range(4)]
        for _ in range(4):
            entered.acquire()
        assert coded.http.post("/v2/models/color/predict", content=b"not a picture").status_code == 400
        late = coded.http.post(road, content=b"hello", headers={"X-Request-Timeout": "0.05"})
        assert (late.status_code, "deadline" in late.json()["error"]) == (503, True)
        go.set()
        assert {answer.result().status_code for answer in waiting} == {200}
    assert coded.http.post(road, content=b"hello").status_code == 200
    # Of those, and not of who did not wait any more.
    assert entered.acquire(blocking=False)
    assert not entered.acquire(blocking=False)
