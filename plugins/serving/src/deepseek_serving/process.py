"""The server as a process: settings, signals, logs, and the one event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import deepseek
from deepseek.plugin import ConfigError, read_settings
from deepseek_serving.allocator import tune
from deepseek_serving.folder import NAME, SERVER, Folder, OneFile, Tree
from deepseek_serving.http.browsers import loopback
from deepseek_serving.opening import PLUGIN
from deepseek_serving.server import Server
from deepseek_serving.settings import ServerSettings, to_plain

logger = logging.getLogger("deepseek.serving")


def run(source: Path, *, name: str, config: Path | None, overrides: Sequence[str], log_level: str) -> int:
    """Serve until a signal ends it; the exit code."""
    log_to_stderr(log_level)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder, settings, rest = places(source, name=name, config=config, overrides=overrides)
    if not settings.keys and not loopback(settings.host):
        logger.warning("%s is listened on, and no keys are needed: whoever reaches it may ask", settings.host)
    if settings.workers > 1:
        # Not where they were read from: a worker that is started later is to be as the others.
        start = {
            "source": str(source), "name": name, "settings": to_plain(settings), "overrides": list(rest),
            "log_level": log_level,
        }  # fmt: skip
        return _supervise(settings, start)
    tune()
    run_on_loop(_serve(Server(settings, folder, rest)))
    leave(0)
    return 0


def _supervise(settings: ServerSettings, start: dict[str, Any]) -> int:
    """Serve with several workers, which are told how to start."""
    from deepseek_serving.workers.supervisor import Supervisor

    codes: list[int] = []

    async def supervise() -> None:
        codes.append(await Supervisor(settings, start).run())

    run_on_loop(supervise())
    return codes[0]


def log_to_stderr(level: str) -> None:
    """Where logs go, from a level on."""
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    # Its words about clients that go, or send no TLS, are many. What matters comes to `_unforeseen`.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def settle_memory() -> None:
    """Keep what was made by now out of collections of garbage: it stays, and a look at it all stops the loop."""
    gc.collect()
    gc.freeze()


def announce(models: str, host: str, port: int, grpc_port: int, *, tls: bool, more: str = "") -> None:
    """Say that the server is ready, and where: the line that scripts wait for."""
    host = f"[{host}]" if ":" in host else host
    grpc = f" and grpc://{host}:{grpc_port}" if grpc_port else ""
    print(f"serving {models} on {'https' if tls else 'http'}://{host}:{port}{grpc}{more}", flush=True)  # noqa: T201


def places(
    source: Path, *, name: str = "", config: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[Folder, ServerSettings, tuple[str, ...]]:
    """What to serve, how, and which overrides are the pipelines'. Raises ConfigError and what `explain` raises."""
    own = [override for override in overrides if override.startswith("server.")]
    rest = tuple(override for override in overrides if override not in own)
    if name and not NAME.fullmatch(name):
        raise ConfigError(f"`{name}` can't be a model's name", hint="letters, digits, `_`, `-` and `.`")
    if source.is_dir():
        if name:
            raise ConfigError("--name is for a single pipeline", hint="models of a folder have the names of its files")
        file = config or (source / SERVER if (source / SERVER).is_file() else None)
        settings = _settings(file, own)
    elif config:
        settings = _settings(config, own)
    else:
        settings = deepseek.explain(source, overrides=overrides, enable=[PLUGIN]).config[ServerSettings]
    return folder_of(source, name, settings), settings, rest


def folder_of(source: Path, name: str, settings: ServerSettings) -> Folder:
    """Where the pipelines are: in a folder, or a single one, which clients call by the name."""
    return Tree(source, settings) if source.is_dir() else OneFile(source, name)


def _settings(file: Path | None, overrides: Sequence[str]) -> ServerSettings:
    return read_settings({} if file is None else file, "server", ServerSettings, overrides)


def run_on_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on the fastest event loop that there is."""
    try:
        import uvloop
    except ImportError:
        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(_unforeseen)
        runner.run(main)


def _unforeseen(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong where nobody waits for it; what clients do to their connections is no news."""
    error = context.get("exception")
    if error is not None and not isinstance(error, OSError):
        logger.error("%s", context["message"], exc_info=error)


async def _serve(server: Server) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)

    async def start() -> None:
        await server.start()
        check_models(server)
        settle_memory()
        announce(server.names(), server.settings.host, server.http_port, server.grpc_port, tls=server.tls is not None)

    try:
        await until(start(), ended)
    finally:
        await server.stop()


def check_models(server: Server) -> None:
    """Raises ConfigError where no model could be loaded, and nobody may change that while the server runs."""
    settings, repository = server.settings, server.repository
    if repository.failed and not any(repository) and not settings.watch and "load" not in settings.allow:
        hint = "what is wrong stands above; `server.watch` or `server.allow: [load]` would let it be mended meanwhile"
        raise ConfigError("no model could be loaded", hint=hint)


async def until(start: Coroutine[Any, Any, None], ended: asyncio.Event) -> None:
    """Start, and serve until the end, which may come while it still starts. Raises what `start` does."""
    loop = asyncio.get_running_loop()
    starting, waiting = loop.create_task(start), loop.create_task(ended.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not ended.is_set():
            await starting
            await waiting
    finally:
        for task in (starting, waiting):
            task.cancel()
        await asyncio.gather(starting, waiting, return_exceptions=True)


def leave(code: int) -> None:
    """End the process at once where threads are left in native code, which the interpreter's own end would abort."""
    if any(thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
