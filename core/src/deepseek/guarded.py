"""What plugins made - executors, schedulers, codecs - with their foreign exceptions translated once, at the seam.

Errors of ours pass. Whatever else is raised becomes one that names the plugin, so that a caller, a scheduler or the
command line has to know one tree of errors only. Without an exception it costs one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

from deepseek.errors import DeepSeekError, ExecutionError, HookError, OutOfMemoryError
from deepseek.protocols import Codec, Executor, Scheduler
from deepseek.types import Share, Tensors

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
        self.close = guarded(executor.close, HookError, who, "while its executor closed")
        self._executor = executor
        self._run = executor.run
        self._who = who

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        try:
            answer = self._run(inputs, shares)
        except DeepSeekError:
            raise
        except (Exception, SystemExit) as exc:
            raise _blame(exc, ExecutionError, self._who, "while it executed") from exc
        if type(answer) is not dict:
            what = f"{self._who} answered with a {type(answer).__name__} instead of a dict of named arrays"
            raise ExecutionError(what, hint=REPORT)
        return answer

    def __getattr__(self, name: str) -> Any:
        # What an executor does beyond the protocol stays in reach.
        return getattr(self._executor, name)


class GuardedScheduler:
    """A scheduler that raises nothing but DeepSeekErrors; takes the same arguments."""

    def __init__(self, scheduler: Scheduler, who: str) -> None:
        self.run = guarded(scheduler.run, HookError, who, "while it scheduled")
        self.submit = guarded(scheduler.submit, HookError, who, "while it scheduled")
        self.close = guarded(scheduler.close, HookError, who, "while its scheduler closed")


class GuardedCodec:
    """A codec that raises nothing but DeepSeekErrors; takes the same arguments."""

    def __init__(self, codec: Codec, who: str) -> None:
        self.suffixes = codec.suffixes
        self.encode = guarded(codec.encode, HookError, who, "while it encoded an input")
        self.decode = guarded(codec.decode, HookError, who, "while it decoded an answer")
        self._read = guarded(codec.read, HookError, who, "while it read an input")
        self._next = guarded(_next, HookError, who, "while it read an input")

    def read(self, path: Path | None, stream: BinaryIO | None) -> Iterator[tuple[str, Tensors]]:
        items = self._read(path, stream)
        while (item := self._next(items)) is not None:
            yield item


def _next(items: Iterator[Any]) -> Any:
    return next(items, None)


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
        except DeepSeekError:
            raise
        except (Exception, SystemExit) as exc:
            raise _blame(exc, kind, who, doing) from exc

    return guard


def _blame(exc: BaseException, kind: type[DeepSeekError], who: str, doing: str) -> DeepSeekError:
    """The error that a foreign exception becomes. A plugin's sys.exit() is one, for it is no way to end the program."""
    if isinstance(exc, MemoryError):
        return OutOfMemoryError(f"{who} ran out of memory {doing}", hint="send a smaller batch")
    return kind(f"{who} raised {doing}: {type(exc).__name__}: {exc}", hint=REPORT)
