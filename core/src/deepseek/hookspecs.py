"""The hooks: every point at which a plugin joins in, each with a whole example.

Hooks run when a pipeline is built or explained, never per request. They answer with records
(`deepseek.offers`) whose callables do the work later, so an answer must be cheap: no model is read and no
heavy library imported before the kernel calls the record. Implementations take any subset of a hook's
arguments, by name, and may not give them defaults. ``@hookimpl(tryfirst=True)`` and ``trylast=True``
move an answer forward or back; otherwise plugins answer in the order of their names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from deepseek.config import Config
    from deepseek.offers import Coding, Decline, Engine, Loader, Pass, Policy, Wrapper
    from deepseek.protocols import Observer
    from deepseek.settings import Settings
    from deepseek.types import Device, Source

hookspec = pluggy.HookspecMarker("deepseek")


@hookspec
def sections() -> dict[str, type[Settings]]:
    """Name the configuration sections that the plugin owns. Called once, before the file is checked.

    All answers are collected; a section with two owners is an error that names both.

    Returns:
        Section name to `Settings` class.

    Example:
        >>> class AcmeSettings(Settings):
        ...     threads: int = 0
        >>> @hookimpl
        ... def sections():
        ...     return {"acme": AcmeSettings}
    """


@hookspec
def probe(config: Config) -> list[Device]:
    """State which devices the plugin finds. The kernel always knows ``cpu`` and chooses by `device:`.

    All answers are collected; what several plugins know of a device of one name is put together, the first known
    value of each fact counts (0 bytes: not known). Probe only what `config.kernel.device` asks for when probing is
    expensive.

    Returns:
        Devices with their memory and facts; an empty list when there are none.

    Example:
        >>> @hookimpl
        ... def probe(config):
        ...     return [Device("acme:0", "acme", memory_bytes=2**34, available_bytes=2**34)]
    """


@hookspec
def load(source: Source, device: Device, config: Config) -> Loader | Decline | None:
    """Offer to load the model. Called once, with a source that exists.

    All answers are collected; the kernel takes the first Loader whose format the wanted engine executes,
    else the first. None: the source is nothing of mine. Decline: it looks like mine, but.

    Example:
        >>> @hookimpl
        ... def load(source):
        ...     if source.path.suffix != ".acme":
        ...         return None
        ...     return Loader("acme file", "acme", lambda: read_acme(source), source.size_bytes)
    """


@hookspec
def optimize(source: Source, device: Device, config: Config) -> Pass | Decline | list[Pass | Decline] | None:
    """Offer steps that turn the loaded model into a better one, or into one of another format.

    All answers are collected and folded one into the next, by stage (REWRITE < QUANTIZE < SHARD <
    COMPILE) and then by name. A pass of stage CONVERT runs only where a format has to be bridged; the kernel
    takes the shortest chain and checks the converted model against the original on random input. Decline: I would, but.

    Example:
        >>> @hookimpl
        ... def optimize(config):
        ...     if not config.given("acme_prune"):
        ...         return None
        ...     return Pass("acme-prune", Stage.REWRITE, frozenset({"torch"}), lambda model, folder: prune(model))
    """


@hookspec
def execute(device: Device, config: Config) -> Engine | Wrapper | Decline | None:
    """Offer an engine for models of some formats, or a wrapper around whichever executor is opened.

    All answers are collected. `engine:` selects by name; without it the kernel takes the first engine that
    executes the model's format as it is. Wrappers are applied in order, the first innermost.

    Example:
        >>> @hookimpl
        ... def execute(device, config):
        ...     if device.kind != "cpu":
        ...         return Decline(f"acme runs on the CPU only, not on {device.name}")
        ...     return Engine("acme", frozenset({"acme"}), AcmeExecutor)
    """


@hookspec
def schedule(config: Config) -> Policy | None:
    """Offer a scheduling policy. The first Policy counts; the built-in ``fifo`` answers last.

    Example:
        >>> @hookimpl
        ... def schedule(config):
        ...     if not config.given("acme_queue"):
        ...         return None
        ...     return Policy("acme-queue", lambda executors: AcmeScheduler(executors))
    """


@hookspec
def observe(config: Config) -> Observer | None:
    """Watch executed batches. Called when the pipeline is built, not when it is explained.

    All answers are collected; each observer is called once a batch, on the executing thread.

    Example:
        >>> @hookimpl
        ... def observe(config):
        ...     return RowCounter()
    """


@hookspec
def codec(source: Source, config: Config) -> Coding | None:
    """Offer to turn photographs, text and files into tensors, and outputs into answers. The first counts.

    Example:
        >>> @hookimpl
        ... def codec(config):
        ...     return Coding("acme-audio", lambda signature: AudioCodec(signature))
    """


@hookspec
def commands(app: click.Group) -> None:
    """Add verbs to the command ``deepseek``. Called when a verb that the core does not have is asked for.

    Example:
        >>> @hookimpl
        ... def commands(app):
        ...     @app.command("acme")
        ...     def acme():
        ...         "Say hello."
        ...         print("hello")
    """


#: The hooks' names in the order in which a build calls them.
NAMES = ("sections", "probe", "load", "optimize", "execute", "schedule", "codec", "observe", "commands")
