"""One version of a model as it is served: its pipeline, its state, and who asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import deepseek
from deepseek.plugin import (
    ClosedError,
    DeepSeekError,
    QueueFullError,
    Signature,
)
from deepseek_serving.calls import Call
from deepseek_serving.errors import NotReadyError, OverloadedError, cause
from deepseek_serving.handover import Handover, Traffic
from deepseek_serving.oip import quick
from deepseek_serving.oip.answers import Frame, check_wishes
from deepseek_serving.oip.recipes import Recipes
from deepseek_serving.oip.requests import Question, Wish
from deepseek_serving.opening import Opened
from deepseek_serving.quickness import OUTLIER, Quickness
from deepseek_serving.sequences import Sequences
from deepseek_serving.settings import ServingSettings
from deepseek_serving.statistics import Statistics
from deepseek_serving.threads import off_loop

#: Requests after which a quick model is executed on the loop.
_EARNED = 1000
#: Threads of a model's codec.
_HANDS = 4
#: Bytes of an input of a request that is executed on the loop.
_SMALL = 16 << 10

T = TypeVar("T")


class Served:
    """A version of a model, and the pipeline that answers for it now.

    Args:
        name, version: as clients write them.
        path: the pipeline's file.
        handover: the loop's.
        statistics: what is counted of it.

    Attributes:
        state: ``LOADING``, ``READY`` or ``UNAVAILABLE``, the protocol's words.
        reason: why it is not ready, or its new files are not what serves.
        calls: requests taken and not yet answered.
        pipeline: the one that takes requests.
        source: the model that it was made of.
    """

    def __init__(self, name: str, version: str, path: Path, handover: Handover, statistics: Statistics) -> None:
        self.name, self.version, self.path = name, version, path
        self.handover = handover
        self.statistics = statistics
        self.sequences = Sequences()
        self.traffic = Traffic()
        #: Of pipelines that are left behind, and still have calls.
        self._behind: list[Traffic] = []
        self.calls: set[Call] = set()
        self.state, self.reason = "LOADING", ""
        self.pipeline: deepseek.Pipeline | None = None
        self.source: Path | None = None
        self.signature = Signature()
        self._outputs: frozenset[str] = frozenset()
        #: Wishes that were found good: the next are likely to be the same, of the same recipe.
        self._granted: tuple[Wish, ...] = ()
        self.settings = ServingSettings()
        self.labels: Mapping[str, Sequence[str]] = {}
        self.frame = Frame(name, version)
        # What comes over one protocol is nothing to the other.
        self.recipes, self.messages = Recipes(), Recipes()
        self.quick_question: quick.Reader = lambda body: None
        self._send: Callable[..., None] | None = None
        self._run: Callable[..., Mapping[str, Any]] | None = None
        self._quickness = Quickness()
        #: Pictures and texts that are being read, and the threads that may do so.
        self.unpacking = 0
        self._hands = asyncio.Semaphore(_HANDS)
        #: When an execution on the loop began; 0.0: none is under way. Looked at by the watchdog.
        self.entered = 0.0

    def submit(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        """Take a request. Raises NotReadyError, InputError."""
        question = call.question
        try:
            if self.state != "READY":
                raise NotReadyError(f"the model `{self.name}` is not ready: {self.reason or self.state.lower()}")
            check_wishes(question, self._outputs)
            if question.sequence:
                self.sequences.check(question)
        except DeepSeekError as error:
            call.refused(error)
            raise self.refused(error) from None
        deadline = question.options.deadline
        if deadline is not None:
            call.watch(loop, deadline)
        if not self.traffic.busy:
            self.traffic.progress = call.queued
        self.calls.add(call)
        self.handover.submit(call)

    def refused(self, error: DeepSeekError) -> DeepSeekError:
        """Count a request that does not become a call; the error."""
        self.statistics.failed(cause(error), 0.0)
        return error

    def consider(self, limit: float) -> None:
        """Decide whether the model's requests are executed on the loop, where they are read.

        A hop to another thread and back costs a hundred microseconds when both contend for the interpreter's lock:
        more than a small model's whole execution. So a model that was quick when it was warmed up, and has answered
        a thousand requests since, is spared it, under the built-in scheduler, whose `run` waits for nobody.

        Args:
            limit: seconds that an execution may take; 0: never.
        """
        pipeline, traffic = self.pipeline, self.traffic
        plain = pipeline is not None and pipeline.plan.policy.name == "fifo" and pipeline.executor.concurrency == 0
        earned = self._quickness.look(limit) and plain and traffic.back >= _EARNED
        self._run = pipeline.run if earned and pipeline is not None else None

    def execute(self, question: Question, arrived: float) -> Mapping[str, Any] | None:
        """Execute a request here and now, and count it; None: that may not be. Raises DeepSeekError."""
        run = self._run
        if run is None or question.options.deadline is not None or question.sequence:
            return None
        for tensor in question.inputs.values():
            # Quick is what it was for one row; many of them are another matter.
            if tensor.nbytes > _SMALL:
                return None
        start = self.entered = monotonic()
        try:
            if question.wishes is not self._granted:
                check_wishes(question, self._outputs)
                self._granted = question.wishes
            outputs = run(question.inputs, question.options)
        except Exception as error:
            self.statistics.failed(cause(error), monotonic() - arrived)
            raise
        finally:
            self.entered = 0.0
        end = monotonic()
        self._quickness.took.append(end - start)
        if end - start > OUTLIER:
            # Until the next look, which tells whether that is usual.
            self._run = None
        self.statistics.succeeded((arrived, start, start, end, end))
        return outputs

    def spoiled(self, error: Exception) -> Exception:
        """What `execute` gave could not be sent as the request wants it; the error. Before anything else is done."""
        self.statistics.spoiled(cause(error))
        return error

    def send(self, call: Call) -> None:
        """Give a request to the scheduler. Raises DeepSeekError."""
        question = call.question
        try:
            if self._send is None:
                raise ClosedError("the model was unloaded")
            self._send(question.inputs, question.options, call)
        except QueueFullError as error:
            wait = len(self.calls) * self.traffic.pace
            raise OverloadedError(f"the queue is full: {error.what}", retry_after=max(1.0, wait)) from error
        except ClosedError as error:
            raise NotReadyError(f"the model `{self.name}` was unloaded") from error

    async def beside(self, work: Callable[[], T]) -> T:
        """What a codec makes of pictures and texts, which takes milliseconds, while the loop serves others."""
        await self._hands.acquire()
        coming = off_loop(work, "deepseek-codec")
        # Not before the thread is done, whoever still waits for it: one codec that hangs holds up no other model.
        coming.add_done_callback(self._done)
        return await asyncio.shield(coming)

    def _done(self, coming: asyncio.Future[Any]) -> None:
        self._hands.release()
        # Whoever waits has it, too.
        coming.exception()

    def settled(self, call: Call) -> None:
        """A request has its answer."""
        self.calls.discard(call)

    def adopt(self, opened: Opened) -> deepseek.Pipeline | None:
        """Let a pipeline take the requests from now on; the one that did so far. On the loop."""
        pipeline = opened.pipeline
        before, self.pipeline = self.pipeline, pipeline
        self.source = pipeline.plan.source.path
        self.statistics.loads += 1
        self.statistics.load_seconds = opened.seconds
        self.signature = pipeline.signature
        self._outputs, self._granted = frozenset(spec.name for spec in pipeline.signature.outputs), ()
        self.settings = pipeline.plan.config[ServingSettings]
        # Not every pipeline has a codec, and not every codec knows of classes.
        self.labels = getattr(pipeline.codec, "labels", {}) if pipeline.plan.coding is not None else {}
        self._send, self._run = pipeline.send, None
        self._turn()
        self._quickness = Quickness(opened.alone)
        self.traffic.pace = opened.alone or self.traffic.pace
        self.quick_question = quick.reader(pipeline.signature)
        self.state, self.reason = "READY", ""
        return before

    def retire(self, reason: str) -> deepseek.Pipeline | None:
        """Take no more requests; the pipeline that did so far, for the caller to close. On the loop."""
        before, self.pipeline, self._send, self._run = self.pipeline, None, None, None
        self._turn()
        self.state, self.reason = "UNAVAILABLE", reason
        return before

    @property
    def memory_bytes(self) -> int:
        """How much resident memory the build added."""
        return sum(step.resident_bytes for step in self.pipeline.steps) if self.pipeline else 0

    def stalled(self, limit: float) -> bool:
        """Whether the scheduler has requests, and for so many seconds began and ended none; 0: that is never said."""
        return self.state == "READY" and self.traffic.stalled(limit)

    def tell(self, limit: float) -> None:
        """Answer those who wait for a pipeline that is left behind, and has stalled for so many seconds."""
        for traffic in [each for each in self._behind if each.stalled(limit)]:
            self._behind.remove(traffic)
            for call in [call for call in self.calls if call.traffic is traffic]:
                call.settle(NotReadyError(f"the model `{self.name}` stopped answering", retry_after=1))

    def _turn(self) -> None:
        """What has been sent stays with the pipeline that has it."""
        self._behind = [traffic for traffic in (*self._behind, self.traffic) if traffic.busy]
        self.traffic = Traffic(self.traffic.pace)
