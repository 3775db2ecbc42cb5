"""One version of a model as it is served: its pipeline, its state, and who asks it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, perf_counter
from types import ModuleType
from typing import Any

import deepseek
from deepseek.plugin import (
    ClosedError,
    DeepSeekError,
    ExecutionError,
    InputError,
    QueueFullError,
    Signature,
)
from deepseek_serving.calls import Call
from deepseek_serving.errors import NotReadyError, cause
from deepseek_serving.handover import Handover, Traffic
from deepseek_serving.oip import quick
from deepseek_serving.oip.answers import Frame, check_wishes
from deepseek_serving.oip.recipes import Recipes
from deepseek_serving.oip.requests import Question
from deepseek_serving.quickness import OUTLIER, Quickness
from deepseek_serving.sequences import Sequences
from deepseek_serving.settings import ServingSettings
from deepseek_serving.statistics import Statistics, meter
from deepseek_serving.warmup import timed, zeros

logger = logging.getLogger("deepseek.serving")

#: Requests after which a quick model is executed on the loop.
_EARNED = 1000
#: Bytes of an input of a request that is executed on the loop.
_SMALL = 16 << 10
#: Runs beyond the warm-up's own that tell how quick a small model is.
_MORE = 20

#: This plugin's own name: a pipeline that is served needs it, whatever version it names.
PLUGIN = "serving"
#: What `build` is given: modules of plugins that are not installed, in tests and programs.
Plugins = Sequence[ModuleType]


class Served:
    """A version of a model, and the pipeline that answers for it now.

    Args:
        name, version: as clients write them.
        path: the pipeline's file.
        handover: the loop's.
        statistics: what is counted of it.
        overrides, plugins: as for `deepseek.build`.

    Attributes:
        state: ``LOADING``, ``READY``, ``UNLOADING`` or ``UNAVAILABLE``, the protocol's words.
        reason: why it is not ready.
        calls: requests taken and not yet answered.
        pipeline: the one that takes requests.
    """

    def __init__(
        self, name: str, version: str, path: Path, handover: Handover, statistics: Statistics,
        overrides: Sequence[str] = (), plugins: Plugins = (),
    ) -> None:  # fmt: skip
        self.name, self.version, self.path = name, version, path
        self.handover = handover
        self.statistics = statistics
        self.sequences = Sequences()
        self.traffic = Traffic()
        self.calls: set[Call] = set()
        self.state, self.reason = "LOADING", ""
        self.pipeline: deepseek.Pipeline | None = None
        self.signature = Signature()
        self._outputs: frozenset[str] = frozenset()
        self.settings = ServingSettings()
        self.labels: Mapping[str, Sequence[str]] = {}
        self.frame = Frame(name, version)
        self.recipes = Recipes()
        self.quick_question: quick.Reader = lambda body: None
        self.progress = monotonic()
        self._overrides, self._plugins = overrides, plugins
        self._send: Callable[..., None] | None = None
        self._run: Callable[..., Mapping[str, Any]] | None = None
        self._quickness = Quickness()
        #: Pictures and texts that are being read.
        self.unpacking = 0
        #: When an execution on the loop began; 0.0: none is under way. Looked at by the watchdog.
        self.entered = 0.0

    def submit(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        """Take a request. Raises NotReadyError, InputError."""
        if self.state != "READY":
            what = f"the model `{self.name}` is not ready: {self.reason or self.state.lower()}"
            raise self.refused(NotReadyError(what))
        question = call.question
        try:
            check_wishes(question, self._outputs)
            if question.sequence:
                self.sequences.check(question)
        except InputError as error:
            raise self.refused(error) from None
        deadline = question.options.deadline
        if deadline is not None:
            call.watch(loop, deadline)
        if self.traffic.sent == self.traffic.back:
            self.progress = call.queued
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
            if question.wishes:
                check_wishes(question, self._outputs)
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
        self.statistics.succeeded(arrived, start, start, end, end)
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
            raise NotReadyError(f"the queue is full: {error.what}", retry_after=max(1.0, wait)) from error
        except ClosedError as error:
            raise NotReadyError(f"the model `{self.name}` was unloaded") from error

    def settled(self, call: Call) -> None:
        """A request has its answer."""
        self.calls.discard(call)

    def open(self) -> deepseek.Pipeline:
        """Build and warm up a pipeline; not on the loop. Raises DeepSeekError."""
        start = perf_counter()
        # What the meter counts outlives the pipeline.
        added = [meter(self.statistics), *self._plugins]
        pipeline = deepseek.build(self.path, overrides=self._overrides, plugins=added, enable=[PLUGIN])
        try:
            settings = pipeline.plan.config[ServingSettings]
            self._warm_up(pipeline, settings)
        except BaseException:
            pipeline.close()
            raise
        self.statistics.loads += 1
        self.statistics.load_seconds = perf_counter() - start
        return pipeline

    def adopt(self, pipeline: deepseek.Pipeline) -> deepseek.Pipeline | None:
        """Let a pipeline take the requests from now on; the one that did so far. On the loop."""
        before, self.pipeline = self.pipeline, pipeline
        self.signature = pipeline.signature
        self._outputs = frozenset(spec.name for spec in pipeline.signature.outputs)
        self.settings = pipeline.plan.config[ServingSettings]
        self._send, self._run = pipeline.send, None
        # What the one before has not given back it never will, or will tell its own.
        self.traffic, pace = Traffic(), self.traffic.pace
        self.traffic.pace = pace
        self.quick_question = quick.reader(pipeline.signature)
        self.state, self.reason = "READY", ""
        self.progress = monotonic()
        return before

    def retire(self, reason: str) -> deepseek.Pipeline | None:
        """Take no more requests; the pipeline that did so far, for the caller to close. On the loop."""
        before, self.pipeline, self._send, self._run = self.pipeline, None, None, None
        self.state, self.reason = "UNAVAILABLE", reason
        return before

    @property
    def memory_bytes(self) -> int:
        """How much resident memory the build added."""
        return sum(step.resident_bytes for step in self.pipeline.steps) if self.pipeline else 0

    def stalled(self, limit: float) -> bool:
        """Whether the scheduler has requests, and for so many seconds began and ended none."""
        # What the scheduler has not given back counts, whether or not somebody still waits for it.
        busy = self.traffic.sent > self.traffic.back
        return busy and self.state == "READY" and monotonic() - self.progress > limit

    def _warm_up(self, pipeline: deepseek.Pipeline, settings: ServingSettings) -> None:
        if not settings.warmup:
            return
        try:
            inputs = zeros(pipeline.signature, settings.warmup_shapes)
            took = [timed(pipeline, inputs) for _ in range(settings.warmup)]
            if took[-1] < OUTLIER:
                # The first runs find no cache warm, and say little of a small model.
                took += [timed(pipeline, inputs) for _ in range(_MORE)]
            self._quickness.alone = self.traffic.pace = min(took)
        except (InputError, ExecutionError) as error:
            if settings.warmup_shapes:
                raise
            # Shapes that nobody stated are guessed, and may be what the model can't take.
            logger.warning("%s: not warmed up, zeros of the shapes guessed do not suit: %s", self.name, error.what)
