"""Whether a model is quick enough to be executed on the event loop: by its times when it was warmed up, and since."""

from __future__ import annotations

#: Seconds that no quick model takes.
OUTLIER = 0.02
#: What executions still count after each look, of which there are 50 in a second: half after 1.4 seconds.
_FADES = 0.99
#: Executions, or else seconds spent in them, that say something.
_ENOUGH, _MUCH = 1000, 0.25
#: Looks after which a model that was not quick may show that it is again: a minute.
_BANNED = 3000


class Quickness:
    """What is known of one model's executions on the loop.

    Attributes:
        alone: seconds of an execution when nothing else ran; 0.0: not known.
        took: seconds of each execution since the last look.
    """

    def __init__(self, alone: float = 0.0) -> None:
        self.alone = alone
        self.took: list[float] = []
        self._spent = self._runs = 0.0
        self._banned = 0

    def look(self, limit: float) -> bool:
        """Whether the model is quick.

        The mean of its late executions decides: one that is slow among thousands is the machine's fault, not the
        model's.

        Args:
            limit: seconds that an execution may take.
        """
        took, self.took = self.took, []
        self._spent += sum(took)
        self._runs += len(took)
        if (self._runs >= _ENOUGH or self._spent >= _MUCH) and self._spent / self._runs > limit:
            self._spent = self._runs = 0.0
            self._banned = _BANNED
        self._spent *= _FADES
        self._runs *= _FADES
        self._banned = max(0, self._banned - 1)
        return 0 < self.alone <= limit and not self._banned
