"""What plugins made - executors, schedulers, codecs - with their foreign exceptions translated once, at the seam.

Errors of ours pass. Whatever else is raised becomes one that names the plugin, so that a caller, a scheduler or the
command line has to know one tree of errors only. Without an exception it costs one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

from deepseek.errors import NOBODYS_FAULT, DeepSeekError, ExecutionError, HookError, OutOfMemoryError
from deepseek.protocols import Codec, Executor, Scheduler
from deepseek.types import Share, Signature, Tensors

P = ParamSpec("P")
T = TypeVar("T")

REPORT = "report it to the plugin's author"


class GuardedExecutor:
    """An executor that raises nothing but DeepSeekErrors, and answers with a mapping.

    Args:
        executor: the plugin's own.
        who: the plugin's distribution and version.
    """

    def __init__(self, executor: Executor, who: str) -> None:
        self.signature = executor.signature
        self.concurrency = executor.concurrency
        if not isinstance(self.signature, Signature):
            raise TypeError(f"its signature is a {type(self.signature).__name__}")
        if not isinstance(self.concurrency, int) or self.concurrency < 0:
            raise TypeError(f"its concurrency is {self.concurrency!r}; it must be a number, 0 for any number of calls")
        self.close = guarded(executor.close, HookError, who, "while its executor closed")
        self._executor = executor
        self._run = executor.run
        self._who = who

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        try:
            answer = self._run(inputs, shares)
        except (DeepSeekError, *NOBODYS_FAULT):
            raise
        except BaseException as exc:
            raise _blame(exc, ExecutionError, self._who, "while it executed") from exc
        if type(answer) is not dict:
            raise _odd(answer, ExecutionError, self._who, "a dict of named arrays")
        return answer

    def __getattr__(self, name: str) -> Any:
        # What an executor does beyond the protocol stays in reach.
        return getattr(self._executor, name)


class GuardedScheduler:
    """A scheduler that raises nothing but DeepSeekErrors; takes the same arguments."""

    def __init__(self, scheduler: Scheduler, who: str) -> None:
        self._run = guarded(scheduler.run, HookError, who, "while it scheduled")
        self.submit = guarded(scheduler.submit, HookError, who, "while it scheduled")
        self.close = guarded(scheduler.close, HookError, who, "while its scheduler closed")
        self._who = who

    def run(self, inputs: Tensors, share: Share) -> dict[str, Any]:
        answer = self._run(inputs, share)
        if not isinstance(answer, dict):
            raise _odd(answer, HookError, self._who, "a dict of named arrays")
        return answer


class GuardedCodec:
    """A codec that raises nothing but DeepSeekErrors; takes the same arguments."""

    def __init__(self, codec: Codec, who: str) -> None:
        self.suffixes = codec.suffixes
        self.labels: Mapping[str, Sequence[str]] = getattr(codec, "labels", {})
        self._encode = guarded(codec.encode, HookError, who, "while it encoded an input")
        self._decode = guarded(codec.decode, HookError, who, "while it decoded an answer")
        self._read = guarded(codec.read, HookError, who, "while it read an input")
        self._next = guarded(_next, HookError, who, "while it read an input")
        self._who = who

    def read(self, path: Path | None, stream: BinaryIO | None) -> Iterator[tuple[str, Tensors]]:
        items = self._read(path, stream)
        while (item := self._next(items)) is not None:
            label, inputs = item if isinstance(item, tuple) and len(item) == 2 else (None, None)
            if not isinstance(label, str) or not isinstance(inputs, Mapping):
                raise _odd(item, HookError, self._who, "a label and a mapping of named arrays")
            yield item

    def encode(self, value: object) -> Tensors:
        answer = self._encode(value)
        if not isinstance(answer, Mapping):
            raise _odd(answer, HookError, self._who, "a mapping of named arrays")
        return answer

    def decode(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        answer = self._decode(outputs)
        if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
            raise _odd(answer, HookError, self._who, "a list of dicts")
        return answer


def _next(items: Iterator[Any]) -> Any:
    return next(items, None)


def _odd(answer: object, kind: type[DeepSeekError], who: str, wanted: str) -> DeepSeekError:
    return kind(f"{who} answered with a {type(answer).__name__} instead of {wanted}", hint=REPORT)


def guarded(call: Callable[P, T], kind: type[DeepSeekError], who: str, doing: str) -> Callable[P, T]:
    """A plugin's function that raises nothing but DeepSeekErrors.

    Args:
        call: the function.
        kind: what a foreign exception becomes.
        who: the plugin's distribution and version.
        doing: what the plugin was doing (``while it executed``).
    """

    def guard(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except (DeepSeekError, *NOBODYS_FAULT):
            raise
        # Foreign libraries raise BaseExceptions too (pyo3's panics), and a sys.exit() is no way to end the program.
        except BaseException as exc:
            raise _blame(exc, kind, who, doing) from exc

    return guard


def _blame(exc: BaseException, kind: type[DeepSeekError], who: str, doing: str) -> DeepSeekError:
    """The error that a foreign exception becomes."""
    if isinstance(exc, MemoryError):
        return OutOfMemoryError(f"{who} ran out of memory {doing}", hint="send a smaller batch")
    return kind(f"{who} raised {doing}: {type(exc).__name__}: {exc}", hint=REPORT)
