"""Who may call an executor now."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from deepseek.errors import ClosedError, DeadlineError
from deepseek.gate import Gate
from kernel_pieces import until


class Crowd:
    """Threads at a gate, which come one after another and are known to wait before the next comes."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.entered: list[str] = []
        self.refused: list[str] = []
        self.threads: list[threading.Thread] = []

    def come(self, name: str, deadline: float | None = None) -> None:
        waiting = len(self.gate._waiting)
        self.threads.append(threading.Thread(target=self._enter, args=(name, deadline), daemon=True))
        self.threads[-1].start()
        until(lambda: len(self.gate._waiting) > waiting)

    def _enter(self, name: str, deadline: float | None) -> None:
        try:
            self.gate.enter(deadline)
        except (ClosedError, DeadlineError) as error:
            self.refused.append(f"{name}: {type(error).__name__}")
        else:
            self.entered.append(name)
            self.gate.leave()

    def gone(self) -> None:
        for thread in self.threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self.threads)


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """A gate for one, with the test's own thread inside."""
    made = Crowd(Gate(1))
    made.gate.enter()
    yield made
    made.gate.leave()
    made.gone()


def test_first_come_first_served(crowd: Crowd) -> None:
    for name in "abcde":
        crowd.come(name)
    crowd.gate.leave()
    crowd.gone()
    assert crowd.entered == list("abcde")


def test_a_deadline_holds_while_one_waits(crowd: Crowd) -> None:
    crowd.come("a")
    crowd.come("hurried", time.monotonic() + 0.05)
    crowd.come("b")
    until(lambda: bool(crowd.refused))
    assert crowd.refused == ["hurried: DeadlineError"]
    crowd.gate.leave()
    crowd.gone()
    assert crowd.entered == ["a", "b"]


def test_closing_turns_away_who_waits_and_waits_for_who_is_inside(crowd: Crowd) -> None:
    crowd.come("a")
    closed = threading.Event()
    closer = threading.Thread(target=lambda: (crowd.gate.close(), closed.set()))
    closer.start()
    crowd.gone()
    assert crowd.refused == ["a: ClosedError"]
    assert not closed.is_set()
    crowd.gate.leave()
    assert closed.wait(10)
    with pytest.raises(ClosedError):
        crowd.gate.enter()
    closer.join(10)


def test_who_is_inside_may_close(crowd: Crowd) -> None:
    crowd.gate.close()


def test_an_interrupt_before_the_block_that_would_leave_blocks_nobody(crowd: Crowd) -> None:
    # As if KeyboardInterrupt had struck between enter() and the try of its caller: leave() is never called.
    crowd.gate.enter()
    crowd.gate.enter()
    crowd.gate.leave()
    other = threading.Thread(target=lambda: (crowd.gate.enter(), crowd.gate.leave()))
    other.start()
    other.join(10)
    assert not other.is_alive()
    crowd.gate.close()


def test_an_interrupt_while_waiting_gives_the_place_back(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(ticket: object, deadline: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("deepseek.gate._Ticket.wait", interrupted)
    caught = []

    def come() -> None:
        try:
            crowd.gate.enter()
        except KeyboardInterrupt:
            caught.append(True)

    thread = threading.Thread(target=come)
    thread.start()
    thread.join(10)
    assert caught == [True]
    assert not crowd.gate._waiting
    monkeypatch.undo()
    crowd.come("next")
    crowd.gate.leave()
    crowd.gone()
    assert crowd.entered == ["next"]


def test_without_a_limit_nobody_waits() -> None:
    gate = Gate(0)
    inside = threading.Barrier(5)

    def call() -> None:
        gate.enter()
        inside.wait(10)
        gate.leave()

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    for thread in threads:
        thread.join(10)
    gate.close()


@pytest.mark.parametrize("limit", [0, 1])
def test_closing_waits_for_calls_that_are_inside_also_for_those_that_fail(limit: int) -> None:
    gate = Gate(limit)
    inside, go, closed = threading.Event(), threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def work(what: str) -> None:
        inside.set()
        go.wait(10)
        raise ValueError(what)

    def call() -> None:
        try:
            gate.call(None, work, "it failed")
        except ValueError as error:
            raised.append(error)

    threads = [threading.Thread(target=call), threading.Thread(target=lambda: (gate.close(), closed.set()))]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    until(lambda: not gate._open)
    assert not closed.is_set()
    go.set()
    for thread in threads:
        thread.join(10)
    assert closed.is_set()
    assert [str(error) for error in raised] == ["it failed"]
    with pytest.raises(ClosedError):
        gate.call(None, work, "never")


@pytest.mark.parametrize("limit", [0, 1])
def test_a_call_whose_deadline_has_passed_is_not_made(limit: int) -> None:
    gate = Gate(limit)
    with pytest.raises(DeadlineError):
        gate.call(time.monotonic() - 1, pytest.fail)
    assert gate.call(time.monotonic() + 10, len, "abc") == 3
    gate.close()
