"""The server: everything that one process serves, put together and taken apart in order."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import psutil
from starlette.requests import Request

from deepseek.plugin import Options
from deepseek_serving.access import AccessLog
from deepseek_serving.admin import Admin
from deepseek_serving.asking import Trace
from deepseek_serving.bodies import Memory
from deepseek_serving.errors import Refusals
from deepseek_serving.folder import Folder
from deepseek_serving.gatekeeper import Gatekeeper
from deepseek_serving.handover import Handover
from deepseek_serving.http.application import application
from deepseek_serving.http.browsers import Browsers
from deepseek_serving.http.front import Front
from deepseek_serving.http.infer import InferRoad, seconds
from deepseek_serving.oip import metadata
from deepseek_serving.opening import Plugins
from deepseek_serving.rates import Times
from deepseek_serving.reports import ModelReport, Report
from deepseek_serving.repository import Repository
from deepseek_serving.settings import ServerSettings
from deepseek_serving.threads import off_loop
from deepseek_serving.tls import Tls
from deepseek_serving.tracing import Tell, Tracing
from deepseek_serving.watchdog import Watchdog
from deepseek_serving.watcher import Watcher

if TYPE_CHECKING:
    from deepseek_serving.grpc.carriers import Carrier
    from deepseek_serving.workers.worker import Worker

logger = logging.getLogger("deepseek.serving")

#: How often models are looked after, in seconds.
_TICK = 0.02
#: Seconds that an unload waits for requests in flight, in one process and in several.
_ALONE, _TOGETHER = 60.0, 2.0
#: Seconds that the last traces may take to leave when the server ends.
_TELLING = 2.0


class Server:
    """One process's server. Its methods belong to the event loop.

    Args:
        settings: the section `server`.
        folder: where the pipelines are.
        overrides, plugins: as for `deepseek.build`.
        times: what tenants have used of their rates, in all processes that serve together; None: there is one.
        grpc_port: where all of them listen for gRPC.

    Attributes:
        colleagues: the way to the other processes; None: there are none.
        repository: the models.
        http_port, grpc_port: where it listens; 0: it does not.
        live: it has started, and is not ending.
    """

    def __init__(
        self, settings: ServerSettings, folder: Folder, overrides: Sequence[str] = (), plugins: Plugins = (), *,
        times: Times | None = None, grpc_port: int | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.colleagues: Worker | None = None
        self._times, self._grpc_port = times, grpc_port
        self.started = time.time()
        self.live = False
        self.loading = True
        self.refusals = Refusals()
        self.memory = Memory(settings.limits.memory)
        self.http_port = self.grpc_port = 0
        self._folder, self._overrides, self._plugins = folder, overrides, plugins
        self._tasks: list[asyncio.Task[Any]] = []
        self.tracing = Tracing(settings.tracing) if settings.tracing else None
        self._http: asyncio.Server | None = None
        self._grpc: Carrier | None = None

    async def start(self, *, listen: bool = True, live: Callable[[], None] | None = None) -> None:
        """Listen, then load: health and metrics answer while models load. Raises ConfigError.

        Args:
            listen: whether connections are accepted here; else they are given by a supervisor.
            live: called when health can be asked for; models are loaded then.
        """
        loop = asyncio.get_running_loop()
        self.handover = Handover(loop)
        settings, limits = self.settings, self.settings.limits
        self.repository = Repository(
            self._folder, self.handover, self._overrides, self._plugins, patience=settings.loading
        )  # fmt: skip
        self.tls = Tls(settings.tls) if settings.tls else None
        self.gatekeeper = Gatekeeper(settings.keys, settings.allow, self._times)
        self.admin = Admin(self)
        self._road = InferRoad(
            self.repository, self.gatekeeper, limits, self.memory, compress=settings.http.compress,
            region=self.admin.region, tracing=self.tracing,
        )  # fmt: skip
        self.access = AccessLog() if settings.access_log else None
        browsers = Browsers(settings.host, settings.hosts)
        self.front = Front(self._road, application(self), limits, browsers, self.memory, self.refusals, self.access)
        if listen:
            context = self.tls.context("http/1.1") if self.tls else None
            self._http = await self.front.listen(settings.host, settings.http.port, context)
            self.http_port = self._http.sockets[0].getsockname()[1]
            await self.listen_grpc()
        self.live = True
        self._watchdog = Watchdog(self.repository, settings.stall)
        self._tasks.append(loop.create_task(self._look_after()))
        if live is not None:
            live()
        await self.repository.load_all()
        self.loading = False
        if settings.watch and listen:
            self.watch()

    def watch(self) -> None:
        """Follow the changes of the folder."""
        watcher = Watcher(self.repository, self.everywhere, self.settings.watch)
        self._tasks.append(asyncio.ensure_future(watcher.run()))

    async def listen_grpc(self) -> None:
        """Serve gRPC, too. Raises ConfigError."""
        settings = self.settings
        if settings.grpc is not None:
            # Imported here: a server without gRPC starts without its libraries.
            from deepseek_serving.grpc.carriers import carrier

            self._grpc = carrier(self, settings.grpc.carrier, shared=self._grpc_port is not None)
            self.grpc_port = await self._grpc.start(settings.host, self._grpc_port or settings.grpc.port)

    def trace(self, headers: Iterable[tuple[bytes, bytes]], tell: Tell | None = None) -> Trace | None:
        """What has a request traced whose headers these are, as `Tracing.trace` says; None: nothing is."""
        return None if self.tracing is None else self.tracing.trace(headers, tell)

    def trace_with(self, tracing: Tracing) -> None:
        """Trace by another `Tracing`, in tests."""
        self.tracing = self._road.tracing = tracing

    def options(self, request: Request, count: int = 1) -> Options:
        """What inference requests, so many at once, ask for over one of the slower roads. Raises what `admit` does."""
        headers = request.scope["headers"]
        timeout = request.headers.get("x-request-timeout")
        deadline = None if timeout is None else time.monotonic() + seconds(timeout.encode("latin-1"))
        return Options(deadline, tenant=self.gatekeeper.admit(headers, count) if self.gatekeeper.closed else "")

    async def report(self) -> Report:
        """What all of the server's processes counted."""
        return await self.colleagues.report() if self.colleagues else self.own_report()

    async def do(self, call: str, **arguments: Any) -> None:
        """Do here what changes the server. Raises DeepSeekError."""
        if call == "load":
            await self.repository.load(arguments["name"])
        elif call == "unload":
            # With others all changes wait for this one.
            await self.repository.unload(**arguments, patience=_TOGETHER if self.colleagues else _ALONE)
        else:
            self.admin.change(call, **arguments)

    async def everywhere(self, call: str, **arguments: Any) -> None:
        """Do something in all of the server's processes, even if who asked for it goes. Raises DeepSeekError."""
        do = self.colleagues.everywhere if self.colleagues else self.do
        await asyncio.shield(asyncio.ensure_future(do(call, **arguments)))

    def own_report(self) -> Report:
        """What this process counted."""
        served = {(item.name, item.version): item for item in self.repository}
        models = [
            metadata.report(served[key], counted.counts()) if (key := (name, version)) in served
            else ModelReport(name, version, counted.counts())
            for name, version, counted in self.repository.ever()
        ]  # fmt: skip
        resident = psutil.Process().memory_info().rss
        counted = dict(self.refusals.counts), dict(self.repository.failures)
        return Report(self.started, self.ready, self.front.connections, [resident], models, *counted)

    @property
    def ready(self) -> bool:
        """Whether every model takes requests."""
        return self.live and not self.loading and self.repository.ready

    def names(self) -> str:
        """The models."""
        return ", ".join(f"{served.name}/{served.version}" for served in self.repository) or "no models"

    async def stop(self) -> None:
        """Accept nothing more, finish what is in flight within the deadline, close everything."""
        started, self.live = self.live, False
        if self._http is not None:
            self._http.close()
        if started:
            self.front.drain()
            ending = [self._drained(), *([self._grpc.stop(self.settings.drain)] if self._grpc else [])]
            await asyncio.gather(*ending)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if started:
            self._watchdog.close()
            self.front.close()
            await self.repository.close()
        if self.tracing:
            # A collector that is not there is not waited for.
            await asyncio.wait({off_loop(self.tracing.close, "deepseek-tracing")}, timeout=_TELLING)

    async def _drained(self) -> None:
        end = time.monotonic() + self.settings.drain
        while self.front.waiting and time.monotonic() < end:
            await asyncio.sleep(0.02)
        if self.front.waiting:
            logger.warning("%d requests were not finished after %s", self.front.waiting, self.settings.drain)

    async def _look_after(self) -> None:
        replacing: set[asyncio.Task[None]] = set()
        for turn in itertools.count():
            await asyncio.sleep(_TICK)
            try:
                self._look(replacing, keys=turn % 50 == 0)
            # Whatever it is, models have to be looked after.
            except Exception:
                logger.exception("something went wrong while models were looked after")

    def _look(self, replacing: set[asyncio.Task[None]], *, keys: bool) -> None:
        if keys:
            self.gatekeeper.refresh()
        self.handover.drain()
        self.repository.look_after(self.settings.stall)
        for served in self.repository:
            served.statistics.fold()
            served.consider(self.settings.inline)
            if served.stalled(self.settings.stall):
                task = asyncio.ensure_future(self.repository.replace(served, self.everywhere))
                replacing.add(task)
                task.add_done_callback(replacing.discard)
