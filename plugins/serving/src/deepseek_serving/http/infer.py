"""The short road: an inference request over HTTP, from its bytes to a call and from the answer to bytes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from deepseek.plugin import DeepSeekError, InputError, Options
from deepseek_serving.bodies import Memory, packed, unpacked
from deepseek_serving.calls import Call
from deepseek_serving.errors import GoneError, TooLargeError, advice, http_status, text
from deepseek_serving.gatekeeper import Gatekeeper
from deepseek_serving.http.message import TENSORS, Head, Headers
from deepseek_serving.oip import answers, raw, requests
from deepseek_serving.oip.requests import Question, Region
from deepseek_serving.repository import Repository
from deepseek_serving.settings import LimitSettings

if TYPE_CHECKING:
    from deepseek_serving.http.connection import Connection
    from deepseek_serving.served import Served
    from deepseek_serving.tracing import Tracing

logger = logging.getLogger("deepseek.serving")

_INFER = re.compile(rb"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer(?:\?.*)?")
_JSON, _BINARY = b"application/json", b"application/octet-stream"
#: Answers that are smaller are not worth compressing, in bytes; larger ones would hold up the loop.
_PACK, _PACKED = 1024, 128 << 10


class Ask(msgspec.Struct, frozen=True):
    """What the head of an inference request says.

    Attributes:
        name, version: the model's, as the URL has them.
        length: bytes of the JSON part; None: all of the body; 0: none of it.
        encoding: how the body is packed; None: it is not.
        timeout: seconds; 0: none.
        accepts: how the answer may be packed.
        wrong: why it can't be served.
    """

    name: str
    version: str
    length: int | None = None
    encoding: bytes | None = None
    timeout: float = 0.0
    accepts: bytes = b""
    wrong: str = ""


class InferRoad:
    """Answers ``POST /v2/models/M[/versions/V]/infer``.

    Args:
        repository: the models.
        gatekeeper: who may ask.
        limits: what a body may have.
        memory: for bodies that were packed.
        compress: whether answers may be compressed.
        region: gives what gives bytes of a tenant's shared memory.
        tracing: makes spans; None: nothing is traced.
    """

    def __init__(
        self, repository: Repository, gatekeeper: Gatekeeper, limits: LimitSettings, memory: Memory, *, compress: bool,
        region: Callable[[str], Region | None], tracing: Tracing | None = None,
    ) -> None:  # fmt: skip
        self._find = repository.find
        self.gatekeeper = gatekeeper
        self._limit, self._most = limits.body, limits.json
        self._compress = compress
        self._memory = memory
        self._region = region
        self.tracing = tracing
        self._loop = asyncio.get_running_loop()

    def look(self, head: Head) -> Ask | None:
        """What a head says; None: it is no inference."""
        target = head.target
        if not target.startswith(b"/"):
            # An absolute URL, as proxies send it.
            target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
        match = _INFER.fullmatch(target)
        if match is None:
            return None
        name, version = (unquote((part or b"").decode("latin-1")) for part in match.groups())
        given = {key: head.header(key) for key in (TENSORS, b"content-encoding", b"x-request-timeout")}
        length, encoding, timeout = given.values()
        packed_as = None if encoding is None or encoding.lower() == b"identity" else encoding
        accepts = head.header(b"accept-encoding") or b""
        try:
            return Ask(
                name, version, None if length is None else _number(length), packed_as,
                0.0 if timeout is None else seconds(timeout), accepts,
            )  # fmt: skip
        except InputError as error:
            return Ask(name, version, wrong=error.what)

    def ask(self, ask: Ask, connection: Connection, head: Head, body: bytes | memoryview, own: bool) -> None:
        """Take a request; it is answered when the model has."""
        try:
            tenant = self.gatekeeper.admit(head.headers) if self.gatekeeper.closed else ""
            if ask.wrong:
                # Made anew each time: an error that is kept keeps what it passed through, bodies and all.
                raise InputError(ask.wrong)
            model = self._find(ask.name, ask.version)
            try:
                question = self._question(model, ask, connection.arrived, body, own, tenant)
            except DeepSeekError as error:
                raise model.refused(error) from None
            outputs = model.execute(question, connection.arrived) if self.tracing is None else None
            if outputs is not None:
                try:
                    self._write(connection, model, question, outputs, ask.accepts, [])
                except Exception as error:
                    raise model.spoiled(error) from None
                return
            call = HttpCall(self, connection, ask, model, question)
            if self.tracing is not None:
                call.trace(self.tracing, head.headers)
            model.submit(call, self._loop)
        except Exception as error:
            respond_error(connection, error)
            return
        connection.abandon = call.cancel

    def _question(
        self, model: Served, ask: Ask, arrived: float, body: bytes | memoryview, own: bool, tenant: str
    ) -> Question:
        """What the model is asked. Raises DeepSeekError."""
        if ask.encoding is not None:
            content = unpacked(body, ask.encoding, self._limit)
            body = self._memory.keep(content, ask.length or 0)
            own = body is not content
        if (len(body) if ask.length is None else ask.length) > self._most:
            raise TooLargeError(f"the JSON is larger than {self._most}", hint="send binary tensors")
        timeout = ask.timeout or model.settings.timeout
        deadline = arrived + timeout if timeout else None
        if ask.length is None:
            question = model.quick_question(body)
            if question is not None:
                if deadline is not None or tenant:
                    question.options = Options(deadline, 0, tenant)
                return question
        elif ask.length == 0:
            return raw.parse_raw(memoryview(body), model.signature, keep=own, tenant=tenant, deadline=deadline)
        else:
            question = model.recipes.read(body, ask.length, keep=own, tenant=tenant, deadline=deadline)
            if question is not None:
                return question
        question = requests.parse(
            memoryview(body), ask.length, keep=own, tenant=tenant, region=self._region(tenant), deadline=deadline
        )
        if ask.length is not None:
            model.recipes.learn(body, ask.length, question)
        return question

    def answer(self, call: HttpCall) -> None:
        """Write what came of a call."""
        connection, error = call.connection, call.error
        more: Headers = []
        if call.tracing is not None:
            more.append((b"traceparent", call.tracing.parent(call.span)))
        if error is not None:
            if not isinstance(error, GoneError):
                respond_error(connection, error, more)
            return
        try:
            self._write(connection, call.model, call.question, call.outputs or {}, call.accepts, more)
        except Exception as exc:
            call.error = exc
            respond_error(connection, exc, more[:1])

    def _write(
        self, connection: Connection, model: Served, question: Question, outputs: Mapping[str, Any], accepts: bytes,
        more: Headers,
    ) -> None:  # fmt: skip
        """Write an answer. Raises InputError for what can't travel as asked."""
        frame = model.frame
        top, parts = frame.answer(question, outputs) or answers.render(
            frame, question, outputs, model.labels, self._region
        )
        kind, content = _JSON, [top, *parts]
        if parts:
            kind = _BINARY
            more.append((TENSORS, b"%d" % len(top)))
        elif self._compress and accepts and _PACK <= len(top) <= _PACKED:
            small = packed(content, accepts)
            if small:
                content = [small[0]]
                more.append((b"content-encoding", small[1]))
        connection.respond(200, kind, content, more)


