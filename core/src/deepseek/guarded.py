"""What plugins made - executors, schedulers, codecs - with their foreign exceptions translated once, at the seam.

Errors of ours pass. Whatever else is raised becomes one that names the plugin, so that a caller, a scheduler or the
command line has to know one tree of errors only. Without an exception it costs one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from deepseek.errors import DeepSeekError, ExecutionError, HookError, OutOfMemoryError
from deepseek.protocols import Codec, Executor, Scheduler
from deepseek.types import Tensors

P = ParamSpec("P")
T = TypeVar("T")


class GuardedExecutor:
    """An executor that raises nothing but DeepSeekErrors.

    Args:
        executor: the plugin's own.
        who: the plugin's distribution and version.
    """

    def __init__(self, executor: Executor, who: str) -> None:
        self.signature = executor.signature
        self.concurrency = executor.concurrency
        self.run = _guarded(executor.run, ExecutionError, who, "while it executed")
        self.close = _guarded(executor.close, HookError, who, "while its executor closed")


class GuardedScheduler:
    """A scheduler that raises nothing but DeepSeekErrors; takes the same arguments."""

    def __init__(self, scheduler: Scheduler, who: str) -> None:
        self.run = _guarded(scheduler.run, HookError, who, "while it scheduled")
        self.submit = _guarded(scheduler.submit, HookError, who, "while it scheduled")
        self.close = _guarded(scheduler.close, HookError, who, "while its scheduler closed")


class GuardedCodec:
    """A codec that raises nothing but DeepSeekErrors; takes the same arguments."""

    def __init__(self, codec: Codec, who: str) -> None:
        self.suffixes = codec.suffixes
        self.encode = _guarded(codec.encode, HookError, who, "while it encoded an input")
        self.decode = _guarded(codec.decode, HookError, who, "while it decoded an answer")
        self._read = _guarded(codec.read, HookError, who, "while it read an input")
        self._next = _guarded(_next, HookError, who, "while it read an input")

    def read(self, path: Path | None, data: bytes | None) -> Iterator[tuple[str, Tensors]]:
        items = self._read(path, data)
        while (item := self._next(items)) is not None:
            yield item


def _next(items: Iterator[Any]) -> Any:
    return next(items, None)


def _guarded(call: Callable[P, T], kind: type[DeepSeekError], who: str, doing: str) -> Callable[P, T]:
    def guard(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except DeepSeekError:
            raise
        except MemoryError as exc:
            raise OutOfMemoryError(f"{who} ran out of memory {doing}", hint="send a smaller batch") from exc
        # A plugin's sys.exit() is no way to end the program; interrupts are not the plugin's.
        except (Exception, SystemExit) as exc:
            what = f"{who} raised {doing}: {type(exc).__name__}: {exc}"
            raise kind(what, hint="report it to the plugin's author") from exc

    return guard
