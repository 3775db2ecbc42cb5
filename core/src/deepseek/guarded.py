"""What plugins made - executors, schedulers, codecs - with their foreign exceptions translated once, at the seam.

Errors of ours pass. Whatever else is raised becomes one that names the plugin, so that a caller, a scheduler or the
command line has to know one tree of errors only. It costs 0.2 us a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepseek.errors import DeepSeekError, ExecutionError, HookError, OutOfMemoryError
from deepseek.protocols import Codec, Executor, Request, Scheduler
from deepseek.types import Options, Tensors


class Blame:
    """A block whose foreign exceptions are laid at a plugin's door. Has no state: enter it as often as you like.

    Args:
        who: the plugin's distribution and version.
        doing: what it was doing (``while it executed``).
        kind: the error that a foreign exception becomes.
    """

    __slots__ = ("_doing", "_kind", "_who")

    def __init__(self, who: str, doing: str, kind: type[DeepSeekError]) -> None:
        self._who, self._doing, self._kind = who, doing, kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        # A plugin's sys.exit() is no way to end the program; interrupts are not the plugin's.
        if isinstance(exc, Exception | SystemExit) and not isinstance(exc, DeepSeekError):
            raise self._translate(exc) from exc

    def _translate(self, exc: BaseException) -> DeepSeekError:
        if isinstance(exc, MemoryError):
            return OutOfMemoryError(f"{self._who} ran out of memory {self._doing}", hint="send a smaller batch")
        what = f"{self._who} raised {self._doing}: {type(exc).__name__}: {exc}"
        return self._kind(what, hint="report it to the plugin's author")


class GuardedExecutor:
    """An executor that raises nothing but DeepSeekErrors; the plugin's own is `inner`."""

    def __init__(self, executor: Executor, who: str) -> None:
        self.inner = executor
        self.signature = executor.signature
        self.concurrency = executor.concurrency
        self.close = executor.close
        self._run = executor.run
        self._blame = Blame(who, "while it executed", ExecutionError)

    def run(self, inputs: Tensors, options: Options) -> dict[str, Any]:
        with self._blame:
            return self._run(inputs, options)


class GuardedScheduler:
    """A scheduler that raises nothing but DeepSeekErrors; the plugin's own is `inner`."""

    def __init__(self, scheduler: Scheduler, who: str) -> None:
        self.inner = scheduler
        self.close = scheduler.close
        self._run = scheduler.run
        self._blame = Blame(who, "while it scheduled", HookError)

    def run(self, inputs: Tensors, options: Options) -> dict[str, Any]:
        with self._blame:
            return self._run(inputs, options)

    def submit(self, request: Request) -> None:
        with self._blame:
            self.inner.submit(request)


class GuardedCodec:
    """A codec that raises nothing but DeepSeekErrors; the plugin's own is `inner`."""

    def __init__(self, codec: Codec, who: str) -> None:
        self.inner = codec
        self.suffixes = codec.suffixes
        self._encoding = Blame(who, "while it encoded an input", HookError)
        self._decoding = Blame(who, "while it decoded an answer", HookError)

    def read(self, path: Path | None, data: bytes | None) -> Iterator[tuple[str, Tensors]]:
        with self._encoding:
            yield from self.inner.read(path, data)

    def encode(self, value: object) -> Tensors:
        with self._encoding:
            return self.inner.encode(value)

    def decode(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        with self._decoding:
            return self.inner.decode(outputs)
