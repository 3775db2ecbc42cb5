"""OpenAI's API, as far as embeddings need it: ``/v1/models`` and ``/v1/embeddings``.

Source: OpenAI API reference, "Models" and "Embeddings".
"""

from __future__ import annotations

import asyncio
import base64
import inspect
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deepseek.plugin import DeepSeekError, InputError
from deepseek_serving.asking import Trace, predict
from deepseek_serving.errors import UnknownError, advice, http_status, text
from deepseek_serving.http import spans
from deepseek_serving.http.json import Json, decoded
from deepseek_serving.oip.requests import Question
from deepseek_serving.served import Served

if TYPE_CHECKING:
    from deepseek_serving.server import Server

#: Texts of one request.
_MOST = 2048
#: Texts of one request that are with the model at once: a queue that one request fills serves nobody else.
_ABREAST = 64


class EmbeddingRequest(msgspec.Struct):
    """``POST /v1/embeddings``."""

    model: str
    #: A text, texts, the tokens of a text, or those of several.
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class OpenAI:
    """The pages under ``/v1``.

    Args:
        server: whose models they offer.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/v1/models", self._answering(self.models)),
            Route("/v1/models/{name}", self._answering(self.model)),
            Route("/v1/embeddings", self._answering(self.embeddings), methods=["POST"]),
        ]

    async def models(self, request: Request) -> Any:
        """The models that are ready."""
        served = {item.name: item for item in self._server.repository if item.state == "READY"}
        return {"object": "list", "data": [self._model(item) for item in served.values()]}

    async def model(self, request: Request) -> Any:
        """One of them."""
        return self._model(self._server.repository.find(request.path_params["name"]))

    async def embeddings(self, request: Request) -> Any:
        """A vector for each text."""
        asked = decoded(await request.body(), EmbeddingRequest)
        items = _items(asked.input)
        served = self._server.repository.find(asked.model)
        # Each text is a request of the tenant's rate.
        options = self._server.options(request, len(items))
        trace = spans.trace(self._server, request)
        answers = await _together([_embed(served, item, Question({}, options=options), trace) for item in items])
        width = len(answers[0][0])
        if asked.dimensions not in (None, width):
            raise InputError(f"the model's vectors have {width} dimensions, not {asked.dimensions}")
        tokens = sum(count for _, count in answers)
        return {
            "object": "list",
            "model": served.name,
            "data": [
                {"object": "embedding", "index": index, "embedding": _coded(vector, asked.encoding_format)}
                for index, (vector, _) in enumerate(answers)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def _model(self, served: Served) -> dict[str, Any]:
        return {"id": served.name, "object": "model", "created": int(self._server.started), "owned_by": "deepseek"}

    def _answering(self, page: Any) -> Any:
        """A page whose errors have OpenAI's shape."""

        async def answer(request: Request) -> Response:
            try:
                self._server.gatekeeper.caller(request.scope["headers"])
                return spans.named(request, Json(await page(request)))
            except DeepSeekError as error:
                return spans.named(request, _error(error))

        return answer


async def _together(work: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The results of all; when one fails, or the client goes, the others are taken back."""
    turns = asyncio.Semaphore(_ABREAST)

    async def in_turn(one: Coroutine[Any, Any, Any]) -> Any:
        async with turns:
            return await one

    tasks = [asyncio.ensure_future(in_turn(one)) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task, one in zip(tasks, work, strict=True):
            task.cancel()
            # Of those that have not had their turn nobody will wait for the end.
            one.close() if inspect.getcoroutinestate(one) == inspect.CORO_CREATED else None


def _items(given: str | Sequence[Any]) -> list[Any]:
    """The texts, or lists of tokens, of a request. Raises InputError."""
    items = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    kinds = {type(item) for item in items} | {type(part) for item in items if type(item) is list for part in item}
    if kinds not in ({str}, {list, int}) or len(items) > _MOST or not all(items):
        raise InputError(f"`input` is a text, or 1 to {_MOST} of them, none of them empty")
    return items


async def _embed(
    served: Served, item: Any, question: Question, trace: Trace | None
) -> tuple[np.ndarray[Any, Any], int]:  # fmt: skip
    """The vector of a text or of a list of tokens, and how many tokens there were."""
    # As bytes: a text could be taken for the path of a file of the server's.
    value = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item
    try:
        rows = await predict(served, value, question, trace)
    except InputError as error:
        raise InputError(f"the model `{served.name}` does not take this text: {error.what}") from error
    vector = rows[0].get("embedding")
    if vector is None:
        raise InputError(f"the model `{served.name}` gives no embeddings", hint="set `outputs.embedding` in its file")
    inputs = question.inputs
    mask = inputs.get("attention_mask")
    count = next(iter(inputs.values())).size if mask is None else int(mask.sum())
    return np.asarray(vector, np.float32), count


def _coded(vector: np.ndarray[Any, Any], form: str) -> str | list[float]:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()


def _error(error: DeepSeekError) -> Response:
    status = http_status(error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = "model_not_found" if isinstance(error, UnknownError) else None
    body = {"error": {"message": text(error), "type": kind, "param": None, "code": code}}
    return Json(body, status, advice(error, status))
