"""One request on its way through a model: what the scheduler's thread tells, and what the loop makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from deepseek.plugin import DeadlineError
from deepseek_serving.errors import GoneError, UnsupportedError, cause
from deepseek_serving.oip.requests import Question

if TYPE_CHECKING:
    from deepseek_serving.served import Served
    from deepseek_serving.tracing import Tracing


class Call:
    """Implements `deepseek.plugin.Sink` for a request whose answer is one chunk.

    Args:
        model: who is asked.
        question: what.
        done: called once, on the loop, with the call; then `outputs` or `error` is there.
        arrived: when the request was complete, in `time.monotonic()` seconds.

    Attributes:
        outputs: the answer.
        error: what befell it instead.
    """

    __slots__ = (
        "_begun",
        "_done",
        "_handover",
        "_held",
        "_open",
        "_timer",
        "arrived",
        "ended",
        "error",
        "model",
        "outputs",
        "question",
        "queued",
        "span",
        "started",
        "tracing",
        "traffic",
    )  # fmt: skip

    def __init__(self, model: Served, question: Question, done: Callable[[Any], None], arrived: float) -> None:
        self.model = model
        self.question = question
        self.traffic = model.traffic
        self.outputs: Mapping[str, Any] | None = None
        self.error: BaseException | None = None
        self.arrived = arrived
        self.queued = self.started = self.ended = monotonic()
        self._handover = model.handover
        self._done = done
        #: The span of a request that is traced, and who made it.
        self.span: Any = None
        self.tracing: Tracing | None = None
        self._open = True
        #: Whether the scheduler has it, and has begun to execute it.
        self._held = self._begun = False
        self._timer: asyncio.TimerHandle | None = None

    def send(self) -> None:
        """Give it to the scheduler. On the loop, as everything here but `start`, `put` and `fail`."""
        if not self._open:
            return
        self.traffic = traffic = self.model.traffic
        traffic.sent += 1
        self._held = True
        try:
            self.model.send(self)
        except BaseException as exc:
            self._held = False
            traffic.sent -= 1
            self.settle(exc)
            if not isinstance(exc, Exception):
                raise

    def watch(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Answer at the deadline at the latest, wherever the request is then."""
        self._timer = loop.call_later(max(0.0, deadline - monotonic()), self._late)

    def start(self) -> bool:
        """See `deepseek.plugin.Sink.start`."""
        self.started = self.traffic.progress = monotonic()
        # In this order, and `settle` in the other: one of the two sees the other, without a lock.
        self._begun = True
        if not self._open:
            self._back()
            self._handover.skipped()
        return self._open

    def put(self, chunk: Mapping[str, Any], *, last: bool) -> bool:
        """See `deepseek.plugin.Sink.put`."""
        self.ended = self.traffic.progress = monotonic()
        if last:
            self.traffic.ran(self.ended - self.started)
        more = self._open and not last
        if not more:
            # Also where nobody waits any more: a scheduler that is told so stops, and says no more.
            self._back()
        self._handover.post((self, chunk, last))
        return more

    def fail(self, error: BaseException) -> None:
        """See `deepseek.plugin.Sink.fail`."""
        self.ended = self.traffic.progress = monotonic()
        self._back()
        self._handover.post((self, error, True))

    def deliver(self, part: Mapping[str, Any] | BaseException, last: bool) -> None:
        """A part of the answer has reached the loop."""
        if isinstance(part, BaseException):
            self.settle(part)
        elif last:
            self.outputs = part
            self.settle(None)
        else:
            hint = "ask over generate_stream or ModelStreamInfer"
            self.settle(UnsupportedError("the answer comes in several parts", hint=hint))

    def cancel(self) -> None:
        """The client has gone: nobody waits for the answer."""
        self.settle(GoneError("the client went away"))

    def settle(self, error: BaseException | None) -> None:
        """End the call, once, and tell who waits."""
        if not self._open:
            return
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        self.error = error
        self.model.settled(self)
        if self._held and not self._begun:
            # The scheduler keeps the request until its turn, which may never come: not its tensors' memory.
            self.question.inputs.clear()
        # Which tells, in `error`, if the answer can't be sent as it is wanted.
        self._done(self)
        self.conclude()

    def conclude(self) -> None:
        """Count it: the answer, or the error, is with the client."""
        error = self.error
        if error is None:
            self.model.statistics.succeeded((self.arrived, self.queued, self.started, self.ended, monotonic()))
        else:
            self.model.statistics.failed(cause(error), monotonic() - self.arrived)
        if self.tracing is not None:
            self.tracing.end(self)

    def trace(self, tracing: Tracing, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Let the call be traced, if it is one of those that are."""
        self.span = tracing.begin(headers, self.model.name)
        if self.span is not None:
            self.tracing = tracing

    def refused(self, error: BaseException) -> None:
        """It is not taken: all that is left of it is its span."""
        if self.tracing is not None:
            self.error = error
            self.tracing.end(self)

    def _back(self) -> None:
        """The scheduler is done with it, which counts once, whatever it says after that."""
        if self._held:
            self._held = False
            self.traffic.back += 1

    def _late(self) -> None:
        self.settle(DeadlineError("the deadline passed before there was an answer"))


class CodedCall(Call):
    """A call between an `encode` and a `decode` of the model's codec, which are a part of it."""

    __slots__ = ("_decoded",)

    def __init__(self, model: Served, question: Question, done: Callable[[Any], None], arrived: float) -> None:
        super().__init__(model, question, done, arrived)
        self._decoded = False

    def encoded(self) -> None:
        """The inputs are there: it waits for the model from now on."""
        self.queued = self.started = self.ended = monotonic()

    def decoded(self, error: BaseException | None = None) -> None:
        """The answer has been made of the outputs, or what went wrong."""
        self._decoded, self.error = True, error
        self.conclude()

    def conclude(self) -> None:
        """See `Call.conclude`."""
        if self._decoded or self.error is not None:
            super().conclude()


class StreamCall(Call):
    """A request whose answer may come in several chunks.

    Args:
        chunk: called on the loop with each chunk, before `done`.
    """

    __slots__ = ("_chunk", "last")

    def __init__(
        self,
        model: Served,
        question: Question,
        done: Callable[[Any], None],
        arrived: float,
        chunk: Callable[[Mapping[str, Any]], None],
    ) -> None:
        super().__init__(model, question, done, arrived)
        self._chunk = chunk
        #: Whether the chunk that is given is the last.
        self.last = False

    def settle(self, error: BaseException | None) -> None:
        """See `Call.settle`."""
        super().settle(error)
        # It often holds the call: what the call holds is freed now, not when garbage is collected.
        self._chunk = _nothing

    def deliver(self, part: Mapping[str, Any] | BaseException, last: bool) -> None:
        """A chunk of the answer has reached the loop."""
        self.last = last
        if not isinstance(part, BaseException) and self._open:
            self._chunk(part)
        if last:
            self.settle(part if isinstance(part, BaseException) else None)


def _nothing(chunk: Mapping[str, Any]) -> None:
    """Takes the chunks of a call that has ended."""
