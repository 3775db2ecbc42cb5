"""Traces of requests, for OpenTelemetry. Off, it is nowhere on the road of a request.

Source: W3C Trace Context; OpenTelemetry semantic conventions for span names and attributes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from deepseek.plugin import MissingLibraryError
from deepseek_serving.settings import TracingSettings

if TYPE_CHECKING:
    from deepseek_serving.calls import Call

#: The header ``traceparent`` of the version that there is, and of those that may come; and the bit of its flags.
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})(-.*)?")
_SAMPLED = 1
#: Takes a header ``traceparent``.
Tell = Callable[[bytes], None]
_INSTALL = "pip install 'deepseek-serving[tracing]'"


class Tracing:
    """Makes a span for a request, with one below it for each thing that took time.

    Args:
        settings: where spans go, and of how many requests.
        exporter: takes the spans instead, in tests.

    Raises:
        MissingLibraryError: OpenTelemetry is not installed.
    """

    def __init__(self, settings: TracingSettings, exporter: Any = None) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as exc:
            raise MissingLibraryError("traces need OpenTelemetry, which is not installed", hint=_INSTALL) from exc
        self.on = True
        self.rate = settings.rate
        self._taken = 0
        # At the end of the process nothing is waited for but what `close` is given.
        self._provider = TracerProvider(
            shutdown_on_exit=False, resource=Resource.create({"service.name": settings.service})
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _exporter(settings.endpoint)))
        self._tracer = self._provider.get_tracer("deepseek.serving")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Iterable[tuple[bytes, bytes]], model: str) -> Any:
        """The span of a request that has come; None where it is not to be traced.

        A request that belongs to a trace which its caller records is always recorded, of others one in `rate`.
        """
        if not self.on:
            return None
        carrier = {
            name.decode(): value.decode("latin-1") for name, value in headers if name in (b"traceparent", b"tracestate")
        }
        caller = _PARENT.fullmatch(carrier.get("traceparent", ""))
        if caller is None or not int(caller["flags"], 16) & _SAMPLED:
            self._taken += 1
            if caller is not None or self._taken % self.rate:
                return None
        context = self._propagator.extract(carrier)
        return self._tracer.start_span(f"infer {model}", context, attributes={"deepseek.model": model})

    def trace(self, headers: Iterable[tuple[bytes, bytes]], tell: Tell | None) -> Callable[[Call], None]:
        """What has the request traced whose headers these are.

        Args:
            headers: of the request.
            tell: takes the header ``traceparent`` that names the span, for the answer.
        """

        def trace(call: Call) -> None:
            call.trace(self, headers)
            if tell is not None and call.span is not None:
                tell(self.parent(call.span))

        return trace

    def parent(self, span: Any) -> bytes:
        """The header ``traceparent`` that names a span."""
        carrier: dict[str, str] = {}
        from opentelemetry.trace import set_span_in_context

        self._propagator.inject(carrier, set_span_in_context(span))
        return carrier["traceparent"].encode()

    def end(self, call: Call) -> None:
        """The request has its answer."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.status import Status, StatusCode

        span, offset = call.span, time.time() - time.monotonic()

        def at(moment: float) -> int:
            return int((moment + offset) * 1e9)

        if call.error is not None:
            span.set_status(Status(StatusCode.ERROR, type(call.error).__name__))
        else:
            below = set_span_in_context(span)
            for name, start, end in (("queue", call.queued, call.started), ("execute", call.started, call.ended)):
                self._tracer.start_span(name, below, start_time=at(start)).end(at(end))
        span.set_attribute("deepseek.version", call.model.version)
        span.end()

    def close(self) -> None:
        """Send what is held back."""
        self._provider.shutdown()


def _exporter(endpoint: str) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as exc:
        raise MissingLibraryError("the exporter of OpenTelemetry is not installed", hint=_INSTALL) from exc
    hidden = [part for part in (urlsplit(endpoint).query, urlsplit(endpoint).password) if part]
    logging.getLogger(OTLPSpanExporter.__module__).addFilter(partial(_hide, hidden))
    return OTLPSpanExporter(endpoint=endpoint)


def _hide(secrets: Sequence[str], record: logging.LogRecord) -> bool:
    """Take what may be secret in the endpoint's URL out of what the exporter logs of it."""
    message = record.getMessage()
    for secret in secrets:
        message = message.replace(secret, "...")
    record.msg, record.args = message, ()
    return True
