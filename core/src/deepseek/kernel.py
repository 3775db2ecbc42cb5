"""The kernel: read the configuration, ask the plugins, decide, and put a pipeline together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec.structs import replace

from deepseek import devices, reader, verify
from deepseek.config import Config, first_look, settle
from deepseek.errors import ModelNotFoundError, OutOfMemoryError, PlanError
from deepseek.fifo import Fifo
from deepseek.files import exists
from deepseek.guarded import GuardedCodec, GuardedExecutor, GuardedScheduler
from deepseek.observed import Observed
from deepseek.offers import Decline, Engine, Stage, Wrapper
from deepseek.pipeline import Pipeline
from deepseek.plan import Declined, Plan, Planned
from deepseek.plugins import Plugin, discover, from_module, select
from deepseek.protocols import Codec, Executor, Scheduler
from deepseek.registry import Answer, Registry
from deepseek.routing import Router, choose_loader, find_route, wanted_engines
from deepseek.types import Model, Source, TensorSpec
from deepseek.units import Size
from deepseek.workbench import Workbench

logger = logging.getLogger("deepseek")

Configuration = str | Path | Mapping[str, Any]


def build(
    configuration: Configuration | Plan,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[ModuleType] = (),
    enable: Sequence[str] = (),
) -> Pipeline:
    """Assemble a pipeline and load its model.

    Args:
        configuration: path of a YAML file, a mapping of the same shape, or a plan that `explain` made of one.
        overrides: ``key=value`` strings that go over it, as ``--set`` does.
        plugins: modules with hooks that take part although they are not installed.
        enable: installed plugins that take part although the configuration's `version` does not name them.

    Raises:
        DeepSeekError: see `deepseek.errors`; whatever was built before the error is closed again.

    Example:
        >>> with deepseek.build({"model": "model.onnx", "engine": "onnxruntime"}) as pipeline:
        ...     pipeline.run(image=array)["logits"].shape
        (1, 3)
    """
    if isinstance(configuration, Plan):
        return assemble(configuration)
    return assemble(explain(configuration, overrides=overrides, plugins=plugins, enable=enable))


def explain(
    configuration: Configuration,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[ModuleType] = (),
    enable: Sequence[str] = (),
) -> Plan:
    """Decide everything that `build` would do, without loading the model.

    Takes the same arguments and raises the same errors as `build`, those of loading excepted.

    Example:
        >>> print(deepseek.explain("pipeline.yaml"))
        model      ...model.onnx (...)
        device     cpu: ...
        load       onnx file -> onnx  [deepseek-onnxruntime ...]
        ...
    """
    config, registry = configure(configuration, overrides, plugins, enable)
    probed = [answer.value for answer in registry.ask("probe", config=config)]
    found = devices.merge([devices.cpu(), *probed])
    device = devices.choose(config.kernel.device, found, config.where("device"))
    source = _source(config)
    question = {"source": source, "device": device, "config": config}

    loads = registry.ask("load", **question)
    offers = registry.ask("execute", device=device, config=config)
    engines = [answer for answer in offers if isinstance(answer.value, Engine)]
    router = Router(registry.ask("optimize", **question))
    try:
        wanted = wanted_engines(config, engines, offers)
        loader = choose_loader(config, loads, wanted, router, source)
        route, engine = find_route(config, loader.value.format, wanted, router)
    except PlanError as error:
        raise _with_absent(error, registry) from error
    coding = next(iter(registry.ask("codec", source=source, config=config)), None)
    # The built-in fifo answers always, and last.
    policy = registry.ask("schedule", config=config)[0]
    _report(_absent(registry))
    return Plan(
        config=config,
        registry=registry,
        source=source,
        devices=found,
        device=device,
        loader=Planned(loader.plugin, loader.value),
        passes=tuple(route),
        engine=Planned(engine.plugin, engine.value),
        wrappers=tuple(Planned(item.plugin, item.value) for item in offers if isinstance(item.value, Wrapper)),
        policy=Planned(policy.plugin, policy.value),
        coding=Planned(coding.plugin, coding.value) if coding else None,
        engines=tuple(answer.value for answer in engines),
        declined={"load": _declined(loads), "optimize": _declined(router.declined), "execute": _declined(offers)},
    )


def _with_absent(error: PlanError, registry: Registry) -> PlanError:
    """The error, with the plugins that were not asked: one of them may be what is missing."""
    absent = [f"{plugin.name} ({plugin.why})" for plugin in registry.plugins if plugin.state != "active"]
    asked = f"; not asked: {', '.join(absent)}" if absent else ""
    return type(error)(f"{error.what}{asked}", where=error.where, hint=error.hint)


def _absent(registry: Registry) -> list[Plugin]:
    return [plugin for plugin in registry.plugins if plugin.state in ("broken", "incompatible")]


def _report(absent: Iterable[Plugin]) -> None:
    """Optional plugins are passed over, but not in silence."""
    for plugin in absent:
        logger.warning("without the plugin `%s`, which is %s: %s", plugin.name, plugin.state, plugin.why)


def configure(
    configuration: Configuration, overrides: Sequence[str], plugins: Sequence[ModuleType], enable: Sequence[str]
) -> tuple[Config, Registry]:
    """Read the document, choose and import the plugins, then check the whole against their sections."""
    doc = reader.read(configuration, overrides)
    chosen = first_look(doc)
    chosen = replace(chosen, plugins=replace(chosen.plugins, enable=[*chosen.plugins.enable, *enable]))
    found = [*discover(), *(from_module(module) for module in plugins)]
    registry = Registry(select(found, chosen, doc.where), chosen.plugins.optional)
    blocked = {plugin.name: plugin.why for plugin in registry.plugins if plugin.state != "active"}
    return settle(doc, registry.sections(), blocked), registry


def assemble(plan: Plan) -> Pipeline:
    """Carry a plan out. Raises DeepSeekError; what was built by then is closed in reverse order."""
    _fits(plan)
    with ExitStack() as stack:
        bench = Workbench(plan.registry, stack)
        load = plan.loader.record
        model = bench.model(f"load {load.name}", plan.loader.plugin, load.load, load.format)
        model = _apply(plan, model, bench)
        engine = plan.engine
        made = bench.step(f"open {engine.name}", engine.plugin, partial(engine.record.open, model))
        bench.keep(engine.plugin, made)
        # Executors keep what they need; the loaded model would hold a second copy of the weights.
        del model
        executor = _wrap(plan, bench.guard(GuardedExecutor, engine.plugin, made), bench)
        scheduler = _scheduler(plan, executor, bench)
        codec = _codec(plan, executor, bench)
        return Pipeline(plan, executor, scheduler, codec, tuple(bench.steps), stack.pop_all())


def _wrap(plan: Plan, executor: GuardedExecutor, bench: Workbench) -> GuardedExecutor:
    for item in plan.wrappers:
        made = bench.do(f"wrap {item.name}", item.plugin, partial(item.record.wrap, executor))
        if made is not executor:
            bench.keep(item.plugin, made)
            executor = bench.guard(GuardedExecutor, item.plugin, made)
    return executor


def _scheduler(plan: Plan, executor: Executor, bench: Workbench) -> Scheduler:
    absent = _absent(plan.registry)
    answers = plan.registry.ask("observe", config=plan.config)
    _report(plugin for plugin in _absent(plan.registry) if plugin not in absent)
    for answer in answers:
        bench.keep(answer.plugin, answer.value)
    observers = [answer.value for answer in answers]
    runner: Executor = Observed(executor, observers, plan.device.name) if observers else executor
    policy = plan.policy
    made = bench.do(f"make {policy.name}", policy.plugin, partial(policy.record.make, (runner,)))
    bench.keep(policy.plugin, made)
    # The kernel's own needs no guard.
    return made if isinstance(made, Fifo) else bench.guard(GuardedScheduler, policy.plugin, made)


def _codec(plan: Plan, executor: Executor, bench: Workbench) -> Codec | None:
    coding = plan.coding
    if coding is None:
        return None
    made = bench.do(f"make {coding.name}", coding.plugin, partial(coding.record.make, executor.signature))
    return bench.guard(GuardedCodec, coding.plugin, made)


def _apply(plan: Plan, model: Model, bench: Workbench) -> Model:
    for item in plan.passes:
        name, before = item.record.name, model
        model = bench.model(name, item.plugin, partial(item.record.apply, before, bench.folder()), item.gives)
        if item.record.stage is Stage.CONVERT:
            check = partial(verify.compare, before, model, plan.engines)
            bench.note(bench.step(f"check {name}", item.plugin, check))
    return model


def _fits(plan: Plan) -> None:
    need, free = plan.loader.record.weight_bytes, plan.device.available_bytes
    if plan.device.memory_bytes and need > free:
        what = f"the weights take {Size(need)}, {plan.device.name} has {Size(free)} free"
        hint = "free memory, use a smaller model or dtype, or another device"
        raise OutOfMemoryError(what, where=str(plan.source.path), hint=hint)


def _source(config: Config) -> Source:
    model, where = config.model, config.where("model.source")
    path = model.source
    if not exists(path):
        raise ModelNotFoundError(f"there is no model at {path}", where=where, hint=_neighbours(path.parent))
    if not (path.is_file() or path.is_dir()):
        raise ModelNotFoundError(f"{path} is no model", where=where, hint="name the model's file or its own folder")
    inputs = tuple(tensor.spec(name) for name, tensor in model.inputs.items())
    # Not resolved: in a cache, a link has the file's name and what it points to has a number.
    return Source(path.absolute(), inputs, tuple(TensorSpec(name) for name in model.outputs))


def _neighbours(folder: Path) -> str:
    try:
        names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    except OSError as exc:
        return f"{folder} can't be listed: {exc.strerror}"
    return f"{folder} holds {', '.join(names[:8])}" if names else f"{folder} is empty"


def _declined(answers: Iterable[Answer]) -> tuple[Declined, ...]:
    return tuple(Declined(item.plugin, item.value.reason) for item in answers if isinstance(item.value, Decline))
