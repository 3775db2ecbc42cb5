"""What JSON costs: how deep it is nested, found at the speed of copies, and the collections that its objects start."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager

from deepseek.plugin import InputError

#: Lists and objects within one another.
DEPTH = 100
_STRING = re.compile(rb'"[^"]*"')
#: All but brackets and quotes goes; objects become lists.
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))
_LISTS = bytes.maketrans(b"{}", b"[]")
#: Bytes of JSON whose objects are so many that they would be looked through again and again while they are made.
_MANY = 1 << 20


@contextmanager
def uncollected(length: int) -> Iterator[None]:
    """Make the objects of so many bytes of JSON without a collection of garbage, which would take most of the time."""
    if length < _MANY or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


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
