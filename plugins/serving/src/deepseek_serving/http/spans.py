"""Spans of the pages beside the infer road: their answers name them in the header ``traceparent``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from deepseek_serving.asking import Trace

if TYPE_CHECKING:
    from deepseek_serving.server import Server


def trace(server: Server, request: Request) -> Trace | None:
    """What has a page's request traced; None: nothing is."""

    def tell(span: bytes) -> None:
        request.state.span = span.decode()

    return server.trace(request.scope["headers"], tell)


def named(request: Request, response: Response) -> Response:
    """The answer, which names the span of its request, if there is one."""
    span = getattr(request.state, "span", "")
    if span:
        response.headers["traceparent"] = span
    return response
