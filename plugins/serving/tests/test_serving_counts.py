"""What is counted is what clients got: an answer that can't be sent is no success."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from deepseek_serving.reports import together
from serving_pieces import Running, serving, triton_client, write_models
from serving_puppets import works

ROW = [[1.0, 2.0, 3.0, 4.0]]
#: Requests after which a quick model is executed on the loop.
EARNED = 1050


def counts(running: Running) -> tuple[int, int]:
    stats = running.http.get("/v2/models/small/stats").json()["model_stats"][0]["inference_stats"]
    return stats["success"]["count"], stats["fail"]["count"]


def everyway(running: Running, words: str, **more: str) -> None:
    """Ask over every road for what can't be had."""
    outputs = [more] if more else None
    answer = running.infer("small", ROW, **({"outputs": outputs} if outputs else {}))
    assert (answer.status_code, words in answer.json()["error"]) == (400, True)
    given = triton.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(np.array(ROW, np.float32))
    wanted = [triton.InferRequestedOutput(more["name"])] if more else None
    with triton_client(triton, running.grpc) as client:
        with pytest.raises(InferenceServerException, match=words):
            client.infer("small", [given], outputs=wanted)
        errors: list[object] = []
        client.start_stream(lambda result, error: errors.append(error))
        client.async_stream_infer("small", [given], outputs=wanted)
        client.stop_stream()
        assert words in str(errors[0])


@pytest.mark.parametrize("inline", ["0us", "1s"])
@pytest.mark.parametrize("carrier", ["native", "grpcio"])
def test_an_answer_that_cannot_be_sent_is_a_failure(tmp_path: Path, inline: str, carrier: str) -> None:
    write_models(tmp_path, {"small": {"puppet": {"concurrency": 0}}})
    with serving(tmp_path, inline=inline, grpc={"port": 0, "carrier": carrier}) as running:
        for _ in range(EARNED):
            running.infer("small", ROW)
        assert counts(running) == (EARNED, 0)
        works["small.puppet"] = lambda inputs: {"y": inputs["x"].astype(np.complex64)}
        everyway(running, "no datatype")
        assert counts(running) == (EARNED, 3)


def test_nothing_is_executed_for_an_output_that_is_not_there(tmp_path: Path) -> None:
    write_models(tmp_path, {"small": {"puppet": {"concurrency": 0}}})
    runs: list[int] = []
    works["small.puppet"] = lambda inputs: runs.append(1) or {"y": inputs["x"]}  # type: ignore[func-returns-value]
    with serving(tmp_path, inline="1s") as running:
        everyway(running, "no output `z`", name="z")
        for _ in range(EARNED):
            running.infer("small", ROW)
        everyway(running, "no output `z`", name="z")
        assert (counts(running), len(runs)) == ((EARNED, 6), EARNED)
        usage = running.http.get("/usage").json()["usage"]
        assert [row["requests"] for row in usage] == [EARNED]


def test_what_others_counted_is_not_added_to_ones_own(shared: Running) -> None:
    """A server of several processes adds their reports to its own, at every read."""
    shared.infer("echo", ROW)
    first, second = (shared.on_loop(shared.server.own_report) for _ in range(2))
    before = msgspec.json.encode([model.counts for model in first.models])
    together([second, shared.on_loop(shared.server.own_report)])
    third = shared.on_loop(shared.server.own_report)
    assert msgspec.json.encode([model.counts for model in third.models]) == before
