"""Find plugins once, and decide which take part. Nothing is imported here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from importlib.metadata import Distribution, distributions
from types import ModuleType

from msgspec.structs import replace

from deepseek.document import Key
from deepseek.errors import IncompatiblePluginError, PluginError
from deepseek.records import Record
from deepseek.settings import Selection
from deepseek.versions import API, PLUGINS, VERSIONS, distribution, members, unwritten

GROUP = "deepseek"
#: The built-in scheduler's name.
KERNELS = "fifo"
#: A plugin states the API version that it was written for as a keyword of its distribution.
API_KEYWORD = "deepseek-plugin-api-"


class Plugin(Record):
    """What is known of an installed plugin.

    Attributes:
        name: the entry point's name, which a pipeline uses.
        distribution: the distribution that carries it.
        version: the distribution's version.
        target: the module of its hooks.
        api: the plugin API that it was written for, empty when it does not say.
        state: ``found``, ``active``, ``blocked`` (not imported), ``broken`` or ``incompatible``.
        why: the reason of the state.
        hint: the way out of it.
        hooks: the hooks that it answers, once imported.
        module: the module of its hooks, once imported.
    """

    name: str
    distribution: str
    version: str
    target: str
    api: str = ""
    state: str = "found"
    why: str = ""
    hint: str = ""
    hooks: tuple[str, ...] = ()
    module: ModuleType | None = None

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def discover() -> list[Plugin]:
    """Every installed plugin, in the order of names, from one scan; nothing is imported.

    One that can't be read, or whose name another has too, is there with the state ``broken``.
    """
    found: list[Plugin] = []
    seen: set[str] = set()
    for dist in distributions():
        try:
            points = [point for point in dist.entry_points if point.group == GROUP]
            if any(point.attr for point in points):
                raise ValueError("they name an attribute; a plugin's names its module of hooks alone")
            if not points:
                continue
            # Parsed each time that it is asked for, and slow: of plugins alone, and once.
            about = dist.metadata
            name, version = about["Name"], about["Version"]
            if not (name and version):
                raise ValueError("its metadata names no distribution, or no version")
            # A distribution found twice on sys.path (an editable one beside a stale copy) counts once.
            if name not in seen:
                seen.add(name)
                api = _api(about.get_all("Keywords") or [])
                found += [Plugin(point.name, name, version, point.module, api) for point in points]
        # Malformed entry points make importlib.metadata raise AttributeError and more.
        except Exception as exc:
            if GROUP in (dist.read_text("entry_points.txt") or ""):
                found.append(_unreadable(dist, exc))
    return _unique(sorted(found, key=lambda plugin: plugin.name))


def _unreadable(dist: Distribution, exc: Exception) -> Plugin:
    name, version = str(dist.metadata["Name"] or ""), str(dist.metadata["Version"] or "")
    why = f"the entry points of {name} {version} can't be read: {type(exc).__name__}: {exc}"
    hint = f"reinstall it, or pip uninstall {name}" if name else f"look for it in {dist.locate_file('')}"
    return Plugin(name or "nameless", name or "nameless", version, "", state="broken", why=why, hint=hint)


def _unique(plugins: list[Plugin]) -> list[Plugin]:
    """Mark those that share a name, with one another or with the kernel: which one is meant nobody knows."""
    result = []
    for plugin in plugins:
        same = [other for other in plugins if other.name == plugin.name]
        others = [other.distribution for other in same if other.distribution != distribution(plugin.name)]
        why = ""
        if plugin.name == KERNELS:
            why = f"the plugin `{KERNELS}` has the name of the kernel's own scheduler: {plugin}"
        elif len(same) > 1:
            why = f"two plugins are named `{plugin.name}`: {' and '.join(map(str, same))}"
        hint = f"uninstall one: pip uninstall {' or '.join(others)}"
        result.append(replace(plugin, state="broken", why=why, hint=hint) if why else plugin)
    return result


def _api(keywords: Iterable[str]) -> str:
    words = " ".join(keywords).replace(",", " ").split()
    return next((word.removeprefix(API_KEYWORD) for word in words if word.startswith(API_KEYWORD)), "")


def from_module(module: ModuleType) -> Plugin:
    """A plugin that is not installed: a module (or any object with hooks) of the caller's own."""
    if isinstance(module, str | bytes):
        hint = "import it first: installed plugins take part by themselves"
        raise PluginError(f"plugins=[...] takes modules with hooks, not the text `{module!r}`", hint=hint)
    name = str(getattr(module, "__name__", type(module).__name__))
    return Plugin(name, f"<{name}>", "0", name, f"{API[0]}.{API[1]}", module=module)


