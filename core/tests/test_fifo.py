"""The built-in scheduler."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from typing import Any

import pytest

from deepseek.errors import ClosedError, DeadlineError, QueueFullError
from deepseek.fifo import Fifo
from deepseek.plugin import NO_OPTIONS, Options, Request, Share, Tensors
from deepseek.testing import EchoExecutor, FutureSink
from kernel_pieces import until


def ask(fifo: Fifo, value: Any, options: Options = NO_OPTIONS) -> FutureSink:
    sink = FutureSink()
    fifo.submit(Request({"x": value}, Share(options, 1), sink))
    return sink


ONE = Share(NO_OPTIONS, 1)


class Gate:
    """Holds the executor until it is opened; tells when a call has arrived."""

    def __init__(self) -> None:
        self.arrived, self.open, self.seen = threading.Event(), threading.Event(), list[Any]()

    def __call__(self, inputs: Tensors) -> None:
        self.seen.append(inputs["x"])
        self.arrived.set()
        assert self.open.wait(10)


def workers() -> set[threading.Thread]:
    """The threads of all FIFOs of this process: of servers in other tests, too."""
    return {thread for thread in threading.enumerate() if thread.name == "deepseek-fifo"}


def test_requests_run_in_the_order_in_which_they_came() -> None:
    gate = Gate()
    fifo = Fifo(EchoExecutor(work=gate))
    sinks = [ask(fifo, number) for number in range(20)]
    gate.open.set()
    assert [sink.future.result(10)["x"] for sink in sinks] == list(range(20))
    assert gate.seen == list(range(20))
    fifo.close()


def test_several_workers_overlap_in_the_order_of_arrival() -> None:
    gate = Gate()
    executor = EchoExecutor(work=gate)
    fifo = Fifo(executor, workers=2)
    sinks = [ask(fifo, number) for number in range(6)]
    while len(gate.seen) < 2:
        pass
    assert sorted(gate.seen) == [0, 1]
    gate.open.set()
    assert [sink.future.result(10)["x"] for sink in sinks] == list(range(6))
    assert executor.most_at_once == 2
    fifo.close()
    assert not any(worker.is_alive() for worker in fifo._workers)


def test_run_stays_on_the_callers_thread() -> None:
    threads = []
    fifo = Fifo(EchoExecutor(work=lambda inputs: threads.append(threading.current_thread())))
    assert fifo.run({"x": 1}, ONE) == {"x": 1}
    assert threads == [threading.current_thread()]
    assert fifo._workers == []
    fifo.close()


def test_calls_do_not_overlap_more_than_the_executor_allows() -> None:
    executor = EchoExecutor(concurrency=1)
    fifo = Fifo(executor)
    callers = [threading.Thread(target=lambda: [fifo.run({"x": 1}, ONE) for _ in range(200)]) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (executor.calls, executor.most_at_once) == (800, 1)
    fifo.close()


def test_a_full_queue_refuses() -> None:
    gate = Gate()
    fifo = Fifo(EchoExecutor(work=gate), max_queue=2)
    running = ask(fifo, 0)
    assert gate.arrived.wait(10)
    waiting = [ask(fifo, 1), ask(fifo, 2)]
    with pytest.raises(QueueFullError, match=r"2 requests are waiting already\n  fix: .*fifo.max_queue"):
        ask(fifo, 3)
    gate.open.set()
    assert [sink.future.result(10)["x"] for sink in (running, *waiting)] == [0, 1, 2]
    fifo.close()


def test_a_cancelled_request_is_not_executed() -> None:
    gate = Gate()
    fifo = Fifo(EchoExecutor(work=gate))
    first, second, third = ask(fifo, 1), ask(fifo, 2), ask(fifo, 3)
    assert gate.arrived.wait(10)
    assert second.future.cancel()
    assert not first.future.cancel()
    gate.open.set()
    assert third.future.result(10) == {"x": 3}
    assert gate.seen == [1, 3]
    fifo.close()


def test_nothing_expired_is_executed() -> None:
    executor = EchoExecutor()
    fifo = Fifo(executor)
    late = Options(deadline=time.monotonic() - 1)
    with pytest.raises(DeadlineError):
        fifo.run({"x": 1}, Share(late, 1))
    with pytest.raises(DeadlineError):
        ask(fifo, 1, late).future.result(10)
    assert executor.calls == 0
    fifo.close()


def test_an_error_belongs_to_its_request_alone() -> None:
    def work(inputs: Tensors) -> None:
        if inputs["x"] == "bad":
            raise ValueError("bad")

    fifo = Fifo(EchoExecutor(work=work))
    sinks = [ask(fifo, value) for value in ("good", "bad", "good")]
    assert sinks[0].future.result(10) == sinks[2].future.result(10) == {"x": "good"}
    with pytest.raises(ValueError, match="bad"):
        sinks[1].future.result(10)
    fifo.close()


def test_close_finishes_what_is_queued_and_ends_the_thread() -> None:
    before = workers()
    gate = Gate()
    fifo = Fifo(EchoExecutor(work=gate))
    sinks = [ask(fifo, number) for number in range(5)]
    closer = threading.Thread(target=fifo.close)
    closer.start()
    gate.open.set()
    closer.join(10)
    assert [sink.future.result(0)["x"] for sink in sinks] == list(range(5))
    assert not workers() - before
    with pytest.raises(ClosedError):
        ask(fifo, 1)
    fifo.close()


def test_close_waits_for_what_runs_on_callers_threads() -> None:
    gate = Gate()
    fifo = Fifo(EchoExecutor(work=gate))
    ended = []
    caller = threading.Thread(target=lambda: ended.append(fifo.run({"x": 1}, ONE)))
    caller.start()
    assert gate.arrived.wait(10)
    closer = threading.Thread(target=lambda: (fifo.close(), ended.append("closed")))
    closer.start()
    # The closer is inside close() once new calls are refused.
    with contextlib.suppress(ClosedError):
        while True:
            ask(fifo, 2).future.cancel()
    assert ended == []
    gate.open.set()
    caller.join(10)
    closer.join(10)
    assert ended == [{"x": 1}, "closed"]


def test_a_callback_may_close_and_what_is_queued_is_answered_first() -> None:
    before = workers()
    gate = Gate()
    fifo = Fifo(EchoExecutor(work=gate))
    first = ask(fifo, 1)
    first.future.add_done_callback(lambda future: fifo.close())
    others = [ask(fifo, number) for number in (2, 3)]
    gate.open.set()
    assert [sink.future.result(10)["x"] for sink in (first, *others)] == [1, 2, 3]
    until(lambda: not workers() - before)
    with pytest.raises(ClosedError):
        ask(fifo, 4)


def test_a_failed_request_is_not_kept_by_its_own_error() -> None:
    def fail(inputs: Tensors) -> None:
        raise ValueError("bad")

    class Tensor:
        pass

    fifo = Fifo(EchoExecutor(work=fail))
    tensor = Tensor()
    kept = weakref.ref(tensor)
    sink = ask(fifo, tensor)
    with pytest.raises(ValueError, match="bad"):
        sink.future.result(10)
    fifo.close()
    gc.disable()
    try:
        del sink, tensor
        assert kept() is None
    finally:
        gc.enable()


def test_a_limit_of_two_lets_two_in() -> None:
    started = threading.Barrier(3)
    executor = EchoExecutor(concurrency=2, work=lambda inputs: started.wait(10))
    fifo = Fifo(executor)
    callers = [threading.Thread(target=lambda: fifo.run({"x": 1}, ONE)) for _ in range(2)]
    for caller in callers:
        caller.start()
    started.wait(10)
    for caller in callers:
        caller.join(10)
    assert executor.most_at_once == 2
    fifo.close()


def test_a_sink_that_raises_does_not_end_the_thread_that_others_wait_for() -> None:
    class Broken(FutureSink):
        def start(self) -> bool:
            raise RuntimeError("gone")

        def fail(self, error: BaseException) -> None:
            raise RuntimeError("gone for good")

    fifo = Fifo(EchoExecutor())
    fifo.submit(Request({"x": 0}, ONE, Broken()))
    assert ask(fifo, 1).future.result(10) == {"x": 1}
    fifo.close()


def test_an_answer_that_somebody_else_gave_does_not_end_the_thread() -> None:
    gate = Gate()
    fifo = Fifo(EchoExecutor(work=gate))
    first, second, third = (ask(fifo, number) for number in range(3))
    assert gate.arrived.wait(10)
    second.future.set_result({"x": "mine"})
    gate.open.set()
    assert [sink.future.result(10)["x"] for sink in (first, second, third)] == [0, "mine", 2]
    fifo.close()
