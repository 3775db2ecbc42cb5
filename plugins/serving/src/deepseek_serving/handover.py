"""Between the event loop and the threads of schedulers: requests go over, and answers come back, many at a time.

A scheduler's thread and the loop share the interpreter's lock. So requests are handed over at the end of the loop's
turn, when every socket that was ready has been read, and the loop is woken once for all the answers that a quick model
gave in a row, not once for each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek_serving.calls import Call

#: Models that take longer than this wake the loop for each answer, in seconds.
QUICK = 50e-6
#: After so long an answer of a quick model wakes the loop, in seconds; else the next one does, or the loop's tick.
PATIENCE = 300e-6

#: A call, a chunk of its answer or an error, and whether it is the last.
Answer = tuple["Call", Mapping[str, Any] | BaseException, bool]


class Handover:
    """One for each event loop; `submit` and `drain` belong to the loop, `post` and `skipped` to any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: list[Call] = []
        self._answers: deque[Answer] = deque()
        self._awake = False
        self._woken = 0.0

    def submit(self, call: Call) -> None:
        """Hand a call over at the end of this turn of the loop."""
        if not self._asked:
            self._loop.call_soon(self._flush)
        self._asked.append(call)

    def post(self, answer: Answer) -> None:
        """Bring a part of an answer to the loop."""
        self._answers.append(answer)
        if self._awake:
            return
        traffic = answer[0].traffic
        if traffic.pace > QUICK or not traffic.busy or monotonic() - self._woken > PATIENCE:
            self._wake()

    def skipped(self) -> None:
        """Nothing comes of a call that was about to be executed, and others may wait for it."""
        if self._answers and not self._awake:
            self._wake()

    def drain(self) -> None:
        """Give answers to those who asked."""
        self._awake = False
        answers = self._answers
        while answers:
            call, part, last = answers.popleft()
            call.deliver(part, last)

    def _flush(self) -> None:
        asked, self._asked = self._asked, []
        for call in asked:
            call.send()

    def _wake(self) -> None:
        self._awake = True
        self._woken = monotonic()
        try:
            self._loop.call_soon_threadsafe(self.drain)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            self._answers.clear()


class Traffic:
    """How many calls of a pipeline are on their way, and how quick it is.

    Attributes:
        sent: calls given to the scheduler.
        back: calls that it is done with.
        pace: seconds of an execution, a moving average.
        progress: when the scheduler last began or ended one, or had none.
    """

    __slots__ = ("back", "pace", "progress", "sent")

    def __init__(self, pace: float = 1.0) -> None:
        self.sent = self.back = 0
        self.pace = pace
        self.progress = monotonic()

    @property
    def busy(self) -> bool:
        """Whether the scheduler has calls, whether or not somebody still waits for them."""
        return self.sent > self.back

    def stalled(self, limit: float) -> bool:
        """Whether the scheduler has calls, and for so many seconds began and ended none; 0: that is never said."""
        return limit > 0 and self.busy and monotonic() - self.progress > limit

    def ran(self, seconds: float) -> None:
        """An execution has ended."""
        self.pace += 0.1 * (seconds - self.pace)
