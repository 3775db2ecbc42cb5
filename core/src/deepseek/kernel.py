"""The kernel: read the configuration, ask the plugins, decide, and put a pipeline together."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from msgspec.structs import replace

from deepseek import devices, reader, verify
from deepseek.config import Config, first_look, settle
from deepseek.errors import (
    HookError,
    ModelNotFoundError,
    OutOfMemoryError,
    PlanError,
)
from deepseek.files import output_errors
from deepseek.guarded import GuardedCodec, GuardedExecutor, GuardedScheduler
from deepseek.observed import Observed
from deepseek.offers import Coding, Engine, Pass, Policy, Stage, Wrapper
from deepseek.pipeline import BuildStep, Pipeline
from deepseek.plan import Plan, Planned, Refusal
from deepseek.plugins import discover, from_module, select
from deepseek.protocols import Codec, Executor, Scheduler
from deepseek.registry import Answer, Registry
from deepseek.routing import Router, choose_loader, find_route, wanted_engines
from deepseek.types import Model, Source, TensorSpec
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
    probed = [device for answer in registry.ask("probe", config=config) for device in answer.value]
    found = devices.merge([devices.cpu(), *probed])
    device = devices.choose(config.kernel.device, found, config.document.where(("device",)))
    source = _source(config)
    question = {"source": source, "device": device, "config": config}

    loads = registry.ask("load", **question)
    offers = registry.ask("execute", device=device, config=config)
    engines = [answer for answer in offers if isinstance(answer.value, Engine)]
    wanted = wanted_engines(config, engines, offers)
    passes = [Answer(a.plugin, one) for a in registry.ask("optimize", **question) for one in _as_list(a.value)]
    router = Router([item for item in passes if item.value.stage is Stage.CONVERT])
    loader = choose_loader(config, loads, wanted, router, source)
    route, engine = find_route(config, loader.value.format, passes, wanted, router)
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
    doc = reader.read(configuration, overrides)
    version, chosen = first_look(doc)
    found = [*discover(), *(from_module(module) for module in plugins)]
    registry = Registry(select(found, version, chosen), chosen.optional)
    return settle(doc, registry.sections()), registry


def assemble(plan: Plan) -> Pipeline:
    """Carry a plan out. Raises DeepSeekError; what was built by then is closed in reverse order."""
    _fits(plan)
    with ExitStack() as stack:
        bench = _Workbench(plan, stack)
        model = bench.step(f"load {plan.loader.name}", plan.loader.plugin, plan.loader.record.load, Model)
        model = _apply(plan, model, bench)
        engine = plan.engine
        executor = bench.step(f"open {engine.name}", engine.plugin, partial(engine.record.open, model))
        # Executors keep what they need; the loaded model would hold a second copy of the weights.
        del model
        guarded = bench.guard(GuardedExecutor, engine.plugin, executor)
        stack.callback(guarded.close)
        for item in plan.wrappers:
            executor = bench.do(f"wrap {item.name}", item.plugin, partial(item.record.wrap, guarded))
            guarded = bench.guard(GuardedExecutor, item.plugin, executor)
            stack.callback(guarded.close)
        scheduler = _scheduler(plan, guarded, bench)
        stack.callback(scheduler.close)
        return Pipeline(plan, executor, scheduler, _codec(plan, guarded, bench), tuple(bench.steps), stack.pop_all())


def _scheduler(plan: Plan, executor: Executor, bench: _Workbench) -> Scheduler:
    observers = tuple(answer.value for answer in plan.registry.ask("observe", config=plan.config))
    runner: Executor = Observed(executor, observers, plan.device.name) if observers else executor
    policy = plan.policy
    made = bench.do(f"make {policy.name}", policy.plugin, partial(policy.record.make, runner))
    return bench.guard(GuardedScheduler, policy.plugin, made)


def _codec(plan: Plan, executor: Executor, bench: _Workbench) -> Codec | None:
    coding = plan.coding
    if coding is None:
        return None
    made = bench.do(f"make {coding.name}", coding.plugin, partial(coding.record.make, executor.signature))
    return bench.guard(GuardedCodec, coding.plugin, made)


class _Workbench:
    """Does the steps of a build: blames, measures, and gives passes folders that go when the pipeline closes."""

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        self.steps: list[BuildStep] = []
        self._registry = plan.registry
        self._stack = stack

    def do(self, name: str, plugin: str, work: Callable[[], T], kind: type = object) -> T:
        """The work of one plugin; the machine's troubles become errors with a way out."""
        try:
            with self._registry.blamed(plugin, f"while it did its part of the build ({name})"):
                result = work()
        except MemoryError as exc:
            hint = "use a smaller model, a smaller dtype, or a machine with more memory"
            raise OutOfMemoryError(f"there is not enough memory to {name}", hint=hint) from exc
        if result is None or not isinstance(result, kind):
            found = "nothing" if result is None else f"a {type(result).__name__}"
            what = f"{self._registry.describe(plugin)} gave {found} back when asked to {name}"
            raise HookError(what, hint="report it to the plugin's author")
        return result

    def step(self, name: str, plugin: str, work: Callable[[], T], kind: type = object) -> T:
        """The same, with its time and the growth of resident memory noted."""
        start, before = time.perf_counter(), devices.resident_bytes()
        result = self.do(name, plugin, work, kind)
        self.steps.append(BuildStep(name, time.perf_counter() - start, devices.resident_bytes() - before))
        return result

    def guard(self, guard: Callable[[Any, str], T], plugin: str, made: Any) -> T:
        """What a plugin made, behind a guard; the plugin is blamed for what its object lacks."""
        work = partial(guard, made, self._registry.describe(plugin))
        return self.do(f"give a whole {guard.__name__.removeprefix('Guarded').lower()}", plugin, work)

    def note(self, text: str) -> None:
        """Put a finding to the last step."""
        self.steps[-1] = replace(self.steps[-1], note=text)

    def folder(self) -> Path:
        """A new folder that lives as long as the pipeline."""
        with output_errors(tempfile.gettempdir()):
            path = Path(tempfile.mkdtemp(prefix="deepseek-"))
        self._stack.callback(shutil.rmtree, path, ignore_errors=True)
        return path


