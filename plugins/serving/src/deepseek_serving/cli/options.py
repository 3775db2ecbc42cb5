"""Options that the commands which talk to a server share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def server(command: F) -> F:
    """Where the server is, and how it is spoken to."""
    ca = click.option("--ca", type=click.Path(path_type=Path), help="Authority of the server's certificate, PEM.")
    # From the environment, because command lines are seen by everybody on a machine.
    key = click.option("--key", default="", envvar="DEEPSEEK_API_KEY", help="API key ($DEEPSEEK_API_KEY).")
    return click.argument("url")(key(ca(command)))
