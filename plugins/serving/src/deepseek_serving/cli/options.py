"""Options that the commands which talk to a server share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


def server(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the server is, and how it is spoken to: the command is given a `client`."""

    @wraps(command)
    def run(
        url: str, key: str, ca: Path | None, cert: Path | None, cert_key: Path | None, **given: Any
    ) -> Any:  # fmt: skip
        from deepseek_serving.cli.asking import Client

        return command(client=Client(url, key, ca, cert, cert_key), **given)

    file = click.Path(path_type=Path)
    for option in (
        click.option("--cert-key", type=file, help="The key of --cert, PEM, where it is not in the same file."),
        click.option("--cert", type=file, help="Your own certificate, PEM, for servers that want one."),
        click.option("--ca", type=file, help="Authority of the server's certificate, PEM."),
        # From the environment, because command lines are seen by everybody on a machine.
        click.option("--key", default="", envvar="DEEPSEEK_API_KEY", help="API key ($DEEPSEEK_API_KEY)."),
        click.argument("url"),
    ):
        run = option(run)
    return run
