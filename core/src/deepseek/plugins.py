"""Find plugins once, decide which take part, import and register those, and put questions to them."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import Distribution, EntryPoint, distributions
from types import ModuleType
from typing import Any

import pluggy

from deepseek import fifo, hookspecs
from deepseek.config import PluginSettings, Settings
from deepseek.errors import DeepSeekError, HookError, PluginError
from deepseek.types import Decline
from deepseek.versions import API, PLUGINS, VERSIONS, distribution, members, unwritten

GROUP = "deepseek"
#: A plugin states the API version that it was written for as a keyword of its distribution.
API_KEYWORD = "deepseek-plugin-api-"


@dataclass(frozen=True)
class Plugin:
    """What is known of an installed plugin.

    Attributes:
        name: the entry point's name, which a pipeline uses.
        distribution: the distribution that carries it.
        version: the distribution's version.
        target: the module of its hooks.
        api: the plugin API that it was written for, empty when it does not say.
        state: ``found``, ``active``, ``blocked`` (not imported), ``broken`` or ``incompatible``.
        why: the reason of the state.
        hooks: the hooks that it answers, once imported.
    """

    name: str
    distribution: str
    version: str
    target: str
    api: str = ""
    state: str = "found"
    why: str = ""
    hooks: tuple[str, ...] = ()
    module: ModuleType | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Answer:
    """What one plugin said to one question."""

    plugin: str
    value: Any


def discover() -> list[Plugin]:
    """Every installed plugin, in the order of names, from one scan; nothing is imported.

    Raises:
        PluginError: two distributions carry a plugin of one name.
    """
    found: dict[str, Plugin] = {}
    seen: set[str] = set()
    for dist in distributions():
        points = [point for point in dist.entry_points if point.group == GROUP]
        # A distribution found twice on sys.path (an editable one beside a stale copy) counts once.
        if not points or dist.name in seen:
            continue
        seen.add(dist.name)
        for point in points:
            plugin = _describe(dist, point)
            if plugin.name in found:
                hint = f"uninstall one: pip uninstall {plugin.distribution}"
                raise PluginError(
                    f"two plugins are named `{plugin.name}`: {found[plugin.name]} and {plugin}", hint=hint
                )
            found[plugin.name] = plugin
    return [found[name] for name in sorted(found)]


def _describe(dist: Distribution, point: EntryPoint) -> Plugin:
    words = " ".join(dist.metadata.get_all("Keywords") or []).replace(",", " ").split()
    api = next((word.removeprefix(API_KEYWORD) for word in words if word.startswith(API_KEYWORD)), "")
    return Plugin(point.name, dist.name, dist.version, point.module, api)


def from_module(module: ModuleType) -> Plugin:
    """A plugin that is not installed: a module (or any object with hooks) of the caller's own."""
    name = str(getattr(module, "__name__", type(module).__name__))
    return Plugin(name, f"<{name}>", "0", name, f"{API[0]}.{API[1]}", module=module)


def select(found: Iterable[Plugin], version: str, settings: PluginSettings) -> list[Plugin]:
    """Decide by version, `plugins.enable` and `plugins.disable` who takes part; mark the others blocked.

    Raises:
        PluginError: a plugin that is asked for is not installed, or not written yet.
    """
    plugins = list(found)
    names = {plugin.name for plugin in plugins}
    wanted = set(members(version)) | set(settings.enable) if version else names
    _all_known(names, version, settings)
    selected = []
    for plugin in plugins:
        why = ""
        if plugin.name in settings.disable:
            why = "disabled by plugins.disable"
        elif plugin.name not in wanted and plugin.module is None:
            why = f"not part of {version}; add it to plugins.enable"
        selected.append(replace(plugin, state="blocked", why=why) if why else plugin)
    return selected