def select(found: Iterable[Plugin], chosen: Selection, where: Callable[[Key], str] = lambda _: "") -> list[Plugin]:
    """Decide by version, `plugins.enable` and `plugins.disable` who takes part; mark the others blocked.

    Args:
        found: from `discover`.
        chosen: what the pipeline says.
        where: the place of a key in the pipeline file, for errors.

    Raises:
        PluginError: a plugin that is asked for is not installed, or not written yet.
    """
    plugins = list(found)
    names = {plugin.name for plugin in plugins}
    for plugin in plugins:
        twice = sum(other.name == plugin.name for other in plugins) > 1
        if plugin.module and (twice or plugin.name == KERNELS):
            raise PluginError(f"two plugins are named `{plugin.name}`", hint="give the modules different names")
    version, settings = chosen.version, chosen.plugins
    wanted = set(members(version)) | set(settings.enable) if version else names
    _all_known(names, chosen, where)
    selected = []
    for plugin in plugins:
        why = ""
        if plugin.name in settings.disable:
            why = "disabled by plugins.disable"
        elif plugin.name not in wanted and plugin.module is None:
            why = f"not part of {version}; add it to plugins.enable"
        selected.append(replace(plugin, state="blocked", why=why) if why else plugin)
    return selected


def _all_known(names: set[str], chosen: Selection, where: Callable[[Key], str]) -> None:
    version, settings = chosen.version, chosen.plugins
    if version:
        missing = set(members(version)) - names - set(settings.disable)
        _require_written(version, missing, where(("version",)))
        if missing:
            lacking = ", ".join(distribution(name) for name in sorted(missing))
            hint = f"pip install 'deepseek[{version}]', or list the plugins to do without under `plugins.disable`"
            raise PluginError(f"{version} needs {lacking}, not installed here", where=where(("version",)), hint=hint)
    for key in ("enable", "disable", "optional"):
        for number, name in enumerate(getattr(settings, key)):
            if name not in names and not (key != "enable" and name in _curated()):
                near = difflib.get_close_matches(name, sorted(names), n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"installed: {', '.join(sorted(names)) or 'none'}"
                what = f"`plugins.{key}` names `{name}`, which is not an installed plugin"
                raise PluginError(what, where=where(("plugins", key, number)), hint=hint)


def _require_written(version: str, missing: set[str], where: str) -> None:
    absent = missing & set(unwritten(version))
    if absent:
        ready = [name for name in VERSIONS if not unwritten(name)]
        hint = f"complete versions: {', '.join(ready)}; or list them under `plugins.disable`; see `deepseek versions`"
        what = f"{version} is not complete yet: {', '.join(sorted(absent))} not written"
        raise PluginError(what, where=where, hint=hint)


def _curated() -> set[str]:
    return set(PLUGINS) | {name for _, added in VERSIONS.values() for name in added}


def check_api(plugin: Plugin) -> None:
    """Majors must be equal and the plugin's minor not newer. Raises IncompatiblePluginError."""
    here = f"{API[0]}.{API[1]}"
    if not plugin.api:
        hint = f'add the keyword "{API_KEYWORD}{here}" to its pyproject.toml'
        raise IncompatiblePluginError(f"{plugin} does not state the plugin API that it was written for", hint=hint)
    match = re.fullmatch(r"(\d+)\.(\d+)", plugin.api)
    if match is None:
        raise IncompatiblePluginError(f"{plugin} states `{plugin.api}` as its plugin API; that is not MAJOR.MINOR")
    major, minor = int(match[1]), int(match[2])
    if major != API[0] or minor > API[1]:
        newer = (major, minor) > API
        hint = f"upgrade {'deepseek-core' if newer else plugin.distribution}: pip install -U " + (
            "deepseek-core" if newer else plugin.distribution
        )
        raise IncompatiblePluginError(f"{plugin} is written for plugin API {plugin.api}, this is {here}", hint=hint)
