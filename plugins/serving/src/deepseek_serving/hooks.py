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
    from deepseek_serving.cli.bench import bench
    from deepseek_serving.cli.infer import infer
    from deepseek_serving.cli.keys import keys
    from deepseek_serving.cli.serve import serve
    from deepseek_serving.cli.usage import usage

    for command in (bench, infer, keys, serve, usage):
        app.add_command(command)
