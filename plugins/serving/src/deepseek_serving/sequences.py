"""Sequences of requests that belong together: which have begun, and which must not go on.

Source: the protocol's extension "sequence".
"""

from __future__ import annotations

from time import monotonic

from deepseek.plugin import InputError
from deepseek_serving.oip.requests import Question

#: A sequence that sends nothing for so long is over, in seconds.
_IDLE = 60.0
#: Sequences under way at once, of one tenant with one model.
_MOST = 16384


class Sequences:
    """The sequences of one model, each tenant's its own."""

    def __init__(self) -> None:
        #: Tenant -> sequence -> when it sent something, the one that was silent longest first.
        self._seen: dict[str, dict[int | str, float]] = {}

    def check(self, question: Question) -> None:
        """Take a request of a sequence into account. Raises InputError for one that has not begun."""
        options, now = question.options, monotonic()
        parameters, name = options.parameters, question.sequence
        seen = self._seen.setdefault(options.tenant, {})
        if not parameters.get("sequence_start", False):
            last = seen.get(name)
            if last is None or now - last > _IDLE:
                hint = "its first request needs `sequence_start`"
                raise InputError(f"there is no sequence {question.sequence!r}", hint=hint)
        elif len(seen) >= _MOST:
            oldest = next(iter(seen))
            if now - seen[oldest] <= _IDLE:
                raise InputError(f"{_MOST} sequences are under way already", hint="end some with `sequence_end`")
            del seen[oldest]
        seen.pop(name, None)
        if not parameters.get("sequence_end", False):
            seen[name] = now
