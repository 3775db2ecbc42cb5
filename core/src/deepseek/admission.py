"""Admitting a plugin: what it states is checked, its module of hooks imported, and each hook looked at."""

from __future__ import annotations

import difflib
import importlib
import inspect
from types import ModuleType
from typing import Any

from deepseek import hookspecs
from deepseek.errors import NOBODYS_FAULT, PluginError
from deepseek.plugins import Plugin, check_api


def admit(plugin: Plugin) -> tuple[ModuleType, tuple[str, ...]]:
    """The module of a plugin's hooks, and the names of those that it implements.

    Raises:
        PluginError: it is broken, can't be imported, is written for another API, or misspells a hook.
    """
    if plugin.state == "broken":
        raise PluginError(plugin.why, hint=plugin.hint)
    check_api(plugin)
    module = plugin.module or _import(plugin)
    return module, _check_hooks(plugin, module)


def _import(plugin: Plugin) -> ModuleType:
    try:
        return importlib.import_module(plugin.target)
    except NOBODYS_FAULT:
        raise
    except BaseException as exc:
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
    if not hooks:
        hint = "mark functions of the hooks' names with @hookimpl in the module that the entry point names"
        raise PluginError(f"{plugin} implements no hook", hint=hint)
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