class HttpCall(Call):
    """A call that came over HTTP."""

    __slots__ = ("accepts", "connection")

    def __init__(self, road: InferRoad, connection: Connection, ask: Ask, model: Served, question: Question) -> None:
        super().__init__(model, question, road.answer, connection.arrived)
        self.connection = connection
        self.accepts = ask.accepts


def respond_error(connection: Connection, error: BaseException, more: Headers | tuple[()] = ()) -> None:
    """Answer with an error as the protocol has it; what nobody foresaw is logged, and must not cost others theirs."""
    if not isinstance(error, DeepSeekError):
        logger.error("an inference request failed", exc_info=error)
    status = http_status(error)
    headers = [*more, *((name.encode(), value.encode()) for name, value in advice(error, status).items())]
    connection.respond(status, _JSON, [msgspec.json.encode({"error": text(error)})], headers)


def _number(value: bytes) -> int:
    if not value.isdigit() or len(value) > 12:
        raise InputError(f"Inference-Header-Content-Length is a number of bytes (got {value[:40]!r})")
    return int(value)


def seconds(value: bytes) -> float:
    """The header X-Request-Timeout. Raises InputError."""
    try:
        found = float(value)
        if not 0 < found < 1e6:
            raise ValueError(value)
    except ValueError as exc:
        got = value[:40].decode("latin-1")
        raise InputError(f"X-Request-Timeout is a number of seconds (got `{got}`)") from exc
    return found