def _apply(plan: Plan, model: Model, bench: _Workbench) -> Model:
    for item in plan.passes:
        name, before = item.record.name, model
        model = bench.step(name, item.plugin, partial(item.record.apply, before, bench.folder()), Model)
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
    model = config.model
    path = model.source
    if not _exists(path):
        names = (
            sorted(item.name for item in path.parent.iterdir()) if _exists(path.parent) and path.parent.is_dir() else []
        )
        near = f"{path.parent} holds {', '.join(names[:8])}" if names else f"there is no folder {path.parent}"
        where = config.document.where(("model", "source"))
        raise ModelNotFoundError(f"there is no model at {path}", where=where, hint=near)
    if not (path.is_file() or path.is_dir()) or path == config.document.base:
        where = config.document.where(("model", "source"))
        raise ModelNotFoundError(f"{path} is no model", where=where, hint="name the model's file or its own folder")
    inputs = tuple(tensor.spec(name) for name, tensor in model.inputs.items())
    return Source(path.resolve(), inputs, tuple(TensorSpec(name) for name in model.outputs))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # The name is too long to be one.
        return False


def _first(answers: Iterable[Answer], kind: type) -> Answer | None:
    return next((answer for answer in answers if isinstance(answer.value, kind)), None)


def _planned(answer: Answer) -> Planned:
    return Planned(answer.plugin, answer.value)


def _refusals(registry: Registry, answers: Iterable[Answer]) -> tuple[Refusal, ...]:
    return tuple(Refusal(plugin, decline.reason) for plugin, decline in registry.declined(answers).items())


def _as_list(value: Pass | list[Pass]) -> list[Pass]:
    return value if isinstance(value, list) else [value]
