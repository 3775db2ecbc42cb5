"""Traces: which requests have one, and what becomes of them."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from deepseek_serving.grpc import schema
from deepseek_serving.settings import TracingSettings
from deepseek_serving.tracing import Tracing
from serving_pieces import serving, write_models

ROW = [[1.0, 2.0, 3.0, 4.0]]


def test_traces_follow_the_context_of_the_caller(tmp_path: Path) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    write_models(tmp_path, {"echo": ""})
    exporter = InMemorySpanExporter()
    trace = "0af7651916cd43dd8448eb211c80319c"
    with serving(tmp_path, tracing={"rate": 1000}, allow=["settings"]) as running:
        running.server.tracing.close()
        tracing = Tracing(TracingSettings(rate=1000), exporter)
        running.on_loop(lambda: running.server.trace_with(tracing))
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}
        answer = running.http.post("/v2/models/echo/infer", json=body, headers=headers)
        assert answer.headers["traceparent"].split("-")[1] == trace
        assert "traceparent" not in running.infer("echo", ROW).headers
        assert running.http.get("/v2/trace/setting").json()["trace_rate"] == "1000"
        running.http.post("/v2/trace/setting", json={"trace_level": ["OFF"]})
        assert "traceparent" not in running.http.post("/v2/models/echo/infer", json=body, headers=headers).headers
        assert running.http.post("/v2/trace/setting", json={"trace_rate": "0"}).status_code == 400
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"infer echo", "queue", "execute"}
    assert f"{spans['infer echo'].context.trace_id:032x}" == trace
    assert spans["execute"].parent.span_id == spans["infer echo"].context.span_id
    assert spans["infer echo"].start_time <= spans["execute"].start_time <= spans["execute"].end_time


def spans_of(exporter: Any, tracing: Tracing) -> list[Any]:
    """The spans of requests since they were last looked at."""
    tracing._provider.force_flush()
    found = [span for span in exporter.get_finished_spans() if span.name.startswith("infer ")]
    exporter.clear()
    return found


@pytest.mark.parametrize("carrier", ["native", "grpcio"])
def test_every_road_is_traced_and_names_its_span(coded_models: Path, tmp_path: Path, carrier: str) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    for file in coded_models.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_models(tmp_path, {"echo": "", "many": {"puppet": {"chunks": 3}}})
    exporter = InMemorySpanExporter()
    context = f"00-{TRACE}-{SPAN}-01"
    with serving(tmp_path, tracing={"rate": 1 << 30}, grpc={"port": 0, "carrier": carrier}) as running:
        tracing = Tracing(TracingSettings(rate=1 << 30), exporter)
        running.on_loop(lambda: running.server.trace_with(tracing))
        for path, content, status in (
            ("/v2/models/echo/generate", b'{"x": [1, 1, 1, 1]}', 200),
            ("/v2/models/many/generate_stream", b'{"x": [1, 1, 1, 1]}', 200),
            ("/v2/models/embed/predict", b"hello world", 200),
            ("/v2/models/color/predict", b"no picture", 400),
            ("/v1/embeddings", b'{"model": "embed", "input": "hello"}', 200),
        ):
            answer = running.http.post(path, content=content, headers={"traceparent": context})
            assert (path, answer.status_code) == (path, status)
            [span] = spans_of(exporter, tracing)
            assert f"{span.context.trace_id:032x}" == TRACE
            assert answer.headers["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
            assert span.status.is_ok == (status == 200)
            assert "traceparent" not in running.http.post(path, content=content).headers
        channel = grpc.insecure_channel(running.grpc)
        call = channel.unary_unary(
            f"/{schema.SERVICE}/ModelInfer", schema.ModelInferRequest.SerializeToString,
            schema.ModelInferResponse.FromString,
        )  # fmt: skip
        request = schema.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(16)])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        _, seen = call.with_call(request, metadata=[("traceparent", context)])
        [span] = spans_of(exporter, tracing)
        assert dict(seen.initial_metadata())["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
        _, seen = call.with_call(request)
        assert "traceparent" not in dict(seen.initial_metadata())
        stream = channel.stream_stream(
            f"/{schema.SERVICE}/ModelStreamInfer", schema.ModelInferRequest.SerializeToString,
            schema.ModelStreamInferResponse.FromString,
        )  # fmt: skip
        assert len(list(stream(iter([request, request]), metadata=[("traceparent", context)]))) == 2
        assert {f"{span.context.trace_id:032x}" for span in spans_of(exporter, tracing)} == {TRACE}
        channel.close()


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("parent", "traced"),
    [
        (f"00-{TRACE}-{SPAN}-01", True), (f"00-{TRACE}-{SPAN}-03", True), (f"cc-{TRACE}-{SPAN}-01-more", True),
        (f"00-{TRACE}-{SPAN}-00", False), (f"00-{TRACE}-{SPAN}-02", False), (f"cc-{TRACE}-{SPAN}-00-x-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False), (f"ff-{TRACE}-{SPAN}-01", False), ("x-01", False), ("", False),
    ],
)  # fmt: skip
def test_callers_say_which_requests_are_traced(parent: str, traced: bool) -> None:
    tracing = Tracing(TracingSettings(rate=1 << 30), Nowhere())
    try:
        headers = [(b"traceparent", parent.encode())] if parent else []
        assert (tracing.begin(headers, "echo") is not None) is traced
    finally:
        tracing.close()


class Nowhere:
    """Takes spans, and does nothing with them."""

    def export(self, spans: Any) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def test_an_error_is_part_of_the_trace(tmp_path: Path) -> None:
    write_models(tmp_path, {"slow": {"serving": {"timeout": "1ms"}}})
    with serving(tmp_path, tracing={"rate": 1}) as running:
        tracing = Tracing(TracingSettings(rate=1), Nowhere())
        running.on_loop(lambda: running.server.trace_with(tracing))
        answers = [running.infer("slow", ROW) for _ in range(3)]
        assert all("traceparent" in answer.headers for answer in answers)


def test_what_may_be_secret_in_a_collectors_url_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    tracing = Tracing(TracingSettings(endpoint="http://me:pass@127.0.0.1:9/v1/traces?token=SECRET"))
    logger = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    logger.warning("%s with url: %s", "me:pass@127.0.0.1", "/v1/traces?token=SECRET")
    tracing.close()
    assert "with url: /v1/traces?..." in caplog.text
    assert not any(secret in caplog.text for secret in ("SECRET", "pass@"))


def test_the_end_does_not_wait_for_a_collector_that_does_not_answer(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        with serving(tmp_path, tracing={"rate": 1, "endpoint": endpoint}) as running:
            assert "traceparent" in running.infer("echo", ROW).headers
        # `serving` asserts that the server ended; a collector is given ten seconds by its library.
        silent.settimeout(0)
