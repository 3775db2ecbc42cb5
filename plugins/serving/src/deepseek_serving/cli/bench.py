"""`deepseek bench`: how much a server carries, and how quickly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepseek.plugin import DeepSeekError
from deepseek_serving.cli import options

if TYPE_CHECKING:
    from deepseek_serving.cli.asking import Client


@click.command()
@options.server
@click.argument("model")
@click.option("--clients", type=click.IntRange(1, 4096), help="Closed loop: each asks anew when it has its answer.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Open loop: requests per second.")
@click.option("--constant", is_flag=True, help="Open loop: at equal distances (default: a Poisson process).")
@click.option("--slo", metavar="p99<50ms", help="Open loop: find the highest rate that keeps this.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=5.0, help="How long each load lasts (5).")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1,3,8,8", help="An input's shape, where it is open.")
@click.option("--binary", is_flag=True, help="Send and receive binary tensors.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the results as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw latency against rate (.png, .svg).")
def bench(
    client: Client, model: str, clients: int | None, rate: float | None, constant: bool,
    slo: str | None, seconds: float, shapes: tuple[str, ...], binary: bool, output: Path | None, plot: Path | None,
) -> None:  # fmt: skip
    """Put load on MODEL on the server at URL: a closed loop, an open one, or one that is ramped up.

    Latencies of open loops count from the time when a request was due, so that a server's stall is not left out.
    """
    from deepseek_serving.bench import result as results_of
    from deepseek_serving.bench import run

    _check(clients, rate, slo, constant, [output, plot])
    target = run.target(client, model, dict(map(_shape, shapes)), binary=binary)
    results: list[Any] = []

    def keep(result: Any) -> None:
        results.append(result)
        click.echo(results_of.line(result))

    about: dict[str, Any] = {"url": client.url, "model": model, "request_bytes": len(target.request), "binary": binary}
    if slo is not None:
        goal = run.Goal.parse(slo)
        for result in run.ramp(target, goal, seconds, poisson=not constant):
            keep(result)
        about["slo"], about["highest_rate"] = slo, run.best(results, goal)
        click.echo(f"highest rate that keeps {slo}: {about['highest_rate']:g}/s")
    elif rate is not None:
        keep(run.opened(target, rate, seconds, poisson=not constant))
    else:
        for count in [clients] if clients else [1, 8, 32, 64]:
            keep(run.closed(target, count, seconds))
    if not any(result.requests for result in results):
        raise DeepSeekError("not one request was answered as it should be", hint="`deepseek infer` shows the message")
    if output:
        results_of.write(output, about, results)
    if plot:
        results_of.plot(plot, f"{model}, {client.url}", results)


def _shape(text: str) -> tuple[str, list[int]]:
    name, _, sizes = text.partition("=")
    try:
        found = [int(size) for size in sizes.split(",")]
        if not name or min(found) < 0:
            raise ValueError(text)
        return name, found
    except ValueError:
        raise click.BadParameter(f"`{text}` is no shape: write NAME=1,3,224,224") from None


def _check(
    clients: int | None, rate: float | None, slo: str | None, constant: bool, files: list[Path | None]
) -> None:  # fmt: skip
    """What is wrong is said before the load, not after it."""
    if sum(item is not None for item in (clients, rate, slo)) > 1:
        raise click.UsageError("--clients, --rate and --slo exclude one another")
    if constant and rate is None and slo is None:
        raise click.UsageError("--constant is for open loops: give --rate or --slo")
    plot = files[1]
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise click.UsageError(f"`{plot}`: plots are .png, .svg or .pdf")
    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise click.UsageError(f"there is no folder `{file.parent}` to write to")
