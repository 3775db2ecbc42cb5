"""`deepseek keys`: make API keys, list them, take them back."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def keys() -> None:
    """Manage the file of API keys that `server.keys` names."""


@keys.command()
@FILE
@click.option("--tenant", required=True, help="Who is billed.")
@click.option("--admin", is_flag=True, help="May make the administrative calls that the server allows.")
@click.option("--rate", type=click.FloatRange(min=0), default=0.0, help="Requests per second; 0: any number.")
@click.option("--burst", type=click.FloatRange(min=0), default=0.0, help="Requests at once beyond that.")
def add(file: Path, tenant: str, admin: bool, rate: float, burst: float) -> None:
    """Make a key and print it: it is kept nowhere, FILE holds its hash."""
    from deepseek_serving import keys as made

    click.echo(made.add(file, tenant, admin=admin, rate=rate, burst=burst))


@keys.command(name="list")
@FILE
def list_(file: Path) -> None:
    """List the keys by their ids."""
    from deepseek_serving import keys as made

    keys = made.read(file)
    for key in keys:
        # The tenant's: with all of its keys.
        rates = [other.rate for other in keys if other.tenant == key.tenant and other.rate]
        rate = f"{min(rates):g}/s" if rates else "any rate"
        click.echo(f"{key.id}  {key.tenant}  {rate}{'  admin' if key.admin else ''}")


@keys.command()
@FILE
@click.argument("name")
def remove(file: Path, name: str) -> None:
    """Take the key with the id NAME back; servers notice within seconds."""
    from deepseek_serving import keys as made

    made.remove(file, name)
