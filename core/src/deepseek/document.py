"""A pipeline file as plain values that remember where they stood."""

from __future__ import annotations

from pathlib import Path

import msgspec

from deepseek.errors import ConfigError

#: A path into the document: keys and list positions.
Key = tuple["str | int", ...]


class Document(msgspec.Struct):
    """A configuration as plain values, with the place of each.

    Attributes:
        data: what the file says, overrides applied.
        name: how the file is called in messages.
        base: the folder that relative paths start from.
        marks: where each value stands.
        keys: where each key of a mapping stands.
    """

    data: dict[str, object]
    name: str
    base: Path
    marks: dict[Key, str] = {}
    keys: dict[Key, str] = {}

    def where(self, key: Key) -> str:
        """``file:line:column`` of a value, or of the nearest enclosing one that has a place."""
        while key and key not in self.marks:
            key = key[:-1]
        return self.marks.get(key, self.name)

    def where_key(self, key: Key) -> str:
        """The same for the key itself, which may stand lines above its value."""
        return self.keys.get(key) or self.where(key)

    def path(self, text: str) -> Path:
        """A path as the document means it: relative to its folder, ``~`` the user's home."""
        try:
            return self.base / Path(text).expanduser()
        except RuntimeError as exc:
            raise ConfigError(f"`{text}`: {exc}", where=self.name, hint="write the whole path") from exc


def dotted(key: Key) -> str:
    """A path as a reader writes it: ``inputs.image.mean[2]``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
