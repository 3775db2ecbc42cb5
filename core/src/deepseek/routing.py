"""Which loader, which passes in which order, which conversions, which engine: choices among what plugins offer."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from deepseek.config import Config
from deepseek.errors import MissingLibraryError, PlanError
from deepseek.offers import Decline, Loader, Pass, Stage
from deepseek.plan import PlannedPass
from deepseek.registry import Answer
from deepseek.types import Source
from deepseek.versions import PLUGINS, distribution


def wanted_engines(config: Config, engines: list[Answer], offers: list[Answer]) -> list[Answer]:
    """The engines that may execute: the one named by `engine:`, or all."""
    name = config.kernel.engine
    chosen = [answer for answer in engines if answer.value.name == name] if name else engines
    if chosen:
        return chosen
    declined = [answer for answer in offers if isinstance(answer.value, Decline)]
    for answer in declined:
        if answer.plugin == name:
            raise _declined(f"the engine `{name}` can't be used", [answer], config.where("engine"))
    if name:
        names = ", ".join(sorted(answer.value.name for answer in engines)) or "none"
        more = f"; pip install {distribution(name)}" if name in PLUGINS else ""
        hint = f"engines here: {names}{more}"
        raise PlanError(f"there is no engine `{name}`", where=config.where("engine"), hint=hint)
    raise _declined("no engine is ready", declined, config.document.name)


def _declined(what: str, answers: Sequence[Answer], where: str) -> PlanError:
    reasons = [f"{answer.plugin}: {answer.value.reason}" for answer in answers]
    kind = MissingLibraryError if any(answer.value.missing for answer in answers) else PlanError
    hint = "install an engine plugin, for example pip install 'deepseek[v1]'" if not reasons else ""
    return kind("; ".join([what, *reasons]), where=where, hint=hint)


def choose_loader(config: Config, loads: list[Answer], engines: list[Answer], router: Router, source: Source) -> Answer:
    """The first loader whose format an engine executes as it is; else the first that can be converted."""
    loaders = [answer for answer in loads if isinstance(answer.value, Loader)]
    if not loaders:
        declined = [answer for answer in loads if isinstance(answer.value, Decline)]
        what, where = f"no plugin loads {source.path.name}", config.where("model.source")
        if engines and not declined:
            names = ", ".join(answer.value.name for answer in engines)
            hint = f"the engines here ({names}) do not know such a {'folder' if source.path.is_dir() else 'file'}"
            raise PlanError(what, where=where, hint=f"{hint}: check its name, or install the plugin of its own engine")
        raise _declined(what, declined, where)
    accepted = frozenset[str]().union(*(answer.value.accepts for answer in engines))
    for answer in loaders:
        if answer.value.format in accepted:
            return answer
    for answer in loaders:
        if router.chain(answer.value.format, accepted) is not None:
            return answer
    return loaders[0]


class Router:
    """Finds the shortest chain of conversions between formats (breadth first).

    Args:
        offers: what plugins answered to the hook `optimize`.
    """

    def __init__(self, offers: Sequence[Answer]) -> None:
        passes = [answer for answer in offers if isinstance(answer.value, Pass)]
        self.conversions = [answer for answer in passes if answer.value.stage is Stage.CONVERT]
        self.steps = [answer for answer in passes if answer.value.stage is not Stage.CONVERT]
        self.declined = [answer for answer in offers if isinstance(answer.value, Decline)]

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


def find_route(config: Config, start: str, engines: list[Answer], router: Router) -> tuple[list[PlannedPass], Answer]:
    """Passes in order, with conversions where formats have to be bridged, and the engine at the end."""
    route: list[PlannedPass] = []
    here = start

    def go(item: Answer) -> None:
        nonlocal here
        record: Pass = item.value
        gives = record.yields or here
        route.append(PlannedPass(item.plugin, record, here, gives))
        here = gives

    for item in sorted(router.steps, key=lambda item: (item.value.stage, item.value.name)):
        for step in _bridge(router, here, item.value.accepts, f"the pass `{item.value.name}`", config):
            go(step)
        go(item)
    accepted = frozenset[str]().union(*(answer.value.accepts for answer in engines))
    for step in _bridge(router, here, accepted, _engine_names(engines), config):
        go(step)
    return route, next(answer for answer in engines if here in answer.value.accepts)


def _engine_names(engines: list[Answer]) -> str:
    return f"the engine{'s' if len(engines) > 1 else ''} {', '.join(answer.value.name for answer in engines)}"


def _bridge(router: Router, here: str, goals: frozenset[str], who: str, config: Config) -> list[Answer]:
    chain = router.chain(here, goals)
    if chain is None:
        known = ", ".join(f"{'/'.join(sorted(c.value.accepts))} to {c.value.yields}" for c in router.conversions)
        what = f"{who} takes {' or '.join(sorted(goals))}, the model is in the format {here}"
        if router.declined:
            raise _declined(what, router.declined, config.where("engine"))
        hint = f"conversions here: {known or 'none'}; choose another engine or install a plugin that converts"
        raise PlanError(what, where=config.where("engine"), hint=hint)
    return chain
