"""Everything over HTTP but inference: health, metadata, the repository, statistics, and what builds on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from deepseek.plugin import DeepSeekError, InputError
from deepseek_serving.asking import Trace, ask, plain, predict, stream
from deepseek_serving.errors import NotReadyError, advice, http_status, text
from deepseek_serving.http import generate, openapi, spans
from deepseek_serving.http.administration import Administration, Page, object_of
from deepseek_serving.http.dashboard import Dashboard
from deepseek_serving.http.json import Json
from deepseek_serving.http.openai import OpenAI
from deepseek_serving.metrics import Metrics
from deepseek_serving.oip import metadata
from deepseek_serving.oip.requests import Question
from deepseek_serving.served import Served

if TYPE_CHECKING:
    from deepseek_serving.server import Server


class Pages:
    """The protocol's calls beside inference.

    Args:
        server: whose models they tell of.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def routes(self) -> list[Route]:
        """All of them; health is for everybody, the rest for those who have a key where keys are needed."""
        return [
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/openapi.json", self.openapi),
            *(Route(path, self._known(verbs), methods=list(verbs)) for path, verbs in self._pages().items()),
        ]

    def _pages(self) -> dict[str, dict[str, Page]]:
        """Path -> verb -> page: one route for each path, which knows what it allows."""
        pages: dict[str, dict[str, Page]] = {}
        for verb, path, page in (*self._table(), *Administration(self._server).table()):
            pages.setdefault(path, {})[verb] = page
        return pages

    def _table(self) -> list[tuple[str, str, Page]]:
        model = "/v2/models/{name}"
        rows: list[tuple[str, str, Page]] = [
            ("GET", "/v2", self.about),
            ("GET", "/v2/models/stats", self.statistics),
            ("GET", "/metrics", self.metrics),
            ("GET", "/usage", self.usage),
            ("GET", "/state", self.state),
        ]
        for prefix in (model, model + "/versions/{version}"):
            rows += [
                ("GET", prefix, self.model),
                ("GET", prefix + "/ready", self.model_ready),
                ("GET", prefix + "/config", self.config),
                ("GET", prefix + "/stats", self.statistics),
                ("POST", prefix + "/generate", self.generate),
                ("POST", prefix + "/generate_stream", self.generate_stream),
                ("POST", prefix + "/predict", self.predict),
            ]
            # Inference itself has a road of its own; here it is known for the sake of other verbs.
            rows.append(("POST", prefix + "/infer", self.infer))
        return rows

    def _known(self, verbs: dict[str, Page]) -> Page:
        """The pages of a path for callers who have a key, where keys are needed."""

        async def answer(request: Request) -> Response:
            request.state.caller = self._server.gatekeeper.caller(request.scope["headers"])
            page = verbs["GET" if request.method == "HEAD" else request.method]
            return spans.named(request, await page(request))

        return answer

    async def live(self, request: Request) -> Response:
        """Whether the process works."""
        return Json({"live": self._server.live}, 200 if self._server.live else 400)

    async def ready(self, request: Request) -> Response:
        """Whether every model takes requests."""
        return Json({"ready": self._server.ready}, 200 if self._server.ready else 400)

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document."""
        return Json(openapi.document())

    async def about(self, request: Request) -> Response:
        """Name, version and extensions."""
        return Json(metadata.server())

    async def model(self, request: Request) -> Response:
        """A model's inputs and outputs."""
        served = self._find(request)
        return Json(metadata.model(served, self._server.repository.versions(served.name)))

    async def model_ready(self, request: Request) -> Response:
        """Whether a model takes requests; where a version is named that does not, the status is 503."""
        try:
            ready = self._find(request).state == "READY" and self._server.live
        except NotReadyError:
            ready = False
        status = 200 if ready else 503 if "version" in request.path_params else 400
        return Json({"name": request.path_params["name"], "ready": ready}, status)

    async def infer(self, request: Request) -> Response:
        """Inference in a way of writing that its road does not know."""
        raise InputError("write the path of inference as it is, without %-signs for letters")

    async def config(self, request: Request) -> Response:
        """A model's configuration."""
        return Json(metadata.config(self._find(request)))

    async def statistics(self, request: Request) -> Response:
        """What was counted of one version, of a model, or of all."""
        names = request.path_params
        return Json(await self._server.admin.statistics(names.get("name", ""), names.get("version", "")))

    async def generate(self, request: Request) -> Response:
        """Plain JSON in and out."""
        served, question = await self._generate(request)
        return Json(await ask(served, question, self._trace(request), partial(generate.answer, served, question)))

    async def generate_stream(self, request: Request) -> Response:
        """Plain JSON in, server-sent events out."""
        served, question = await self._generate(request)
        chunks = stream(served, question, self._trace(request))
        # What is refused at once is an error of HTTP, not an event.
        first = await anext(chunks, None)

        async def all_of_them() -> AsyncIterator[Any]:
            if first is not None:
                yield first
            async for chunk in chunks:
                yield chunk

        events = generate.events(served, question, all_of_them())
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def predict(self, request: Request) -> Response:
        """A picture or a text as the body; the answer in a reader's terms."""
        served, options = self._find(request), self._server.options(request)
        body = await request.body()
        if not body:
            raise InputError("the body is empty", hint="send a picture or a text")
        rows = await predict(served, body, Question({}, options=options), self._trace(request))
        return Json({"model_name": served.name, "model_version": served.version, "rows": plain(rows)})

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        caller = request.state.caller
        metrics = Metrics(await self._server.report(), None if caller.admin else caller.tenant)
        content, kind = metrics.render(request.headers.get("accept", ""))
        return Response(content, media_type=kind)

    async def usage(self, request: Request) -> Response:
        """What tenants used: all of them for administrators, one's own for others."""
        caller = request.state.caller
        return Json(await self._server.admin.usage(None if caller.admin else caller.tenant))

    async def state(self, request: Request) -> Response:
        """Everything that the dashboard shows."""
        return Json(await self._server.admin.state())

    async def _generate(self, request: Request) -> tuple[Served, Question]:
        served, options = self._find(request), self._server.options(request)
        body = await object_of(request)
        return served, generate.question(served, body, options.tenant, options.deadline)

    def _trace(self, request: Request) -> Trace | None:
        return spans.trace(self._server, request)

    def _find(self, request: Request) -> Served:
        return self._server.repository.find(request.path_params["name"], request.path_params.get("version", ""))


async def _refuse(request: Request, exc: Exception) -> Response:
    if isinstance(exc, HTTPException):
        message = f"{request.method} {request.url.path}: {exc.detail}"
        return Json({"error": message}, exc.status_code, dict(exc.headers or {}))
    status = http_status(exc)
    return spans.named(request, Json({"error": text(exc)}, status, advice(exc, status)))


def application(server: Server) -> Starlette:
    """The ASGI application of a server."""
    handlers: dict[Any, Any] = {HTTPException: _refuse, DeepSeekError: _refuse, Exception: _refuse}
    routes = [*Pages(server).routes(), *OpenAI(server).routes(), *Dashboard().routes()]
    app = Starlette(routes=routes, exception_handlers=handlers)
    # A path with a slash too many is no other path.
    app.router.redirect_slashes = False
    return app
