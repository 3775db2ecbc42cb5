"""What JSON costs: how deep it is nested, found at the speed of copies, and the collections that its objects start."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from deepseek.plugin import InputError

#: Lists and objects within one another.
DEPTH = 100
_QUOTE, _OPENS = ord('"'), ord("[")
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
    """Raises InputError for JSON that is nested deeper than `DEPTH`; what else is wrong with it its decoder tells."""
    text = bytes(raw)
    if text.count(b"[") + text.count(b"{") <= DEPTH:
        return
    # Quotes that are part of a text are told by what stands before them.
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_LISTS, _OTHERS)
    marks = np.frombuffer(text, np.uint8)
    if b'"' in text:
        # Whatever stands behind an odd number of quotes is part of a text.
        marks = marks[~np.logical_xor.accumulate(marks == _QUOTE)]
        marks = marks[marks != _QUOTE]
    depths = np.cumsum(np.where(marks == _OPENS, np.int8(1), np.int8(-1)), dtype=np.int32)
    if depths.max(initial=0) > DEPTH:
        raise InputError(f"the JSON is nested more than {DEPTH} deep")
