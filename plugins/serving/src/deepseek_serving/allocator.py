"""The C library's allocator, which keeps what a model gave back unless it is asked for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _trimmer() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        # Not glibc: nothing of the kind is known.
        return lambda pad: None


#: Give unused memory back to the system; takes how many bytes to keep.
trim = _trimmer()
