"""Who answers: the sections `server` and `serving`, and the verbs that put pipelines on the network."""

from __future__ import annotations

import click

from deepseek.plugin import Settings, hookimpl
from deepseek_serving.settings import ServerSettings, ServingSettings


@hookimpl
def sections() -> dict[str, type[Settings]]:
    return {"server": ServerSettings, "serving": ServingSettings}


@hookimpl
def commands(app: click.Group) -> None:
    from deepseek_serving.cli.serve import serve

    app.add_command(serve)
