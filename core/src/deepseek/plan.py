"""The plan of a pipeline: what `deepseek explain` prints and `build` carries out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from deepseek.config import Config
from deepseek.offers import Coding, Engine, Loader, Pass, Policy, Wrapper
from deepseek.plugins import Plugin
from deepseek.records import Record
from deepseek.registry import Registry
from deepseek.types import Device, Source
from deepseek.units import Size

Offer = TypeVar("Offer", Loader, Engine, Wrapper, Policy, Coding)


class Declined(Record):
    """A plugin that was asked and said no."""

    plugin: str
    reason: str


class Planned(Record, Generic[Offer]):
    """Something that a plugin offered and the kernel chose, with who offered it."""

    plugin: str
    record: Offer

    @property
    def name(self) -> str:
        return self.record.name


class PlannedPass(Record):
    """A pass in its place: the format that goes in and the one that comes out."""

    plugin: str
    record: Pass
    takes: str
    gives: str


class Plan(Record):
    """Everything that is decided before anything is loaded.

    Example:
        >>> deepseek.explain("pipeline.yaml").engine.name
        'onnxruntime'
    """

    config: Config
    registry: Registry
    source: Source
    devices: tuple[Device, ...]
    device: Device
    loader: Planned[Loader]
    passes: tuple[PlannedPass, ...]
    engine: Planned[Engine]
    wrappers: tuple[Planned[Wrapper], ...]
    policy: Planned[Policy]
    coding: Planned[Coding] | None
    engines: tuple[Engine, ...]
    declined: Mapping[str, tuple[Declined, ...]] = {}

    @property
    def format(self) -> str:
        """The format in which the engine gets the model.

        Example:
            >>> deepseek.explain("pipeline.yaml").format
            'onnx'
        """
        return self.passes[-1].gives if self.passes else self.loader.record.format

    @property
    def memory_bytes(self) -> int:
        """Estimate of the device's memory that the model takes: copies of the weights; on the CPU the library too.

        Example:
            >>> deepseek.explain("pipeline.yaml").memory_bytes
            4...
        """
        engine = self.engine.record
        weights = engine.weight_copies * self.loader.record.weight_bytes
        if self.device.kind != "cpu":
            return round(weights)
        # What is converted is loaded by its own engine first, whose library stays.
        formats = {item.takes for item in self.passes if item.takes != item.gives}
        used = [engine, *(one for one in self.engines if one is not engine and one.accepts & formats)]
        return round(weights + sum(one.library_bytes for one in used))

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values: what ``deepseek explain --json`` prints.

        Example:
            >>> deepseek.explain("pipeline.yaml").to_dict()["execute"]["engine"]
            'onnxruntime'
        """
        engine, loader = self.engine.record, self.loader.record
        with self.registry.blamed(self.engine.plugin, "while it described its engine"):
            described = {str(key): value for key, value in engine.describe().items()}
        return {
            "model": {"source": str(self.source.path), "bytes": loader.weight_bytes},
            "device": _device(self.device),
            "load": {"plugin": self.loader.plugin, "name": loader.name, "format": loader.format},
            "passes": [_pass(item) for item in self.passes],
            "execute": {
                "plugin": self.engine.plugin, "engine": engine.name, "format": self.format, **described
            },
            "wrappers": [{"plugin": item.plugin, "name": item.name} for item in self.wrappers],
            "schedule": _named(self.policy),
            "codec": _named(self.coding) if self.coding else None,
            "memory_bytes": self.memory_bytes,
            "declined": {
                hook: [{"plugin": item.plugin, "reason": item.reason} for item in items]
                for hook, items in self.declined.items()
                if items
            },
            "plugins": [_plugin(plugin) for plugin in self.registry.plugins],
        }  # fmt: skip

    def __str__(self) -> str:
        plan = self.to_dict()
        who = self.registry.describe(self.loader.plugin)
        lines = [
            f"model      {plan['model']['source']} ({_size(plan['model']['bytes'])})",
            f"device     {self.device.name}: {_facts(self.device.facts)}",
            f"load       {self.loader.name} -> {plan['load']['format']}  [{who}]",
        ]
        for item in self.passes:
            arrow = f"{item.takes} -> {item.gives}" if item.takes != item.gives else item.takes
            who = self.registry.describe(item.plugin)
            lines.append(f"pass       {item.record.stage.name.lower()} {item.record.name} ({arrow})  [{who}]")
        details = {k: v for k, v in plan["execute"].items() if k not in ("plugin", "engine", "format")}
        who = self.registry.describe(self.engine.plugin)
        lines.append(f"execute    {self.engine.name}: {_facts(details) or self.format}  [{who}]")
        lines += [f"wrap       {item.name}  [{self.registry.describe(item.plugin)}]" for item in self.wrappers]
        lines.append(f"schedule   {self.policy.name}: {_facts(self.policy.record.facts)}")
        if self.coding:
            lines.append(f"codec      {self.coding.name}: {_facts(self.coding.record.facts) or 'tensors'}")
        free = f", of {_size(self.device.available_bytes)} free" if self.device.memory_bytes else ""
        lines.append(f"memory     about {_size(self.memory_bytes)}{free}")
        for hook, items in plan["declined"].items():
            lines += [f"declined   {hook}: {item['plugin']}: {item['reason']}" for item in items]
        for plugin in self.registry.plugins:
            if plugin.state != "active":
                lines.append(f"{plugin.state:<10} {plugin.name}: {plugin.why}")
        return "\n".join(lines)


def _device(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "memory_bytes": device.memory_bytes,
        "available_bytes": device.available_bytes,
        **device.facts,
    }


def _pass(item: PlannedPass) -> dict[str, str]:
    stage = item.record.stage.name.lower()
    return {"plugin": item.plugin, "name": item.record.name, "stage": stage, "takes": item.takes, "gives": item.gives}


def _named(item: Planned[Policy] | Planned[Coding]) -> dict[str, Any]:
    return {"plugin": item.plugin, "name": item.name, **item.record.facts}


def _plugin(plugin: Plugin) -> dict[str, str]:
    return {"name": plugin.name, "version": plugin.version, "state": plugin.state, "why": plugin.why}


def _facts(facts: Mapping[str, Any]) -> str:
    shown = (
        (str(key).replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
        for key, value in facts.items()
        if value is not None and not (isinstance(value, str | list | tuple | float) and not value)
    )
    return "; ".join(f"{key} {value}" for key, value in shown)


def _size(count: int) -> str:
    return str(Size(count))
