"""The plugins that take part: registered, and asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pluggy
from msgspec.structs import replace

from deepseek import fifo, hookspecs
from deepseek.admission import admit
from deepseek.errors import (
    NOBODYS_FAULT,
    DeepSeekError,
    HookError,
    IncompatiblePluginError,
    ModelError,
    OutOfMemoryError,
    PluginError,
)
from deepseek.files import disk_full, is_full
from deepseek.offers import Coding, Decline, Engine, Loader, Pass, Policy, Stage, Wrapper
from deepseek.plugins import KERNELS, Plugin
from deepseek.records import Record
from deepseek.settings import KernelSettings, Settings
from deepseek.types import Device

#: What each hook is answered with.
ANSWERS: dict[str, tuple[type, ...]] = {
    "sections": (dict,), "probe": (Device,), "load": (Loader, Decline), "optimize": (Pass, Decline),
    "execute": (Engine, Wrapper, Decline), "schedule": (Policy,), "codec": (Coding,),
}  # fmt: skip
#: The hooks to which a plugin may give several answers, in a list.
SEVERAL = frozenset({"probe", "optimize"})

_SMALLER = "use a smaller model, a smaller dtype, or a machine with more memory"
#: What the system says when there is none for a library, or for a library's own.
_NO_MEMORY = ("failed to map segment", "annot allocate memory")


class Answer(Record):
    """One of the answers to one question, and the plugin that gave it."""

    plugin: str
    value: Any


class Registry:
    """The plugins that take part, registered and ready to be asked.

    Args:
        plugins: from `select`; blocked ones are kept for the record and never imported.
        optional: names whose failure to load, or in a hook, is noted and passed over.

    Raises:
        PluginError: a plugin can't be imported, is written for another API, or misspells a hook.
    """

    def __init__(self, plugins: Iterable[Plugin], optional: Iterable[str] = ()) -> None:
        self._pm = pluggy.PluginManager("deepseek")
        self._pm.add_hookspecs(hookspecs)
        self._pm.register(fifo, KERNELS)
        self._optional = frozenset(optional)
        self.plugins: list[Plugin] = []
        # The last registered answers first, so names register from last to first.
        for plugin in sorted(plugins, key=lambda item: item.name, reverse=True):
            self.plugins.insert(0, self._admit(plugin))
        self._by_name = {plugin.name: plugin for plugin in self.plugins}

    def _admit(self, plugin: Plugin) -> Plugin:
        if plugin.state == "blocked":
            return plugin
        try:
            module, hooks = admit(plugin)
        except PluginError as error:
            if plugin.name not in self._optional:
                raise
            state = "incompatible" if isinstance(error, IncompatiblePluginError) else "broken"
            return replace(plugin, state=state, why=error.what)
        self._pm.register(module, plugin.name)
        return replace(plugin, state="active", hooks=hooks, module=module)

    def sections(self) -> dict[str, type[Settings]]:
        """Section name to settings class, of every plugin.

        Raises:
            PluginError: two claim one name, or a section has no class of its own; an optional plugin is passed over.
        """
        owners: dict[str, str] = {}
        result: dict[str, type[Settings]] = {}
        for answer in self.ask("sections"):
            mine: dict[str, type[Settings]] = {}
            try:
                for name, kind in answer.value.items():
                    self._check_section(answer.plugin, name, kind, result | mine, owners)
                    mine[name] = kind
            except PluginError as error:
                if answer.plugin not in self._optional:
                    raise
                self._drop(answer.plugin, error)
            else:
                result |= mine
                owners |= dict.fromkeys(mine, answer.plugin)
        return result

    def _check_section(
        self, plugin: str, name: str, kind: object, others: Mapping[str, object], owners: Mapping[str, str]
    ) -> None:
        who, fault = self.describe(plugin), ""
        if name in owners:
            raise self._conflict(name, owners[name], plugin)
        if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
            fault = f"{who} claims the section `{name}`, which is no name: a-z, 0-9 and _, a letter first"
        elif name in KernelSettings.__struct_fields__:
            fault = f"{who} claims the section `{name}`, which is the kernel's own"
        elif not (isinstance(kind, type) and issubclass(kind, Settings)):
            fault = f"{who} gives the section `{name}` a {kind!r}, which is no subclass of Settings"
        elif kind in others.values():
            fault = f"{who} gives the section `{name}` a class that another section has already ({kind.__name__})"
        if fault:
            raise PluginError(fault, hint="the plugin's author must choose another name or class")

    def _conflict(self, section: str, first: str, second: str) -> PluginError:
        theirs = [name for name in (first, second) if name in self._by_name]
        hint = f"disable one under `plugins.disable`: {' or '.join(theirs)}"
        what = f"the section `{section}` is claimed by {self.describe(first)} and {self.describe(second)}"
        return PluginError(what, hint=hint)

    def describe(self, name: str) -> str:
        """``deepseek-torch 1.0`` for a plugin's name."""
        return str(self._by_name[name]) if name in self._by_name else "deepseek-core"

    def ask(self, hook: str, **arguments: Any) -> list[Answer]:
        """Put one question to every plugin, in order; None is no answer, a list is several where a hook takes them.

        Goes over pluggy's implementations one by one rather than calling the hook, so that each
        answer, and each exception, is known by the plugin that it came from.

        Raises:
            HookError: a plugin raised something that is not a DeepSeekError, or answered with something else than
                the hook takes. An optional plugin that does so takes part no longer; what it answered before stands.
        """
        answers: list[Answer] = []
        for impl in reversed(getattr(self._pm.hook, hook).get_hookimpls()):
            name = impl.plugin_name
            try:
                with self.blamed(name, f"in its hook `{hook}`", reading=hook == "load"):
                    value = impl.function(*(arguments[argument] for argument in impl.argnames))
                values = value if hook in SEVERAL and isinstance(value, list) else [] if value is None else [value]
                for one in values:
                    self._check_answer(name, hook, one)
            except HookError as error:
                if name not in self._optional:
                    raise
                self._drop(name, error)
            else:
                answers += [Answer(name, one) for one in values]
        return answers

    def _drop(self, name: str, error: PluginError) -> None:
        self._pm.unregister(name=name)
        broken = replace(self._by_name[name], state="broken", why=error.what)
        self._by_name[name] = broken
        self.plugins = [broken if plugin.name == name else plugin for plugin in self.plugins]

    def _check_answer(self, plugin: str, hook: str, value: Any) -> None:
        """An answer of a kind that nobody looks for would be passed over in silence."""
        kinds, fault, wanted = ANSWERS.get(hook, (object,)), "", ""
        if hook == "observe" and not (callable(getattr(value, "batch", None)) and callable(getattr(value, "close", 0))):
            fault, wanted = f"a {type(value).__name__}", "an object with the methods batch(batch) and close()"
        elif not isinstance(value, kinds):
            fault, wanted = f"a {type(value).__name__}", " or ".join(kind.__name__ for kind in kinds)
            wanted += ", or a list of them" * (hook in SEVERAL)
        elif isinstance(value, Pass) and value.stage is Stage.CONVERT and not value.yields:
            fault, wanted = f"the pass `{value.name}`, which converts to nothing", "the format that it `yields`"
        if fault:
            what = f"{self.describe(plugin)} answered its hook `{hook}` with {fault}"
            raise HookError(what, hint=f"it takes {wanted}; None is no answer")

    @contextmanager
    def blamed(self, plugin: str, doing: str, *, reading: bool = False) -> Iterator[None]:
        """Turn what a plugin's own code raises in the block into an error that names the plugin.

        Args:
            plugin: its name.
            doing: what it does in the block (``in its hook `load` ``).
            reading: it reads the model: what the system refuses to read is the model's fault, not the plugin's.

        Raises:
            DeepSeekError: as the plugin raised it.
            OutOfMemoryError: for a MemoryError.
            OutputError: the disk is full.
            ModelError: a file of the model can't be read.
            HookError: for anything else.
        """
        try:
            yield
        except NOBODYS_FAULT:
            raise
        except DeepSeekError as exc:
            _pass_interrupts(exc)
            raise
        except MemoryError as exc:
            raise OutOfMemoryError(f"{self.describe(plugin)} ran out of memory {doing}", hint=_SMALLER) from exc
        # Foreign libraries raise BaseExceptions too (pyo3's panics), and a sys.exit() is no way to end the program.
        except BaseException as exc:
            _pass_interrupts(exc)
            if any(words in str(exc) for words in _NO_MEMORY):
                raise OutOfMemoryError(f"{self.describe(plugin)} ran out of memory {doing}", hint=_SMALLER) from exc
            if isinstance(exc, OSError) and is_full(exc):
                raise disk_full(exc.filename or doing) from exc
            if isinstance(exc, OSError) and exc.filename and reading:
                what = f"{self.describe(plugin)} can't read it: {exc.strerror or exc}"
                raise ModelError(what, where=str(exc.filename)) from exc
            what = f"{self.describe(plugin)} raised {doing}: {type(exc).__name__}: {exc}"
            hint = f"report it to the plugin's author, or disable it: plugins: {{disable: [{plugin}]}}"
            raise HookError(what, hint=hint) from exc


def _pass_interrupts(error: BaseException) -> None:
    """Raise the interrupt that an error came from, if any: libraries turn them into failures of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NOBODYS_FAULT):
            raise cause from None
        cause = cause.__cause__ or cause.__context__
