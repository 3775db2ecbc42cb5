"""How deep JSON is nested: found before it is decoded, at the speed of copies, not of a parser."""

from __future__ import annotations

import re

from deepseek.plugin import InputError

#: Lists and objects within one another.
DEPTH = 100
_STRING = re.compile(rb'"[^"]*"')
#: All but brackets and quotes goes; objects become lists.
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))
_LISTS = bytes.maketrans(b"{}", b"[]")


def check_depth(raw: bytes | memoryview) -> None:
    """Raises InputError for JSON that is nested deeper than `DEPTH`; what is no JSON its decoder tells."""
    text = bytes(raw)
    if text.count(b"[") + text.count(b"{") <= DEPTH:
        return
    # Quotes that are part of a text are told by what stands before them.
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_LISTS, _OTHERS)
    marks = _STRING.sub(b"", text)
    for _ in range(DEPTH):
        before = len(marks)
        # One level of all that there is.
        marks = marks.replace(b"[]", b"")
        if len(marks) == before:
            return
    if marks:
        raise InputError(f"the JSON is nested more than {DEPTH} deep")