def _all_known(names: set[str], version: str, settings: PluginSettings) -> None:
    if version:
        missing = set(members(version)) - names - set(settings.disable)
        _require_written(version, missing)
        if missing:
            lacking = ", ".join(distribution(name) for name in sorted(missing))
            hint = f"pip install 'deepseek[{version}]', or list the plugins to do without under `plugins.disable`"
            raise PluginError(f"{version} needs {lacking}, not installed here", hint=hint)
    for key in ("enable", "disable", "optional"):
        for name in getattr(settings, key):
            if name not in names and not (key != "enable" and name in _curated()):
                near = difflib.get_close_matches(name, sorted(names), n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"installed: {', '.join(sorted(names)) or 'none'}"
                raise PluginError(f"`plugins.{key}` names `{name}`, which is not an installed plugin", hint=hint)


def _require_written(version: str, missing: set[str]) -> None:
    absent = missing & set(unwritten(version))
    if absent:
        ready = [name for name in VERSIONS if not unwritten(name)]
        hint = f"complete versions: {', '.join(ready)}; or list them under `plugins.disable`; see `deepseek versions`"
        raise PluginError(f"{version} is not complete yet: {', '.join(sorted(absent))} not written", hint=hint)


def _curated() -> set[str]:
    return set(PLUGINS) | {name for _, added in VERSIONS.values() for name in added}


class Registry:
    """The plugins that take part, registered and ready to be asked.

    Args:
        plugins: from `select`; blocked ones are kept for the record and never imported.
        optional: names whose failure to load is noted and passed over.

    Raises:
        PluginError: a plugin can't be imported, is written for another API, or misspells a hook.
    """

    def __init__(self, plugins: Iterable[Plugin], optional: Iterable[str] = ()) -> None:
        self._pm = pluggy.PluginManager("deepseek")
        self._pm.add_hookspecs(hookspecs)
        self._pm.register(fifo, "fifo")
        passed_over = set(optional)
        self.plugins: list[Plugin] = []
        # The last registered answers first, so names register from last to first.
        for plugin in sorted(plugins, key=lambda item: item.name, reverse=True):
            self.plugins.insert(0, self._admit(plugin, plugin.name in passed_over))
        self._by_name = {plugin.name: plugin for plugin in self.plugins}

    def _admit(self, plugin: Plugin, optional: bool) -> Plugin:
        if plugin.state != "found":
            return plugin
        try:
            check_api(plugin)
            module = plugin.module or _import(plugin)
            hooks = _check_hooks(plugin, module)
        except PluginError as error:
            if not optional:
                raise
            state = "incompatible" if "plugin API" in error.what else "broken"
            return replace(plugin, state=state, why=f"{error.what} (optional)")
        self._pm.register(module, plugin.name)
        return replace(plugin, state="active", hooks=hooks, module=module)

    def sections(self) -> dict[str, type[Settings]]:
        """Section name to settings class, of every plugin. Raises PluginError when two claim one name."""
        owners: dict[str, str] = {}
        result: dict[str, type[Settings]] = {}
        for answer in self.ask("sections"):
            for name, kind in answer.value.items():
                if name in owners:
                    raise self._conflict(name, owners[name], answer.plugin)
                owners[name], result[name] = answer.plugin, kind
        return result

    def _conflict(self, section: str, first: str, second: str) -> PluginError:
        hint = f"disable one under `plugins.disable`: {first} or {second}"
        what = f"the section `{section}` is claimed by {self.describe(first)} and {self.describe(second)}"
        return PluginError(what, hint=hint)

    def describe(self, name: str) -> str:
        """``deepseek-torch 1.0`` for a plugin's name."""
        return str(self._by_name[name]) if name in self._by_name else "deepseek-core"

    def ask(self, hook: str, **arguments: Any) -> list[Answer]:
        """Put one question to every plugin, in order; None is no answer.

        Goes over pluggy's implementations one by one rather than calling the hook, so that each
        answer, and each exception, is known by the plugin that it came from.

        Raises:
            HookError: a plugin raised something that is not a DeepSeekError.
        """
        answers = []
        for impl in reversed(getattr(self._pm.hook, hook).get_hookimpls()):
            try:
                value = impl.function(*(arguments[name] for name in impl.argnames))
            except DeepSeekError:
                raise
            except Exception as exc:
                what = f"{self.describe(impl.plugin_name)} raised in its hook `{hook}`: {type(exc).__name__}: {exc}"
                hint = f"report it to the plugin's author, or disable it: plugins: {{disable: [{impl.plugin_name}]}}"
                raise HookError(what, hint=hint) from exc
            if value is not None:
                answers.append(Answer(impl.plugin_name, value))
        return answers

    def declined(self, answers: Iterable[Answer]) -> Mapping[str, Decline]:
        """Plugin name to the reason why it does not answer."""
        return {answer.plugin: answer.value for answer in answers if isinstance(answer.value, Decline)}


def check_api(plugin: Plugin) -> None:
    """Majors must be equal and the plugin's minor not newer. Raises PluginError."""
    here = f"{API[0]}.{API[1]}"
    if not plugin.api:
        hint = f'add the keyword "{API_KEYWORD}{here}" to its pyproject.toml'
        raise PluginError(f"{plugin} does not state the plugin API that it was written for", hint=hint)
    try:
        major, minor = (int(part) for part in plugin.api.split("."))
    except ValueError:
        raise PluginError(f"{plugin} states `{plugin.api}` as its plugin API; that is not MAJOR.MINOR") from None
    if major != API[0] or minor > API[1]:
        newer = (major, minor) > API
        hint = f"upgrade {'deepseek-core' if newer else plugin.distribution}: pip install -U " + (
            "deepseek-core" if newer else plugin.distribution
        )
        raise PluginError(f"{plugin} is written for plugin API {plugin.api}, this is {here}", hint=hint)


def _import(plugin: Plugin) -> ModuleType:
    try:
        return importlib.import_module(plugin.target)
    except Exception as exc:
        hint = f"reinstall it (pip install --force-reinstall {plugin.distribution}), or list `{plugin.name}` under "
        what = f"{plugin} (plugin `{plugin.name}`) can't be imported: {type(exc).__name__}: {exc}"
        raise PluginError(what, hint=hint + "`plugins.disable` or `plugins.optional`") from exc


def _check_hooks(plugin: Plugin, module: ModuleType) -> tuple[str, ...]:
    """The hooks that a module implements, after the checks that pluggy makes late or not at all."""
    hooks = []
    for name, function in inspect.getmembers(module, inspect.isroutine):
        marks = getattr(function, "deepseek_impl", None)
        if marks is None:
            continue
        if name not in hookspecs.NAMES:
            near = difflib.get_close_matches(name, hookspecs.NAMES, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"hooks are: {', '.join(hookspecs.NAMES)}"
            raise PluginError(f"{plugin} implements `{name}`, which is not a hook", hint=hint)
        if marks.get("wrapper") or marks.get("hookwrapper"):
            hint = "return a Wrapper record from `execute` instead"
            raise PluginError(f"{plugin} declares `{name}` as a hook wrapper, which is not supported", hint=hint)
        _check_arguments(plugin, name, function)
        hooks.append(name)
    return tuple(sorted(hooks, key=hookspecs.NAMES.index))


def _check_arguments(plugin: Plugin, name: str, function: Any) -> None:
    allowed = list(inspect.signature(getattr(hookspecs, name)).parameters)
    for argument in inspect.signature(function).parameters.values():
        if argument.name not in allowed:
            hint = f"its arguments are: {', '.join(allowed) or 'none'}"
            raise PluginError(f"{plugin}: the hook `{name}` has no argument `{argument.name}`", hint=hint)
        if argument.default is not inspect.Parameter.empty:
            hint = "pluggy treats defaults differently from version to version; take the argument without one"
            raise PluginError(f"{plugin}: `{name}` gives its argument `{argument.name}` a default", hint=hint)
