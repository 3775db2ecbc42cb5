"""Sequences of requests that belong together: which have begun, and which must not go on.

Source: the protocol's extension "sequence".
"""

from __future__ import annotations

from time import monotonic

from deepseek.plugin import InputError
from deepseek_serving.oip.requests import Question

#: A sequence that sends nothing for so long is over, in seconds.
_IDLE = 60.0
#: Sequences under way at once, of one model.
_MOST = 65536


class Sequences:
    """The sequences of one model, each tenant's its own."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int | str], float] = {}

    def check(self, question: Question) -> None:
        """Take a request of a sequence into account. Raises InputError for one that has not begun."""
        options, now = question.options, monotonic()
        parameters, name = options.parameters, (options.tenant, question.sequence)
        if not parameters.get("sequence_start", False):
            last = self._seen.get(name)
            if last is None or now - last > _IDLE:
                hint = "its first request needs `sequence_start`"
                raise InputError(f"there is no sequence {question.sequence!r}", hint=hint)
        elif len(self._seen) >= _MOST:
            self._seen = {key: last for key, last in self._seen.items() if now - last <= _IDLE}
            if len(self._seen) >= _MOST:
                raise InputError(f"{_MOST} sequences are under way already", hint="end some with `sequence_end`")
        self._seen[name] = now
        if parameters.get("sequence_end", False):
            del self._seen[name]
