"""Administrative calls over HTTP: the repository, logs and traces, shared memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from deepseek.plugin import InputError
from deepseek_serving.errors import UnsupportedError
from deepseek_serving.http.json import Json, decoded

if TYPE_CHECKING:
    from deepseek_serving.server import Server

Page = Callable[[Request], Awaitable[Response]]


class Administration:
    """Pages that change the server, where it allows that.

    Args:
        server: which.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def table(self) -> list[tuple[str, str, Page]]:
        """Verb, path and page."""
        memory = "/v2/systemsharedmemory"
        rows: list[tuple[str, str, Page]] = [
            ("POST", "/v2/repository/index", self.index),
            ("POST", "/v2/repository/models/{name}/load", self.load),
            ("POST", "/v2/repository/models/{name}/unload", self.unload),
            ("GET", "/v2/logging", self.logging),
            ("POST", "/v2/logging", self.logging),
            ("GET", memory + "/status", self.memory_status),
            ("GET", memory + "/region/{region}/status", self.memory_status),
            ("POST", memory + "/region/{region}/register", self.memory_register),
            ("POST", memory + "/unregister", self.memory_unregister),
            ("POST", memory + "/region/{region}/unregister", self.memory_unregister),
        ]
        for path in ("/v2/trace/setting", "/v2/models/{name}/trace/setting"):
            rows += [("GET", path, self.tracing), ("POST", path, self.tracing)]
        return rows

    async def index(self, request: Request) -> Response:
        """What the repository holds."""
        ready = (await object_of(request)).get("ready", False)
        if not isinstance(ready, bool):
            raise InputError("`ready` is true or false")
        return Json(self._server.admin.index(ready=ready))

    async def load(self, request: Request) -> Response:
        """Load a model, or load it anew."""
        self._server.admin.allow("load", request.state.caller)
        if (await object_of(request)).get("parameters"):
            raise UnsupportedError("loading with a configuration or files of the request's own is not supported")
        await self._server.everywhere("load", name=request.path_params["name"])
        return Json({})

    async def unload(self, request: Request) -> Response:
        """Let a model go."""
        self._server.admin.allow("load", request.state.caller)
        await object_of(request)
        await self._server.everywhere("unload", name=request.path_params["name"])
        return Json({})

    async def logging(self, request: Request) -> Response:
        """What is logged."""
        given = await object_of(request) if request.method == "POST" else {}
        return Json(await self._server.admin.log_settings(given, request.state.caller))

    async def tracing(self, request: Request) -> Response:
        """What is traced, of all models together."""
        if "name" in request.path_params:
            self._server.repository.find(request.path_params["name"])
        given = await object_of(request) if request.method == "POST" else {}
        wanted = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
        settings = await self._server.admin.trace_settings(wanted, request.state.caller)
        # One value alone is a text, as Triton's clients have it.
        return Json({name: values if name == "trace_level" else values[0] for name, values in settings.items()})

    async def memory_status(self, request: Request) -> Response:
        """The shared memory that is registered."""
        memory = self._server.admin.memory(request.state.caller)
        return Json(memory.status(request.state.caller.tenant, request.path_params.get("region", "")))

    async def memory_register(self, request: Request) -> Response:
        """Make shared memory known."""
        self._server.admin.allow("shared_memory", request.state.caller)
        wish = await object_of(request)
        key, offset, size = wish.get("key"), wish.get("offset", 0), wish.get("byte_size")
        if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
            raise InputError("`key` is a text, `offset` and `byte_size` are numbers of bytes")
        whose = {"tenant": request.state.caller.tenant, "name": request.path_params["region"]}
        await self._server.everywhere("register", **whose, key=key, offset=offset, size=size)
        return Json({})

    async def memory_unregister(self, request: Request) -> Response:
        """Forget shared memory."""
        self._server.admin.allow("shared_memory", request.state.caller)
        await object_of(request)
        whose = {"tenant": request.state.caller.tenant, "name": request.path_params.get("region", "")}
        await self._server.everywhere("unregister", **whose)
        return Json({})


async def object_of(request: Request) -> dict[str, Any]:
    """A request's JSON object; an empty body is an empty one. Raises InputError."""
    return decoded(await request.body(), dict[str, Any])
