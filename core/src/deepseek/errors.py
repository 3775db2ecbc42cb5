"""Every error that DeepSeek raises on purpose, and the exit code each one ends a command with.

::

    DeepSeekError               1   the root; catch this one
    ├── ConfigError             3   the pipeline file: unknown key, wrong value, bad YAML
    ├── PluginError             4   a plugin is broken, missing, or two claim one thing
    │   ├── IncompatiblePluginError  it is written for another version of the plugin API
    │   └── HookError           5   a plugin raised inside a hook, or in a scheduler or codec that it made
    ├── PlanError               6   no plugin can do what the pipeline asks for
    │   └── MissingLibraryError 7   the plugin is there, its engine's library is not
    ├── ModelNotFoundError      8   the model's file or folder does not exist
    ├── ModelError              9   the model's file is corrupt or not what it claims to be
    │   └── UnsafeModelError   10   loading it would run code that the file carries
    ├── DeviceError            11   the device does not exist or can't be used
    ├── InputError             12   an input has the wrong name, shape, dtype or file type
    │   └── InputNotFoundError 13   an input file does not exist
    ├── ExecutionError         14   the engine failed while it computed
    ├── OutOfMemoryError       15   a model or a batch does not fit
    ├── OutputError            16   a result can't be written: disk full, no permission
    └── UnavailableError       17   the pipeline can't take the request now
        ├── ClosedError             it is closed
        ├── QueueFullError          its queue is at its limit
        └── DeadlineError           the request's deadline passed before it was executed

0 is success, 2 a wrong command line (click's), 130 an interrupt, 70 a fault of ours (EX_SOFTWARE).
"""

from __future__ import annotations

from typing import ClassVar


class DeepSeekError(Exception):
    r"""What went wrong, where, and the way out.

    Args:
        what: one sentence that names the thing and the fault.
        where: ``file:line:column``, a path or a plugin; empty when `what` says it.
        hint: what the reader can do about it.

    Example:
        >>> str(DeepSeekError("`a` is unknown", where="p.yaml:3:1", hint="remove it"))
        'p.yaml:3:1: `a` is unknown\n  fix: remove it'
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  fix: {self.hint}" if self.hint else head


class Interruption(BaseException):
    """The program is asked to end: as a KeyboardInterrupt nobody's fault, and nobody's to swallow."""


#: What passes through every place where a plugin's exceptions are caught.
NOBODYS_FAULT = (KeyboardInterrupt, GeneratorExit, Interruption)


class ConfigError(DeepSeekError):
    """The pipeline's configuration is wrong."""

    exit_code = 3


class PluginError(DeepSeekError):
    """A plugin is broken, missing, incompatible, or in conflict with another."""

    exit_code = 4


class IncompatiblePluginError(PluginError):
    """A plugin is written for another version of the plugin API."""


class HookError(PluginError):
    """A plugin raised inside a hook, or in a scheduler or codec that it made; the cause is chained."""

    exit_code = 5


class PlanError(DeepSeekError):
    """No installed plugin can do what the pipeline asks for."""

    exit_code = 6


class MissingLibraryError(PlanError):
    """A plugin is installed but the library that it drives is not."""

    exit_code = 7


class ModelNotFoundError(DeepSeekError):
    """The model's file or folder does not exist."""

    exit_code = 8


class ModelError(DeepSeekError):
    """The model can't be loaded or converted."""

    exit_code = 9


class UnsafeModelError(ModelError):
    """Loading the model would execute code that its file carries."""

    exit_code = 10


class DeviceError(DeepSeekError):
    """The device does not exist on this machine or can't be used."""

    exit_code = 11


class InputError(DeepSeekError):
    """An input has the wrong name, shape, dtype or file type."""

    exit_code = 12


class InputNotFoundError(InputError):
    """An input file does not exist."""

    exit_code = 13


class ExecutionError(DeepSeekError):
    """The engine failed while it computed."""

    exit_code = 14


class OutOfMemoryError(DeepSeekError):
    """A model or a batch does not fit into the device's memory."""

    exit_code = 15


class OutputError(DeepSeekError):
    """A result can't be written."""

    exit_code = 16


class UnavailableError(DeepSeekError):
    """The pipeline can't take the request now."""

    exit_code = 17


class ClosedError(UnavailableError):
    """The pipeline is closed."""


class QueueFullError(UnavailableError):
    """The scheduler's queue is at its limit."""


class DeadlineError(UnavailableError):
    """The request's deadline passed before it was executed."""
