"""Find plugins once, and decide which take part. Nothing is imported here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.metadata import distributions
from types import ModuleType

from msgspec.structs import replace

from deepseek.errors import IncompatiblePluginError, PluginError
from deepseek.settings import PluginSettings
from deepseek.types import Record
from deepseek.versions import API, PLUGINS, VERSIONS, distribution, members, unwritten

GROUP = "deepseek"
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
    hooks: tuple[str, ...] = ()
    module: ModuleType | None = None

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def discover() -> list[Plugin]:
    """Every installed plugin, in the order of names, from one scan; nothing is imported.

    Raises:
        PluginError: two distributions carry a plugin of one name.
    """
    found: dict[str, Plugin] = {}
    seen: set[str] = set()
    for dist in distributions():
        points = [point for point in dist.entry_points if point.group == GROUP]
        if not points:
            continue
        metadata = dist.metadata
        name, version = metadata["Name"], metadata["Version"]
        # A distribution found twice on sys.path (an editable one beside a stale copy) counts once.
        if name in seen:
            continue
        seen.add(name)
        api = _api(metadata.get_all("Keywords") or [])
        for point in points:
            plugin = Plugin(point.name, name, version, point.module, api)
            if plugin.name in found:
                hint = f"uninstall one: pip uninstall {plugin.distribution}"
                raise PluginError(
                    f"two plugins are named `{plugin.name}`: {found[plugin.name]} and {plugin}", hint=hint
                )
            found[plugin.name] = plugin
    return [found[name] for name in sorted(found)]


def _api(keywords: Iterable[str]) -> str:
    words = " ".join(keywords).replace(",", " ").split()
    return next((word.removeprefix(API_KEYWORD) for word in words if word.startswith(API_KEYWORD)), "")


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
    names: set[str] = set()
    for plugin in plugins:
        if plugin.name in names | {"fifo"}:
            raise PluginError(f"two plugins are named `{plugin.name}`", hint="give the modules different names")
        names.add(plugin.name)
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


def check_api(plugin: Plugin) -> None:
    """Majors must be equal and the plugin's minor not newer. Raises IncompatiblePluginError."""
    here = f"{API[0]}.{API[1]}"
    if not plugin.api:
        hint = f'add the keyword "{API_KEYWORD}{here}" to its pyproject.toml'
        raise IncompatiblePluginError(f"{plugin} does not state the plugin API that it was written for", hint=hint)
    try:
        major, minor = (int(part) for part in plugin.api.split("."))
    except ValueError:
        raise IncompatiblePluginError(
            f"{plugin} states `{plugin.api}` as its plugin API; that is not MAJOR.MINOR"
        ) from None
    if major != API[0] or minor > API[1]:
        newer = (major, minor) > API
        hint = f"upgrade {'deepseek-core' if newer else plugin.distribution}: pip install -U " + (
            "deepseek-core" if newer else plugin.distribution
        )
        raise IncompatiblePluginError(f"{plugin} is written for plugin API {plugin.api}, this is {here}", hint=hint)
