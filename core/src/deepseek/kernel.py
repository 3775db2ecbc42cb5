"""The kernel: read the configuration, ask the plugins, decide, and put a pipeline together."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from deepseek import devices, document, verify
from deepseek.config import Config, first_look, settle
from deepseek.errors import (
    MissingLibraryError,
    ModelNotFoundError,
    OutOfMemoryError,
    PlanError,
)
from deepseek.observed import Observed
from deepseek.pipeline import BuildStep, Pipeline
from deepseek.plan import Plan, Planned, PlannedPass, Refusal
from deepseek.plugins import Answer, Registry, discover, from_module, select
from deepseek.types import (
    Coding,
    Decline,
    Engine,
    Executor,
    Loader,
    Model,
    Pass,
    Policy,
    Source,
    Stage,
    TensorSpec,
    Wrapper,
)
from deepseek.units import Size

Configuration = str | Path | Mapping[str, Any]
T = TypeVar("T")


def build(
    configuration: Configuration, *, overrides: Sequence[str] = (), plugins: Sequence[ModuleType] = ()
) -> Pipeline:
    """Assemble a pipeline and load its model.

    Args:
        configuration: path of a YAML file, or a mapping of the same shape.
        overrides: ``key=value`` strings that go over it, as ``--set`` does.
        plugins: modules with hooks that take part although they are not installed.

    Raises:
        DeepSeekError: see `deepseek.errors`; whatever was built before the error is closed again.

    Example:
        >>> with deepseek.build({"model": "model.onnx", "engine": "onnxruntime"}) as pipeline:  # doctest: +SKIP
        ...     pipeline.run(image=array)
    """
    return assemble(explain(configuration, overrides=overrides, plugins=plugins))


def explain(configuration: Configuration, *, overrides: Sequence[str] = (), plugins: Sequence[ModuleType] = ()) -> Plan:
    """Decide everything that `build` would do, without loading the model.

    Takes the same arguments and raises the same errors as `build`, those of loading excepted.

    Example:
        >>> print(deepseek.explain("pipeline.yaml"))            # doctest: +SKIP
    """
    config, registry = configure(configuration, overrides, plugins)
    found = (devices.cpu(), *(d for answer in registry.ask("probe", config=config) for d in answer.value))
    device = devices.choose(config.kernel.device, found)
    source = _source(config)
    question = {"source": source, "device": device, "config": config}

    loads = registry.ask("load", **question)
    offers = registry.ask("execute", device=device, config=config)
    engines = [answer for answer in offers if isinstance(answer.value, Engine)]
    wanted = _wanted(config, engines, offers)
    passes = [Answer(a.plugin, one) for a in registry.ask("optimize", **question) for one in _as_list(a.value)]
    router = _Router([item for item in passes if item.value.stage is Stage.CONVERT])
    loader = _loader(config, loads, wanted, router, source)
    route, engine = _route(config, loader.value.format, passes, wanted, router)
    coding = _first(registry.ask("codec", source=source, config=config), Coding)
    policy = _first(registry.ask("schedule", config=config), Policy)
    if policy is None:
        raise PlanError("no scheduler answers", hint="enable a scheduling plugin, or the built-in fifo")
    return Plan(
        config=config,
        registry=registry,
        source=source,
        devices=found,
        device=device,
        loader=_planned(loader),
        passes=tuple(route),
        engine=_planned(engine),
        wrappers=tuple(_planned(answer) for answer in offers if isinstance(answer.value, Wrapper)),
        policy=_planned(policy),
        coding=_planned(coding) if coding else None,
        engines=tuple(answer.value for answer in engines),
        refusals={"load": _refusals(registry, loads), "execute": _refusals(registry, offers)},
    )


def configure(
    configuration: Configuration, overrides: Sequence[str], plugins: Sequence[ModuleType]
) -> tuple[Config, Registry]:
    """Read the document, choose and import the plugins, then check the whole against their sections."""
    doc = document.read(configuration, overrides)
    version, chosen = first_look(doc)
    found = [*discover(), *(from_module(module) for module in plugins)]
    registry = Registry(select(found, version, chosen), chosen.optional)
    return settle(doc, registry.sections()), registry


def assemble(plan: Plan) -> Pipeline:
    """Carry a plan out. Raises DeepSeekError; what was built by then is closed in reverse order."""
    _fits(plan)
    with ExitStack() as stack:
        bench = _Workbench(stack)
        model = bench.measure(f"load {plan.loader.name}", plan.loader.record.load)
        model = _apply(plan, model, bench)
        executor = bench.measure(f"open {plan.engine.name}", partial(plan.engine.record.open, model))
        stack.callback(executor.close)
        # Executors keep what they need; the loaded model would hold a second copy of the weights.
        del model
        for wrapper in plan.wrappers:
            executor = wrapper.record.wrap(executor)
            stack.callback(executor.close)
        observers = tuple(answer.value for answer in plan.registry.ask("observe", config=plan.config))
        runner: Executor = Observed(executor, observers, plan.device.name) if observers else executor
        scheduler = plan.policy.record.make(runner)
        stack.callback(scheduler.close)
        codec = plan.coding.record.make(executor.signature) if plan.coding else None
        return Pipeline(plan, executor.signature, scheduler, codec, tuple(bench.steps), stack.pop_all())


class _Workbench:
    """Measures build steps and gives each pass a folder that goes when the pipeline closes."""

    def __init__(self, stack: ExitStack) -> None:
        self.steps: list[BuildStep] = []
        self._stack = stack

    def measure(self, name: str, work: Callable[[], T]) -> T:
        start, before = time.perf_counter(), devices.resident_bytes()
        try:
            result = work()
        except MemoryError as exc:
            hint = "use a smaller model, a smaller dtype, or a machine with more memory"
            raise OutOfMemoryError(f"there is not enough memory to {name}", hint=hint) from exc
        self.steps.append(BuildStep(name, time.perf_counter() - start, devices.resident_bytes() - before))
        return result

    def note(self, text: str) -> None:
        self.steps[-1] = replace(self.steps[-1], note=text)

    def folder(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix="deepseek-"))
        self._stack.callback(shutil.rmtree, path, ignore_errors=True)
        return path


def _apply(plan: Plan, model: Model, bench: _Workbench) -> Model:
    for item in plan.passes:
        name, before = item.record.name, model
        model = bench.measure(name, partial(item.record.apply, before, bench.folder()))
        if item.record.stage is Stage.CONVERT:
            bench.note(bench.measure(f"check {name}", partial(verify.compare, before, model, plan.engines)))
    return model


def _fits(plan: Plan) -> None:
    need, free = plan.loader.record.weight_bytes, plan.device.available_bytes
    if plan.device.memory_bytes and need > free:
        what = f"the weights take {Size(need)}, {plan.device.name} has {Size(free)} free"
        hint = "free memory, use a smaller model or dtype, or another device"
        raise OutOfMemoryError(what, where=str(plan.source.path), hint=hint)


def _source(config: Config) -> Source:
    model = config.model
    path = model.source
    if not path.exists():
        names = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
        near = f"{path.parent} holds {', '.join(names[:8])}" if names else f"there is no folder {path.parent}"
        where = config.document.where(("model", "source"))
        raise ModelNotFoundError(f"there is no model at {path}", where=where, hint=near)
    inputs = tuple(tensor.spec(name) for name, tensor in model.inputs.items())
    return Source(path.resolve(), inputs, tuple(TensorSpec(name) for name in model.outputs))


def _wanted(config: Config, engines: list[Answer], offers: list[Answer]) -> list[Answer]:
    """The engines that may execute: the one named by `engine:`, or all."""
    name = config.kernel.engine
    chosen = [answer for answer in engines if answer.value.name == name] if name else engines
    if chosen:
        return chosen
    declined = [answer for answer in offers if isinstance(answer.value, Decline)]
    for answer in declined:
        if answer.plugin == name:
            raise _declined(f"the engine `{name}` can't be used", [answer], config.document.where(("engine",)))
    if name:
        names = ", ".join(sorted(answer.value.name for answer in engines)) or "none"
        hint = f"engines here: {names}; others come with their plugin (pip install deepseek-{name})"
        raise PlanError(f"there is no engine `{name}`", where=config.document.where(("engine",)), hint=hint)
    raise _declined("no engine is ready", declined, config.document.name)


def _declined(what: str, answers: Sequence[Answer], where: str) -> PlanError:
    reasons = [f"{answer.plugin}: {answer.value.reason}" for answer in answers]
    kind = MissingLibraryError if any(answer.value.missing for answer in answers) else PlanError
    hint = "install an engine plugin, for example pip install 'deepseek[v1]'" if not reasons else ""
    return kind("; ".join([what, *reasons]), where=where, hint=hint)


def _loader(config: Config, loads: list[Answer], engines: list[Answer], router: _Router, source: Source) -> Answer:
    """The first loader whose format an engine executes as it is; else the first that can be converted."""
    loaders = [answer for answer in loads if isinstance(answer.value, Loader)]
    if not loaders:
        declined = [answer for answer in loads if isinstance(answer.value, Decline)]
        what = f"no plugin loads {source.path.name}"
        raise _declined(what, declined, config.document.where(("model", "source")))
    accepted = frozenset[str]().union(*(answer.value.accepts for answer in engines))
    for answer in loaders:
        if answer.value.format in accepted:
            return answer
    for answer in loaders:
        if router.chain(answer.value.format, accepted) is not None:
            return answer
    return loaders[0]


class _Router:
    """Finds the shortest chain of conversions between formats (breadth first)."""

    def __init__(self, conversions: Sequence[Answer]) -> None:
        self.conversions = conversions

    def chain(self, start: str, goals: frozenset[str]) -> list[Answer] | None:
        """Conversions from `start` to the nearest of `goals`: [] when it is one, None when there is no way."""
        queue: deque[tuple[str, list[Answer]]] = deque([(start, [])])
        seen = {start}
        while queue:
            here, chain = queue.popleft()
            if here in goals:
                return chain
            for item in self.conversions:
                if here in item.value.accepts and item.value.yields not in seen:
                    seen.add(item.value.yields)
                    queue.append((item.value.yields, [*chain, item]))
        return None


def _route(
    config: Config, start: str, passes: list[Answer], engines: list[Answer], router: _Router
) -> tuple[list[PlannedPass], Answer]:
    """Passes in order, with conversions where formats have to be bridged, and the engine at the end."""
    route: list[PlannedPass] = []
    here = start

    def go(item: Answer) -> None:
        nonlocal here
        record: Pass = item.value
        gives = record.yields or here
        route.append(PlannedPass(item.plugin, record, here, gives))
        here = gives

    for item in sorted(passes, key=lambda item: (item.value.stage, item.value.name)):
        if item.value.stage is not Stage.CONVERT:
            for step in _bridge(router, here, item.value.accepts, f"the pass `{item.value.name}`", config):
                go(step)
            go(item)
    accepted = frozenset[str]().union(*(answer.value.accepts for answer in engines))
    for step in _bridge(router, here, accepted, _engine_names(engines), config):
        go(step)
    return route, next(answer for answer in engines if here in answer.value.accepts)


def _engine_names(engines: list[Answer]) -> str:
    return f"the engine{'s' if len(engines) > 1 else ''} {', '.join(answer.value.name for answer in engines)}"


def _bridge(router: _Router, here: str, goals: frozenset[str], who: str, config: Config) -> list[Answer]:
    chain = router.chain(here, goals)
    if chain is None:
        known = ", ".join(f"{'/'.join(sorted(c.value.accepts))} to {c.value.yields}" for c in router.conversions)
        what = f"{who} takes {' or '.join(sorted(goals))}, the model is in the format {here}"
        hint = f"conversions here: {known or 'none'}; choose another engine or install a plugin that converts"
        raise PlanError(what, where=config.document.where(("engine",)), hint=hint)
    return chain


def _first(answers: Iterable[Answer], kind: type) -> Answer | None:
    return next((answer for answer in answers if isinstance(answer.value, kind)), None)


def _planned(answer: Answer) -> Planned:
    return Planned(answer.plugin, answer.value)


def _refusals(registry: Registry, answers: Iterable[Answer]) -> tuple[Refusal, ...]:
    return tuple(Refusal(plugin, decline.reason) for plugin, decline in registry.declined(answers).items())


def _as_list(value: Pass | list[Pass]) -> list[Pass]:
    return value if isinstance(value, list) else [value]
