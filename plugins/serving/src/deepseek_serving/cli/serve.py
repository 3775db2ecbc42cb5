"""`deepseek serve`: put a pipeline, or a folder of them, on the network."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--host", help="The address to listen on (127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="The port of HTTP (8000); 0: any free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="The port of gRPC (8001); 0: any free one.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that share the port (1).")
@click.option("--name", default="", help="What clients call the model; for a single pipeline.")
@click.option("--config", type=click.Path(path_type=Path), help="Settings of the server (SOURCE/server.yaml).")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one key, e.g. --set server.watch=5s.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def serve(
    source: Path, host: str | None, port: int | None, grpc_port: int | None, workers: int | None,
    name: str, config: Path | None,
    overrides: tuple[str, ...], log_level: str,
) -> int:  # fmt: skip
    """Serve SOURCE, a pipeline file or a folder of pipelines, over HTTP and gRPC.

    Ends on SIGTERM or Ctrl-C, when what is in flight is answered.
    """
    from deepseek_serving.process import run

    given = {"server.host": host, "server.http.port": port, "server.grpc.port": grpc_port, "server.workers": workers}
    flags = tuple(f"{key}={value}" for key, value in given.items() if value is not None)
    return run(source, name=name, config=config, overrides=(*overrides, *flags), log_level=log_level)
