"""The command ``deepseek``: run, explain, plugins, versions, schema, plugin new; other verbs come from plugins."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import click

from deepseek.errors import ConfigError, DeepSeekError, HookError, Interruption, OutOfMemoryError
from deepseek.files import disk_full, is_full

#: A fault of ours: EX_SOFTWARE of sysexits.h.
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class Terminated(Interruption):
    """The system asked the process to end. Not a SystemExit, which a plugin might have raised.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


#: The core's verbs, and the modules that are imported when one of them is called.
VERBS = {
    "explain": "inspecting", "plugin": "authoring", "plugins": "inspecting", "run": "running",
    "schema": "inspecting", "versions": "inspecting",
}  # fmt: skip


class Verbs(click.Group):
    """Imports a verb of the core when it is called, and asks plugins for theirs when it is none of the core's."""

    asked = False

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in VERBS:
            module = importlib.import_module(f"deepseek.cli.{VERBS[cmd_name]}")
            command: click.Command = getattr(module, cmd_name)
            return command
        self._ask()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._ask()
        return sorted({*VERBS, *super().list_commands(ctx)})

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """As click does, but what is there already is not replaced. Raises HookError."""
        verb = name or cmd.name or ""
        if verb in VERBS or verb in self.commands:
            raise HookError(f"the verb `{verb}` is there already", hint="the plugin's author must choose another name")
        super().add_command(cmd, name)

    def _ask(self) -> None:
        if self.asked:
            return
        self.asked = True
        from deepseek.plugins import discover
        from deepseek.registry import Registry

        plugins = discover()
        # One broken plugin must not take `deepseek --help` away: every one is optional here.
        registry = Registry(plugins, optional=[plugin.name for plugin in plugins])
        try:
            registry.ask("commands", app=self)
        except DeepSeekError as error:
            print(f"warning: {error}", file=sys.stderr)
        for plugin in registry.plugins:
            if plugin.state != "active":
                print(
                    f"warning: without the verbs of {plugin.name}, which is {plugin.state}: {plugin.why}",
                    file=sys.stderr,
                )


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deepseek-core", prog_name="deepseek")
@click.option("--debug", is_flag=True, help="Show a traceback with every error, before or after the verb.")
def app(debug: bool) -> None:
    """Load, optimize, schedule and execute deep-learning models."""
    try:
        Path.cwd()
    except FileNotFoundError as exc:
        raise ConfigError("the working directory was removed", hint="change to one that exists") from exc


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script: runs, reports errors in one way, and exits."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # What is ignored stays ignored: that is what nohup is for. Windows has no SIGHUP.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    _open_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    # Wherever it stands among the arguments.
    debug = "--debug" in given
    try:
        code = _run([argument for argument in given if argument != "--debug"])
    except Terminated as signalled:
        code = signalled.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = _fault(error)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    output = sys.stdout
    try:
        result: Any = app(arguments, standalone_mode=False)
        # A full disk shows only now when standard output is a file.
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except SystemExit:
        if sys.stdout is output:
            raise
        # click puts another one in its place, and exits, when the reader has gone (`deepseek ... | head`).
        _discard_output()
        return 0
    return result if isinstance(result, int) else 0


def _fault(error: Exception) -> int:
    """Report an error; its exit code."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        _discard_output()
        return 0
    known = error if isinstance(error, DeepSeekError) else None
    if isinstance(error, OSError) and is_full(error):
        _discard_output()
        known = disk_full("standard output")
    elif isinstance(error, MemoryError):
        known = OutOfMemoryError("there is not enough memory", hint="use a smaller model or batch")
    known = known or _of_a_plugin(error)
    what = known or f"internal: {type(error).__name__}: {error}\n  fix: report it; --debug shows where"
    print(f"error: {what}", file=sys.stderr)
    return known.exit_code if known else EXIT_BUG


def _of_a_plugin(error: Exception) -> DeepSeekError | None:
    """What a plugin's verb raised is the plugin's, which the traceback ends in."""
    from deepseek.plugins import discover

    owners = {plugin.target.partition(".")[0]: plugin for plugin in discover()}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        owner = owners.get(str(frame.f_globals.get("__name__")).partition(".")[0])
        if owner:
            what = f"{owner} raised: {type(error).__name__}: {error}"
            return HookError(what, hint="report it to the plugin's author; --debug shows where")
    return None


def _open_streams() -> None:
    """Standard streams that were closed (by cron, a daemon) swallow and give nothing; what has no sign is escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(number: int, frame: FrameType | None) -> None:
    """End in order, so that what is half done is undone: exit code 128 + the signal's number, as a shell has it."""
    if _importing(frame):
        # Native libraries abort the process when they meet an exception while they are initialised: later.
        again = threading.Timer(0.05, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise Terminated(number)


def _importing(frame: FrameType | None) -> bool:
    """Whether the command is in the middle of an import."""
    while frame is not None and frame.f_code is not main.__code__:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _discard_output() -> None:
    """Let Python flush what is left at exit without a second error."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
