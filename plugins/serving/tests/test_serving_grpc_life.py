"""Calls over gRPC in time, whatever carries them: taken back, late, in flight when the server ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from deepseek_serving.grpc import schema
from serving_pieces import Running, serving, write_models
from serving_puppets import Blocked, works

Request = schema.ModelInferRequest


@pytest.fixture(params=["native", "grpcio"])
def slow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    write_models(tmp_path, {"slow": {"fifo": {"max_queue": 2}}})
    with serving(tmp_path, grpc={"port": 0, "carrier": request.param}) as running:
        yield running


def message(value: float) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": [value] * 4}}
    return Request(model_name="slow", inputs=[tensor])


def call(channel: grpc.Channel) -> Any:
    path = f"/{schema.SERVICE}/ModelInfer"
    return channel.unary_unary(path, Request.SerializeToString, schema.ModelInferResponse.FromString)


def stream(channel: grpc.Channel) -> Any:
    path = f"/{schema.SERVICE}/ModelStreamInfer"
    return channel.stream_stream(path, Request.SerializeToString, schema.ModelStreamInferResponse.FromString)


def waiting(running: Running, count: int) -> None:
    """Until so many requests are with the model."""
    while running.on_loop(lambda: len(running.server.repository.find("slow").calls)) != count:
        pass


def test_a_call_that_is_cancelled_is_taken_back(slow: Running) -> None:
    blocked = Blocked("slow.puppet")
    with grpc.insecure_channel(slow.grpc) as channel:
        first = call(channel).future(message(1))
        blocked.entered.acquire()
        second = call(channel).future(message(9))
        waiting(slow, 2)
        second.cancel()
        waiting(slow, 1)
        blocked.go.set()
        assert first.result().raw_output_contents
        assert call(channel)(message(2)).raw_output_contents
    assert blocked.runs == [1, 2]


def test_a_client_that_goes_takes_its_calls_back(slow: Running) -> None:
    blocked = Blocked("slow.puppet")
    with grpc.insecure_channel(slow.grpc) as channel:
        first = call(channel).future(message(1))
        blocked.entered.acquire()
        with grpc.insecure_channel(slow.grpc, [("grpc.use_local_subchannel_pool", 1)]) as gone:
            kept = [call(gone).future(message(9))]
            waiting(slow, 2)
            kept.append(stream(gone)(iter([message(9)])))
            waiting(slow, 3)
        waiting(slow, 1)
        blocked.go.set()
        assert first.result().raw_output_contents
        assert call(channel)(message(2)).raw_output_contents
    assert blocked.runs == [1, 2]


def test_a_late_call_is_not_executed(slow: Running) -> None:
    blocked = Blocked("slow.puppet")
    with grpc.insecure_channel(slow.grpc) as channel:
        first = call(channel).future(message(1))
        blocked.entered.acquire()
        with pytest.raises(grpc.RpcError) as caught:
            call(channel)(message(9), timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        waiting(slow, 1)
        blocked.go.set()
        assert first.result().raw_output_contents
        assert call(channel)(message(2)).raw_output_contents
    assert blocked.runs == [1, 2]


def test_a_full_queue_refuses_the_next_call(slow: Running) -> None:
    blocked = Blocked("slow.puppet")
    with grpc.insecure_channel(slow.grpc) as channel:
        first = call(channel).future(message(1))
        blocked.entered.acquire()
        others = [call(channel).future(message(2)) for _ in range(2)]
        waiting(slow, 3)
        with pytest.raises(grpc.RpcError) as caught:
            call(channel)(message(9))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "queue is full" in str(caught.value.details())
        blocked.go.set()
        assert all(each.result().raw_output_contents for each in (first, *others))


def test_calls_in_flight_are_finished_when_the_server_ends(slow: Running) -> None:
    blocked = Blocked("slow.puppet")
    with grpc.insecure_channel(slow.grpc) as channel:
        first = call(channel).future(message(1))
        answers = stream(channel)(iter([message(2)]))
        blocked.entered.acquire()
        waiting(slow, 2)
        slow.end()
        refused = grpc.StatusCode.NOT_FOUND
        while refused is not grpc.StatusCode.UNAVAILABLE:
            with pytest.raises(grpc.RpcError) as caught:
                call(channel)(Request(model_name="nobody"))
            refused = caught.value.code()
        blocked.go.set()
        assert first.result().raw_output_contents
        assert [each.error_message for each in answers] == [""]


def test_an_error_of_one_request_leaves_its_stream(slow: Running) -> None:
    def fail(inputs: Any) -> Any:
        raise RuntimeError("a secret of the engine")

    works["slow.puppet"] = fail
    with grpc.insecure_channel(slow.grpc) as channel:
        answers = list(stream(channel)(iter([message(1), Request(model_name="nobody", id="b"), message(2)])))
    said = {each.infer_response.id: each.error_message for each in answers}
    assert len(answers) == 3
    assert "no model" in said["b"]
    assert "raised" in said[""]


def test_calls_that_take_longer_than_the_end_are_told(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": ""})
    with serving(tmp_path, drain="200ms") as running:
        blocked = Blocked("slow.puppet")
        with grpc.insecure_channel(running.grpc) as channel:
            first = call(channel).future(message(1))
            answers = stream(channel)(iter([message(2)]))
            blocked.entered.acquire()
            waiting(running, 2)
            running.end()
            assert first.exception().code() is grpc.StatusCode.UNAVAILABLE
            assert "ending" in first.exception().details()
            with pytest.raises(grpc.RpcError) as caught:
                list(answers)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            blocked.go.set()
