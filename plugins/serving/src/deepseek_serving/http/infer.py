"""The short road: an inference request over HTTP, from its bytes to a call and from the answer to bytes."""

from __future__ import annotations

import asyncio
import re
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from deepseek.plugin import DeepSeekError, InputError
from deepseek_serving.calls import Call
from deepseek_serving.errors import GoneError, http_status, retry_after, text
from deepseek_serving.gatekeeper import Gatekeeper
from deepseek_serving.http.message import Headers, Message, packed, unpacked
from deepseek_serving.oip import answers, requests
from deepseek_serving.oip.requests import Region
from deepseek_serving.repository import Repository

if TYPE_CHECKING:
    from deepseek_serving.http.connection import Connection
    from deepseek_serving.tracing import Tracing

_INFER = re.compile(rb"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer(?:\?.*)?")
_JSON, _BINARY = b"application/json", b"application/octet-stream"
_LENGTH = b"inference-header-content-length"
#: Answers that are smaller are not worth compressing, in bytes.
_PACK = 1024
_CACHE = 4096

#: A model's name and version as a URL has them.
Target = tuple[str, str]


class InferRoad:
    """Answers ``POST /v2/models/M[/versions/V]/infer``.

    Args:
        repository: the models.
        gatekeeper: who may ask.
        limit: bytes of a body, unpacked.
        compress: whether answers may be compressed.
        region: gives bytes of shared memory; None: not allowed.
        tracing: makes spans; None: nothing is traced.
    """

    def __init__(
        self, repository: Repository, gatekeeper: Gatekeeper, limit: int, *, compress: bool,
        region: Region | None = None, tracing: Tracing | None = None,
    ) -> None:  # fmt: skip
        self._repository = repository
        self._gatekeeper = gatekeeper
        self._limit = limit
        self._compress = compress
        self._region = region
        self.tracing = tracing
        self._targets: dict[bytes, Target] = {}
        self._loop = asyncio.get_running_loop()

    def target(self, url: bytes) -> Target | None:
        """The model that a URL asks; None: it is no inference."""
        target = self._targets.get(url)
        if target is None:
            match = _INFER.fullmatch(url)
            if match is None:
                return None
            target = (unquote(match[1].decode("latin-1")), unquote((match[2] or b"").decode("latin-1")))
            if len(self._targets) < _CACHE:
                self._targets[url] = target
        return target

    def ask(self, connection: Connection, message: Message, target: Target) -> None:
        """Take a request; it is answered when the model has."""
        try:
            call = HttpCall(self, connection, message, target)
            if self.tracing is not None:
                call.trace(self.tracing, message.headers)
            call.model.submit(call, self._loop)
        except DeepSeekError as error:
            respond_error(connection, error)
            return
        connection.abandon = call.cancel

    def question(self, message: Message, target: Target) -> tuple[Any, requests.Question]:
        """The model that is asked, and what. Raises DeepSeekError."""
        length = encoding = None
        tenant, deadline = "", None
        for name, value in message.headers:
            if name == _LENGTH:
                length = value
            elif name == b"content-encoding":
                encoding = value
            elif name == b"x-request-timeout":
                deadline = monotonic() + _seconds(value)
        if self._gatekeeper.closed:
            tenant = self._gatekeeper.admit(message.headers)
        model = self._repository.find(*target)
        body = message.body
        if encoding is not None and encoding.lower() != b"identity":
            body = unpacked(body, encoding, self._limit)
        if deadline is None and model.settings.timeout:
            deadline = message.arrived + model.settings.timeout
        raw = body if type(body) is memoryview else memoryview(body)
        if length == b"0":
            return model, requests.parse_raw(raw, model.signature, keep=message.own, tenant=tenant, deadline=deadline)
        header = None if length is None else _number(length)
        return model, requests.parse(
            raw, header, keep=message.own, tenant=tenant, region=self._region, deadline=deadline
        )

    def answer(self, call: HttpCall) -> None:
        """Write what came of a call."""
        connection, error = call.connection, call.error
        if error is not None:
            if not isinstance(error, GoneError):
                respond_error(connection, error)
            return
        model, question = call.model, call.question
        try:
            top, parts = answers.render(
                model.name, model.version, question, call.outputs or {}, model.labels, self._region
            )
        except DeepSeekError as exc:
            respond_error(connection, exc)
            return
        more: Headers = []
        if call.tracing is not None:
            more.append((b"traceparent", call.tracing.parent(call.span)))
        kind, content = _JSON, [top, *parts]
        if parts:
            kind = _BINARY
            more.append((_LENGTH, b"%d" % len(top)))
        if self._compress and sum(map(len, content)) >= _PACK:
            accepted = call.message.header(b"accept-encoding")
            small = packed(content, accepted) if accepted else None
            if small:
                content = [small[0]]
                more.append((b"content-encoding", small[1]))
        connection.respond(200, kind, content, more)


class HttpCall(Call):
    """A call that came over HTTP."""

    __slots__ = ("connection", "message")

    def __init__(self, road: InferRoad, connection: Connection, message: Message, target: Target) -> None:
        model, question = road.question(message, target)
        super().__init__(model, question, road.answer, message.arrived)
        self.connection = connection
        self.message = message


def respond_error(connection: Connection, error: BaseException) -> None:
    """Answer with an error as the protocol has it."""
    status = http_status(error)
    more: Headers = [(name.encode(), value.encode()) for name, value in retry_after(error, status).items()]
    if status == 401:
        more.append((b"www-authenticate", b"Bearer"))
    connection.respond(status, _JSON, [msgspec.json.encode({"error": text(error)})], more)


def _number(value: bytes) -> int:
    if not value.isdigit() or len(value) > 12:
        raise InputError(f"Inference-Header-Content-Length is a number of bytes (got {value[:40]!r})")
    return int(value)


def _seconds(value: bytes) -> float:
    try:
        seconds = float(value)
        if not 0 < seconds < 1e6:
            raise ValueError(value)
    except ValueError as exc:
        raise InputError(f"X-Request-Timeout is a number of seconds (got {value[:40]!r})") from exc
    return seconds
