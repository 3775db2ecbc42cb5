"""The calls of the service beside inference, whatever carries them: a request's message in, a response's out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from deepseek_serving.errors import NotReadyError, UnsupportedError
from deepseek_serving.grpc import schema
from deepseek_serving.oip import metadata

if TYPE_CHECKING:
    from deepseek_serving.server import Server

#: A call's handler: request and the tenant's key holder to a response.
Handler = Callable[[Any, Any], Any]


class Calls:
    """Handlers of the service's calls, by their names.

    Args:
        server: whose models they tell of.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def ServerLive(self, request: Any, caller: Any) -> Any:  # noqa: N802 -- the protocol's names
        return {"live": self._server.live}

    def ServerReady(self, request: Any, caller: Any) -> Any:  # noqa: N802
        return {"ready": self._server.ready}

    def ModelReady(self, request: Any, caller: Any) -> Any:  # noqa: N802
        try:
            return {"ready": self._server.live and self._find(request).state == "READY"}
        except NotReadyError:
            return {"ready": False}

    def ServerMetadata(self, request: Any, caller: Any) -> Any:  # noqa: N802
        return metadata.server()

    def ModelMetadata(self, request: Any, caller: Any) -> Any:  # noqa: N802
        served = self._find(request)
        return metadata.model(served, self._server.repository.versions(served.name))

    def ModelConfig(self, request: Any, caller: Any) -> Any:  # noqa: N802
        return {"config": metadata.config(self._find(request))}

    async def ModelStatistics(self, request: Any, caller: Any) -> Any:  # noqa: N802
        return await self._server.admin.statistics(request.name, request.version)

    def RepositoryIndex(self, request: Any, caller: Any) -> Any:  # noqa: N802
        return {"models": self._server.admin.index(ready=request.ready)}

    async def RepositoryModelLoad(self, request: Any, caller: Any) -> Any:  # noqa: N802
        self._server.admin.allow("load", caller)
        if request.parameters:
            raise UnsupportedError("loading with a configuration or files of the request's own is not supported")
        await self._server.everywhere("load", name=request.model_name)
        return {}

    async def RepositoryModelUnload(self, request: Any, caller: Any) -> Any:  # noqa: N802
        self._server.admin.allow("load", caller)
        await self._server.everywhere("unload", name=request.model_name)
        return {}

    def SystemSharedMemoryStatus(self, request: Any, caller: Any) -> Any:  # noqa: N802
        rows = self._server.admin.memory(caller).status(caller.tenant, request.name)
        return {"regions": {row["name"]: row for row in rows}}

    async def SystemSharedMemoryRegister(self, request: Any, caller: Any) -> Any:  # noqa: N802
        self._server.admin.allow("shared_memory", caller)
        region = {"key": request.key, "offset": request.offset, "size": request.byte_size}
        await self._server.everywhere("register", tenant=caller.tenant, name=request.name, **region)
        return {}

    async def SystemSharedMemoryUnregister(self, request: Any, caller: Any) -> Any:  # noqa: N802
        self._server.admin.allow("shared_memory", caller)
        await self._server.everywhere("unregister", tenant=caller.tenant, name=request.name)
        return {}

    async def LogSettings(self, request: Any, caller: Any) -> Any:  # noqa: N802
        given = {
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for name, value in request.settings.items()
        }
        settings = await self._server.admin.log_settings(given, caller)
        return {"settings": {name: {_log_field(value): value} for name, value in settings.items()}}

    async def TraceSetting(self, request: Any, caller: Any) -> Any:  # noqa: N802
        if request.model_name:
            self._server.repository.find(request.model_name)
        given = {name: list(value.value) for name, value in request.settings.items()}
        settings = await self._server.admin.trace_settings(given, caller)
        return {"settings": {name: {"value": values} for name, values in settings.items()}}

    def _find(self, request: Any) -> Any:
        return self._server.repository.find(request.name, request.version)


def _log_field(value: object) -> str:
    if isinstance(value, bool):
        return "bool_param"
    return "uint32_param" if isinstance(value, int) else "string_param"


def table(calls: Calls) -> dict[str, tuple[Any, Handler, Any]]:
    """Call name -> the class of its request, its handler, and the class of its response."""
    return {
        name: (request, getattr(calls, name), response)
        for name, (request, response) in schema.methods().items()
        if hasattr(calls, name)
    }


def response_of(kind: Any, answer: Any) -> Any:
    """A plain answer as a message."""
    return json_format.ParseDict(answer, kind())
