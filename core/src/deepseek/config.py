"""Plain values to frozen settings: the second half of reading a pipeline file.

Every plugin owns sections, and a section is a `Settings` class. Its fields' types are checked and
converted here; an error carries the place, the full key and, for an unknown key, the nearest one.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import msgspec
from msgspec import Meta

from deepseek.document import Document, Key, dotted
from deepseek.errors import ConfigError
from deepseek.settings import KernelSettings, ModelSettings, Selection, Settings
from deepseek.units import Duration, Percent, Size

SettingsT = TypeVar("SettingsT", bound=Settings)

#: What msgspec calls a kind of value, and what people do.
_KINDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false",
    "array": "a list", "object": "a mapping", "null": "nothing",
}  # fmt: skip
_KIND = re.compile(rf"`?\b({'|'.join(_KINDS)})\b`?")


class Config:
    """A pipeline's settings: the kernel's own, and one frozen object for each plugin's section.

    Example:
        >>> deepseek.explain("pipeline.yaml").config[FifoSettings].max_queue
        1024
    """

    def __init__(self, kernel: KernelSettings, sections: Mapping[str, Settings], document: Document) -> None:
        self.kernel = kernel
        self.sections = dict(sections)
        self.document = document
        self._by_type = {type(section): section for section in sections.values()}

    def __getitem__(self, kind: type[SettingsT]) -> SettingsT:
        """The section of that type; mypy knows what comes back."""
        return typing.cast(SettingsT, self._by_type[kind])

    def given(self, section: str) -> bool:
        """Whether the pipeline file mentions the section at all.

        Example:
            >>> config = deepseek.explain("pipeline.yaml").config
            >>> config.given("model"), config.given("fifo")
            (True, False)
        """
        return section in self.document.data

    @property
    def model(self) -> ModelSettings:
        """The model's settings, the shorthand unfolded.

        Example:
            >>> deepseek.explain("pipeline.yaml").config.model.source.name
            'model.onnx'
        """
        model = self.kernel.model
        if isinstance(model, str):
            if "\0" in model:
                raise self.error("model", f"must be a path (got `{model}`)")
            return ModelSettings(source=self.document.path(model))
        return model

    def resolve(self, path: str) -> Path:
        """A path as the file means it: relative to the file's own folder.

        Example:
            >>> deepseek.explain("pipeline.yaml").config.resolve("labels.txt").is_absolute()
            True
        """
        return self.document.path(path)

    def where(self, key: str) -> str:
        """``file:line:column`` of a dotted key, or of the nearest enclosing one that the file has.

        Example:
            >>> deepseek.explain("pipeline.yaml").config.where("inputs.image")
            'pipeline.yaml:2:17'
        """
        return self.document.where(tuple(key.split(".")))

    def error(self, key: str, problem: str, *, hint: str = "") -> ConfigError:
        """A ConfigError that points at a dotted key of this document.

        Example:
            >>> str(deepseek.explain("pipeline.yaml").config.error("inputs.image", "needs a crop"))
            'pipeline.yaml:2:17: `inputs.image` needs a crop'
        """
        return ConfigError(f"`{key}` {problem}", where=self.where(key), hint=hint)


def settle(
    document: Document, sections: Mapping[str, type[Settings]], blocked: Mapping[str, str] | None = None
) -> Config:
    """Convert and check a whole document.

    Args:
        document: from `deepseek.reader.read`.
        sections: every section that an active plugin owns.
        blocked: plugins that take no part, and why: their sections are not known.

    Raises:
        ConfigError: an unknown key, a missing one, or a value of the wrong kind.
    """
    own = {field.encode_name for field in msgspec.structs.fields(KernelSettings)}
    for key in document.data:
        if key not in own and key not in sections:
            if blocked and key in blocked:
                what = f"`{key}` is the section of a plugin that takes no part: {blocked[key]}"
                hint = "remove the section, or let the plugin take part"
                raise ConfigError(what, where=document.where_key((key,)), hint=hint)
            raise _unknown(document, (key,), [*own, *sections])
    # A section that is named and left empty (`plugins:`, `fifo:`) is there with its defaults.
    mine = {key: value for key, value in document.data.items() if key in own and (key, value) != ("plugins", None)}
    kernel = convert(document, (), mine, KernelSettings)
    given = {name: {} if document.data.get(name) is None else document.data[name] for name in sections}
    settled = {name: convert(document, (name,), given[name], kind) for name, kind in sections.items()}
    return Config(kernel, settled, document)


def first_look(document: Document) -> Selection:
    """`version` and `plugins`, which decide whose sections exist, before the rest can be checked."""
    names = [field.encode_name for field in msgspec.structs.fields(Selection)]
    return convert(
        document, (), {name: value for name in names if (value := document.data.get(name)) is not None}, Selection
    )


def convert(document: Document, key: Key, value: object, kind: type[SettingsT]) -> SettingsT:
    """One value as a settings object. Raises ConfigError."""
    return typing.cast(SettingsT, _convert(document, key, value, kind))


def _convert(document: Document, key: Key, value: object, kind: Any) -> object:
    """Recurse by hand through structs, mappings and lists, so that an error knows its exact place
    (msgspec's own messages leave out the keys of mappings); leaves are msgspec's.
    """
    bare = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    arms = typing.get_args(bare) if typing.get_origin(bare) in (Union, types.UnionType) else (bare,)
    for arm in arms:
        origin, args = typing.get_origin(arm) or arm, typing.get_args(arm)
        if isinstance(value, Mapping) and _is_struct(arm):
            return _struct(document, key, value, arm)
        if isinstance(value, Mapping) and origin is dict and args:
            return {k: _convert(document, (*key, k), v, args[1]) for k, v in value.items()}
        if isinstance(value, list) and origin is list and args:
            return [_convert(document, (*key, i), v, args[0]) for i, v in enumerate(value)]
    return _leaf(document, key, value, kind)


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _struct(document: Document, key: Key, value: Mapping[str, object], kind: Any) -> object:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name in value:
        if name not in fields:
            raise _unknown(document, (*key, name), fields)
    for name, field in fields.items():
        if field.required and name not in value:
            raise ConfigError(
                f"`{dotted((*key, name))}` is missing", where=document.where(key), hint=_describe(field.type)
            )
    values = {fields[n].name: _convert(document, (*key, n), v, fields[n].type) for n, v in value.items()}
    try:
        return kind(**values)
    # A class may check its fields against one another, in `__post_init__`.
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"`{dotted(key)}`: {exc}", where=document.where(key)) from exc


def _unknown(document: Document, key: Key, known: typing.Iterable[str]) -> ConfigError:
    names = sorted(known)
    # Keys are lower case; who shouts means the same.
    near = difflib.get_close_matches(str(key[-1]).lower(), names, n=1)
    hint = f"did you mean `{dotted((*key[:-1], near[0]))}`?" if near else f"known keys here: {', '.join(names)}"
    return ConfigError(f"`{dotted(key)}` is not a known key", where=document.where_key(key), hint=hint)


def _leaf(document: Document, key: Key, value: object, kind: Any) -> object:
    def custom(wanted: type, raw: object) -> object:
        if wanted is Path:
            if not isinstance(raw, str) or not raw or "\0" in raw:
                raise ValueError("must be a path")
            return document.path(raw)
        if issubclass(wanted, Duration | Size | Percent):
            try:
                return wanted.parse(raw)
            except ValueError:
                raise ValueError(f"must be {wanted.wanted}") from None
        raise NotImplementedError(f"settings can't hold {wanted}")

    try:
        return msgspec.convert(value, kind, dec_hook=custom)
    except msgspec.ValidationError as exc:
        problem = _problem(str(exc).partition(" - at `")[0], kind)
        raise ConfigError(f"`{dotted(key)}` {problem} (got {_show(value)})", where=document.where(key)) from exc


def _problem(message: str, kind: Any) -> str:
    """Msgspec's "Expected `int`, got `str`" as the second half of a sentence about the key."""
    if message.endswith("of length >= 1"):
        return "must not be empty"
    if message.startswith("Expected "):
        wanted = message.removeprefix("Expected ").partition(", got")[0].replace(" | ", " or ")
        return f"must be {_KIND.sub(lambda match: _KINDS[match[1]], wanted)}"
    if message.startswith("Invalid enum value"):
        return f"must be one of {', '.join(f'`{choice}`' for choice in _choices(kind) if choice != '')}"
    return message


def _choices(kind: Any) -> list[object]:
    """The values of a Literal, wherever it stands within Annotated and unions."""
    if typing.get_origin(kind) is Literal:
        return list(typing.get_args(kind))
    return [choice for arm in typing.get_args(kind) for choice in _choices(arm)]


def _show(value: object) -> str:
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text[:60]}`" if len(text) <= 60 else f"`{text[:57]}...`"


def _describe(kind: Any) -> str:
    for extra in typing.get_args(kind)[1:] if typing.get_origin(kind) is Annotated else ():
        if isinstance(extra, Meta) and extra.description:
            return extra.description
    return ""
