"""Asking a model from a coroutine: for one answer, for a stream of chunks, or in a reader's terms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from deepseek.plugin import DeadlineError, DeepSeekError, Options
from deepseek_serving.backlog import Backlog
from deepseek_serving.calls import Call, CodedCall, StreamCall
from deepseek_serving.errors import GoneError, NotReadyError, OverloadedError, SlowReaderError
from deepseek_serving.oip.requests import Question
from deepseek_serving.served import Served

Trace = Callable[[Call], None]
T = TypeVar("T")
#: Bytes of an answer in chunks that may wait for a client to read them, and what a chunk takes beside its own.
_BEHIND, _CHUNK = 4 << 20, 1 << 10
#: Pictures and texts of a model that may wait to be read.
_UNPACKING = 1024


async def ask(
    model: Served, question: Question, trace: Trace | None = None, render: Callable[[Mapping[str, Any]], Any] = dict
) -> Any:
    """The model's answer; cancelling the task takes the request back. Raises DeepSeekError.

    Args:
        model: who is asked.
        question: what.
        trace: called with the call, to have it traced.
        render: what becomes of the outputs, and may raise: a request whose answer can't be sent has failed.
    """
    _in_time(model, question)
    outputs = model.execute(question, monotonic()) if trace is None else None
    if outputs is not None:
        try:
            return render(outputs)
        except Exception as error:
            raise model.spoiled(error) from None
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settled(call: Call) -> None:
        answer = None
        if call.error is None:
            try:
                answer = render(call.outputs or {})
            except Exception as error:
                # Its traceback would keep the answer, which nobody gets.
                call.error = error.with_traceback(None) if isinstance(error, DeepSeekError) else error
        if not done.cancelled():
            done.set_result(answer)

    call = Call(model, question, settled, monotonic())
    if trace is not None:
        trace(call)
    model.submit(call, loop)
    return await _settled(call, done)


async def stream(
    model: Served, question: Question, trace: Trace | None = None
) -> AsyncIterator[Mapping[str, Any]]:  # fmt: skip
    """The chunks of the model's answer, as they come; leaving the loop stops it. Raises DeepSeekError."""
    _in_time(model, question)
    loop = asyncio.get_running_loop()
    chunks: Backlog[Mapping[str, Any] | None] = Backlog()

    def take(chunk: Mapping[str, Any]) -> None:
        if chunks.size < _BEHIND:
            chunks.put(chunk, _CHUNK + sum(np.asarray(tensor).nbytes for tensor in chunk.values()))
        else:
            call.settle(SlowReaderError("the client does not read its answer"))

    call = StreamCall(model, question, lambda _: chunks.put(None, 0), monotonic(), take)
    if trace is not None:
        trace(call)
    model.submit(call, loop)
    try:
        while (chunk := await chunks.get()) is not None:
            yield chunk
        if call.error is not None:
            raise call.error
    finally:
        call.cancel()


async def predict(
    model: Served, value: object, question: Question, trace: Trace | None = None
) -> list[dict[str, Any]]:  # fmt: skip
    """The answer to a picture, a text or tensors, through the pipeline's codec. Raises DeepSeekError.

    Args:
        model: who is asked.
        value: what `deepseek.Pipeline.predict` takes, paths excepted.
        question: whose inputs it becomes.
        trace: as in `ask`.
    """
    pipeline = model.pipeline
    if pipeline is None:
        raise NotReadyError(f"the model `{model.name}` is not ready: {model.reason}")
    codec = pipeline.codec
    _in_time(model, question)
    if model.unpacking >= _UNPACKING:
        raise model.refused(OverloadedError(f"{_UNPACKING} pictures or texts wait to be read already", retry_after=1))
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    call = CodedCall(model, question, lambda _: None if done.cancelled() else done.set_result(None), monotonic())
    if trace is not None:
        trace(call)
    try:
        question.inputs = await _encoded(model, partial(codec.encode, value), question.options.deadline)
    except BaseException as error:
        call.settle(_known(error))
        raise
    call.encoded()
    model.submit(call, loop)
    try:
        await _settled(call, done)
        rows = await model.beside(partial(codec.decode, call.outputs or {}))
    except BaseException as error:
        if call.error is None:
            # Not concluded yet: also where the client went in the very turn in which the outputs came.
            call.decoded(_known(error))
        raise
    call.decoded()
    return rows


async def _encoded(
    model: Served, encode: Callable[[], Mapping[str, Any]], deadline: float | None
) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs that a codec makes. Raises DeadlineError, and what the codec raises."""
    model.unpacking += 1
    try:
        async with asyncio.timeout(None if deadline is None else max(0.0, deadline - monotonic())):
            inputs = await model.beside(encode)
    except TimeoutError:
        raise DeadlineError("the deadline passed before the model was asked") from None
    finally:
        model.unpacking -= 1
    return {name: np.asarray(tensor) for name, tensor in inputs.items()}


async def _settled(call: Call, done: asyncio.Future[T]) -> T:
    """What a call's future holds when the call has ended; cancelling takes it back. Raises the call's error."""
    try:
        answer = await done
    except asyncio.CancelledError:
        call.cancel()
        raise
    if call.error is not None:
        raise call.error
    return answer


def _known(error: BaseException) -> BaseException:
    """What a call is told of a task that was cancelled: its client has gone."""
    return GoneError("the client went away") if isinstance(error, asyncio.CancelledError) else error


def _in_time(model: Served, question: Question) -> None:
    """Give a request that states no deadline the model's."""
    options = question.options
    if options.deadline is None and model.settings.timeout:
        deadline = monotonic() + model.settings.timeout
        question.options = Options(deadline, options.priority, options.tenant, options.parameters)


def plain(value: Any) -> Any:
    """An answer in a reader's terms as JSON has it."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
