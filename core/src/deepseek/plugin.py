"""Everything that a plugin's author imports; light: no heavy library comes with it.

Example:
    >>> from deepseek.plugin import Decline, Engine, Loader, Settings, hookimpl
"""

from __future__ import annotations

from importlib.util import find_spec

import pluggy

from deepseek.checks import stated_signature
from deepseek.config import Config
from deepseek.errors import (
    ClosedError,
    ConfigError,
    DeadlineError,
    DeepSeekError,
    DeviceError,
    ExecutionError,
    HookError,
    InputError,
    InputNotFoundError,
    MissingLibraryError,
    ModelError,
    ModelNotFoundError,
    OutOfMemoryError,
    OutputError,
    PlanError,
    PluginError,
    QueueFullError,
    UnavailableError,
    UnsafeModelError,
)
from deepseek.files import atomic_write, output_errors
from deepseek.gate import Gate
from deepseek.offers import Coding, Decline, Engine, Loader, Pass, Policy, Stage, Wrapper
from deepseek.protocols import Codec, Executor, Observer, Request, Scheduler, Sink
from deepseek.reader import read_settings
from deepseek.settings import ModelSettings, Settings
from deepseek.types import (
    ANY,
    HOST,
    NO_OPTIONS,
    Array,
    Batch,
    Device,
    Model,
    Options,
    Share,
    Signature,
    Source,
    Tensors,
    TensorSpec,
)
from deepseek.units import Duration, Percent, Size
from deepseek.versions import API

#: Marks a function of a plugin's ``hooks`` module as the implementation of the hook of its name.
hookimpl = pluggy.HookimplMarker("deepseek")


def library_missing(module: str, plugin: str, *flavours: str) -> Decline | None:
    """A Decline that says what to install when an engine's library is absent; None when it is there.

    Args:
        module: the library's import name; it is looked for, not imported.
        plugin: the plugin's distribution.
        flavours: the distribution's extras that bring the library, the default first.

    Example:
        >>> library_missing("no_such_library", "deepseek-acme", "cpu", "gpu").missing
        'no_such_library'
    """
    if find_spec(module) is not None:
        return None
    ways = " or ".join(f"pip install '{plugin}[{flavour}]'" for flavour in flavours)
    return Decline(f"its library `{module}` is not installed: {ways}", missing=module)


__all__ = [
    "ANY",
    "API",
    "HOST",
    "NO_OPTIONS",
    "Array",
    "Batch",
    "ClosedError",
    "Codec",
    "Coding",
    "Config",
    "ConfigError",
    "DeadlineError",
    "Decline",
    "DeepSeekError",
    "Device",
    "DeviceError",
    "Duration",
    "Engine",
    "ExecutionError",
    "Executor",
    "Gate",
    "HookError",
    "InputError",
    "InputNotFoundError",
    "Loader",
    "MissingLibraryError",
    "Model",
    "ModelError",
    "ModelNotFoundError",
    "ModelSettings",
    "Observer",
    "Options",
    "OutOfMemoryError",
    "OutputError",
    "Pass",
    "Percent",
    "PlanError",
    "PluginError",
    "Policy",
    "QueueFullError",
    "Request",
    "Scheduler",
    "Settings",
    "Share",
    "Signature",
    "Sink",
    "Size",
    "Source",
    "Stage",
    "TensorSpec",
    "Tensors",
    "UnavailableError",
    "UnsafeModelError",
    "Wrapper",
    "atomic_write",
    "hookimpl",
    "library_missing",
    "output_errors",
    "read_settings",
    "stated_signature",
]
