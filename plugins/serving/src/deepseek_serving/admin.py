"""What is told of the server, and changed in it, whichever protocol asks."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from deepseek.plugin import InputError
from deepseek_serving.errors import UnsupportedError
from deepseek_serving.gatekeeper import Caller
from deepseek_serving.oip import metadata
from deepseek_serving.oip.requests import Region
from deepseek_serving.reports import Report
from deepseek_serving.shared_memory import SharedMemory
from deepseek_serving.statistics import SIZES, TIMES

if TYPE_CHECKING:
    from deepseek_serving.server import Server
    from deepseek_serving.tracing import Tracing

logger = logging.getLogger("deepseek")


class Admin:
    """Statistics, usage, settings and shared memory of a server.

    Args:
        server: whose.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._shared = SharedMemory()

    def allow(self, what: str, caller: Caller) -> None:
        """Raises ForbiddenError unless an administrative call is open to the caller."""
        self._server.gatekeeper.allow(what, caller)

    def index(self, *, ready: bool) -> list[dict[str, Any]]:
        """The repository's index, or the part of it that takes requests."""
        rows = self._server.repository.index()
        return [row for row in rows if row["state"] == "READY"] if ready else rows

    async def statistics(self, name: str, version: str) -> dict[str, Any]:
        """What was counted of a version, of all versions of a model, or of all models."""
        if name:
            self._server.repository.find(name, version)
        report = await self._server.report()
        wanted = [model for model in report.served if name in ("", model.name) and version in ("", model.version)]
        return {"model_stats": [metadata.statistics(model) for model in wanted]}

    async def usage(self, tenant: str | None = None) -> dict[str, Any]:
        """What each tenant used since the server started; of one tenant where it is named."""
        report = await self._server.report()
        return {"since": report.started, "usage": usage_rows(report, tenant)}

    async def state(self) -> dict[str, Any]:
        """Everything that the dashboard shows, as counts since the start."""
        report = await self._server.report()
        return {
            "now": time.time(), "started": report.started, "ready": report.ready, "connections": report.connections,
            "resident_bytes": report.resident_bytes, "server": metadata.server(), "bounds": TIMES, "sizes": SIZES,
            # Who used them is for those to know who may: see `usage`.
            "models": [_without_usage(msgspec.to_builtins(model)) for model in report.served],
            "index": self._server.repository.index(),
        }  # fmt: skip

    def memory(self, caller: Caller) -> SharedMemory:
        """The shared memory. Raises ForbiddenError."""
        self.allow("shared_memory", caller)
        return self._shared

    def region(self, tenant: str) -> Region | None:
        """Gives bytes of a tenant's shared memory; None where that is not allowed."""
        allowed = "shared_memory" in self._server.settings.allow
        return partial(self._shared.region, tenant) if allowed else None

    async def log_settings(self, given: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Change what is logged, and tell it, in the words of the protocol's extension "logging"."""
        if given:
            self.allow("settings", caller)
            await self._server.everywhere("log", given=given)
        return _log_settings()

    async def trace_settings(self, given: dict[str, list[str]], caller: Caller) -> dict[str, list[str]]:
        """Change what is traced, and tell it, in the words of the protocol's extension "trace"."""
        if given:
            self.allow("settings", caller)
            await self._server.everywhere("trace", given=given)
        tracing = self._server.tracing
        on, rate = (tracing.on, tracing.rate) if tracing else (False, 0)
        return {
            "trace_level": ["TIMESTAMPS" if on else "OFF"], "trace_rate": [str(rate)], "trace_count": ["-1"],
            "trace_mode": ["opentelemetry"],
        }  # fmt: skip

    def change(self, what: str, **arguments: Any) -> None:
        """Change something in this process: ``register`` or ``unregister`` shared memory, ``log`` or ``trace``.

        Raises:
            InputError, UnsupportedError: the change can't be made.
        """
        if what == "log":
            _set_logging(arguments["given"])
        elif what == "trace":
            _set_tracing(self._server.tracing, dict(arguments["given"]))
        else:
            getattr(self._shared, what)(**arguments)


def _set_logging(given: dict[str, Any]) -> None:
    current = _log_settings()
    for name, value in given.items():
        if name not in current:
            raise InputError(f"there is no log setting `{name}`", hint=f"known: {', '.join(current)}")
        if name in ("log_file", "log_format") and value != current[name]:
            raise UnsupportedError(f"`{name}` can't be changed: logs go to standard error")
        if type(value) is not type(current[name]):
            raise InputError(f"`{name}` is a {type(current[name]).__name__}")
    logger.setLevel(_level({**current, **given}))


def _set_tracing(tracing: Tracing | None, given: dict[str, list[str]]) -> None:
    if tracing is None:
        raise UnsupportedError("traces have nowhere to go", hint="set `server.tracing` and start the server anew")
    level, one_of = given.pop("trace_level", None), given.pop("trace_rate", None)
    if given:
        raise UnsupportedError(f"`{next(iter(given))}` can't be changed", hint="trace_level and trace_rate can")
    if one_of is not None:
        if len(one_of) != 1 or not str(one_of[0]).isdecimal() or not 0 < int(one_of[0]) < 1 << 31:
            raise InputError("`trace_rate` is a number of requests, of which one is traced")
        tracing.rate = int(one_of[0])
    if level is not None:
        if level not in (["OFF"], ["TIMESTAMPS"]):
            raise InputError("`trace_level` is [OFF] or [TIMESTAMPS]")
        tracing.on = level != ["OFF"]


def _level(settings: dict[str, Any]) -> int:
    if settings["log_verbose_level"]:
        return logging.DEBUG
    for name, level in (("log_info", logging.INFO), ("log_warning", logging.WARNING), ("log_error", logging.ERROR)):
        if settings[name]:
            return level
    return logging.CRITICAL


def _log_settings() -> dict[str, Any]:
    level = logger.getEffectiveLevel()
    return {
        "log_file": "", "log_info": level <= logging.INFO, "log_warning": level <= logging.WARNING,
        "log_error": level <= logging.ERROR, "log_verbose_level": int(level <= logging.DEBUG), "log_format": "default",
    }  # fmt: skip


def _without_usage(model: dict[str, Any]) -> dict[str, Any]:
    del model["counts"]["usage"]
    return model


def usage_rows(report: Report, tenant: str | None = None) -> list[dict[str, Any]]:
    """A row for each tenant, model and device."""
    return [
        {
            "tenant": used.tenant, "model": model.name, "version": model.version, "device": used.device,
            "requests": used.requests, "rows": used.rows, "compute_seconds": used.seconds,
        }
        for model in report.models
        for used in sorted(model.counts.usage, key=lambda used: (used.tenant, used.device))
        if tenant in (None, used.tenant)
    ]  # fmt: skip
