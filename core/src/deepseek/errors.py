"""Every error that DeepSeek raises on purpose, and the exit code each one ends a command with.

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
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  fix: {self.hint}" if self.hint else head


class Interruption(BaseException):
    """The program is asked to end: as a KeyboardInterrupt nobody's fault, and nobody's to swallow."""


#: What passes through every place where a plugin's exceptions are caught.
NOBODYS_FAULT = (KeyboardInterrupt, GeneratorExit, Interruption)


class ConfigError(DeepSeekError):
    """The pipeline's configuration is wrong.

    Example:
        >>> deepseek.build({"modle": "model.onnx"})
        Traceback (most recent call last):
        deepseek.errors.ConfigError: <dict>: `modle` is not a known key
          fix: did you mean `model`?
    """

    exit_code = 3


class PluginError(DeepSeekError):
    """A plugin is broken, missing, incompatible, or in conflict with another.

    Example:
        >>> deepseek.build({"model": "model.onnx", "plugins": {"enable": ["acme"]}})
        Traceback (most recent call last):
        deepseek.errors.PluginError: <dict>: `plugins.enable` names `acme`, which is not an installed plugin...
    """

    exit_code = 4


class IncompatiblePluginError(PluginError):
    """A plugin is written for another version of the plugin API."""


class HookError(PluginError):
    """A plugin raised inside a hook, or in a scheduler or codec that it made; the cause is chained.

    Example:
        >>> HookError("deepseek-acme 1.0 raised in its hook `load`", hint="report it to the author").exit_code
        5
    """

    exit_code = 5


class PlanError(DeepSeekError):
    """No installed plugin can do what the pipeline asks for.

    Example:
        >>> deepseek.build({"model": "model.onnx", "engine": "acme"})
        Traceback (most recent call last):
        deepseek.errors.PlanError: <dict>: there is no engine `acme`...
    """

    exit_code = 6


class MissingLibraryError(PlanError):
    """A plugin is installed but the library that it drives is not.

    Example:
        >>> MissingLibraryError("TVM is not installed", hint="pip install apache-tvm").exit_code
        7
    """

    exit_code = 7


class ModelNotFoundError(DeepSeekError):
    """The model's file or folder does not exist.

    Example:
        >>> deepseek.build({"model": "modle.onnx"})
        Traceback (most recent call last):
        deepseek.errors.ModelNotFoundError: <dict>: there is no model at ...modle.onnx...
    """

    exit_code = 8


class ModelError(DeepSeekError):
    """The model can't be loaded or converted.

    Example:
        >>> deepseek.build({"model": "broken.onnx"})
        Traceback (most recent call last):
        deepseek.errors.ModelError: ...broken.onnx: ...
    """

    exit_code = 9


class UnsafeModelError(ModelError):
    """Loading the model would execute code that its file carries.

    Example:
        >>> issubclass(UnsafeModelError, ModelError), UnsafeModelError.exit_code
        (True, 10)
    """

    exit_code = 10


class DeviceError(DeepSeekError):
    """The device does not exist on this machine or can't be used.

    Example:
        >>> deepseek.build({"model": "model.onnx", "device": "acme:0"})
        Traceback (most recent call last):
        deepseek.errors.DeviceError: <dict>: there is no device `acme:0` on this machine...
    """

    exit_code = 11


class InputError(DeepSeekError):
    """An input has the wrong name, shape, dtype or file type.

    Example:
        >>> pipeline.run(x=array)
        Traceback (most recent call last):
        deepseek.errors.InputError: the model has no input `x`...
    """

    exit_code = 12


class InputNotFoundError(InputError):
    """An input file does not exist.

    Example:
        >>> pipeline.predict("dog.jpg")
        Traceback (most recent call last):
        deepseek.errors.InputNotFoundError: there is no file dog.jpg
    """

    exit_code = 13


class ExecutionError(DeepSeekError):
    """The engine failed while it computed.

    Example:
        >>> ExecutionError("ONNX Runtime failed: an index is out of range").exit_code
        14
    """

    exit_code = 14


class OutOfMemoryError(DeepSeekError):
    """A model or a batch does not fit into the device's memory.

    Example:
        >>> OutOfMemoryError("a batch of 64 rows does not fit", hint="send a smaller batch").exit_code
        15
    """

    exit_code = 15


class OutputError(DeepSeekError):
    """A result can't be written.

    Example:
        >>> str(OutputError("the disk is full", where="answers.npz"))
        'answers.npz: the disk is full'
    """

    exit_code = 16


class UnavailableError(DeepSeekError):
    """The pipeline can't take the request now.

    Example:
        >>> [kind.__name__ for kind in UnavailableError.__subclasses__()]
        ['ClosedError', 'QueueFullError', 'DeadlineError']
    """

    exit_code = 17


class ClosedError(UnavailableError):
    """The pipeline is closed.

    Example:
        >>> closed = deepseek.build("pipeline.yaml")
        >>> closed.close()
        >>> closed.run(image=array)
        Traceback (most recent call last):
        deepseek.errors.ClosedError: the pipeline is closed
    """


class QueueFullError(UnavailableError):
    """The scheduler's queue is at its limit.

    Example:
        >>> QueueFullError("1024 requests are waiting already", hint="send fewer at a time").exit_code
        17
    """


class DeadlineError(UnavailableError):
    """The request's deadline passed before it was executed.

    Example:
        >>> pipeline.run({"image": array}, Options(deadline=0))
        Traceback (most recent call last):
        deepseek.errors.DeadlineError: the deadline passed before the request was executed
    """
