"""The command ``deepseek``: run, explain, plugins, versions, schema, plugin new; other verbs come from plugins."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from deepseek.cli import authoring, inspecting, running
from deepseek.errors import DeepSeekError
from deepseek.plugins import Registry, discover

#: A fault of ours: EX_SOFTWARE of sysexits.h.
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class PluginCommands(click.Group):
    """Asks plugins for their verbs only when a verb is wanted that the core does not have."""

    asked = False

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None and not self.asked:
            self._ask()
            found = super().get_command(ctx, cmd_name)
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._ask()
        return super().list_commands(ctx)

    def _ask(self) -> None:
        if self.asked:
            return
        self.asked = True
        plugins = discover()
        # One broken plugin must not take `deepseek --help` away: every one is optional here.
        registry = Registry(plugins, optional=[plugin.name for plugin in plugins])
        registry.ask("commands", app=self)


@click.group(cls=PluginCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deepseek-core", prog_name="deepseek")
@click.option("--debug", is_flag=True, help="Show a traceback with every error.")
@click.pass_context
def app(context: click.Context, debug: bool) -> None:
    """Load, optimize, schedule and execute deep-learning models."""
    context.obj = {"debug": debug}


app.add_command(running.run)
app.add_command(inspecting.explain)
app.add_command(inspecting.plugins)
app.add_command(inspecting.versions)
app.add_command(inspecting.schema)
app.add_command(authoring.plugin)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script: runs, reports errors in one way, and exits."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(arguments)
    except DeepSeekError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except Exception as error:
        if debug:
            raise
        code = _fault(error)
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
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
        # click's answer to a reader that has gone (`deepseek ... | head`); nothing is wrong.
        _discard_output()
        return 0
    return result if isinstance(result, int) else 0


def _fault(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        _discard_output()
        return 0
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        print(
            "error: the output can't be written: the disk is full\n  fix: free space or write elsewhere",
            file=sys.stderr,
        )
        return 16
    if isinstance(error, MemoryError):
        print("error: there is not enough memory\n  fix: use a smaller model or batch", file=sys.stderr)
        return 15
    print(f"error: internal: {type(error).__name__}: {error}\n  fix: report it; --debug shows where", file=sys.stderr)
    return EXIT_BUG


def _discard_output() -> None:
    """Let Python flush what is left at exit without a second error."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
