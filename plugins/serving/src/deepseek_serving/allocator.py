"""The C library's allocator, which keeps what a model gave back unless it is asked for it."""

from __future__ import annotations

import ctypes
from typing import Any

#: glibc's number of the parameter, and how many arenas threads share. Source: mallopt(3).
_ARENA_MAX, _ARENAS = -8, 2


def _of_glibc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        # Not glibc: nothing of the kind is known.
        return lambda *numbers: None


#: Give unused memory back to the system; takes how many bytes to keep.
trim = _of_glibc("malloc_trim")


def few_arenas() -> None:
    """Have threads share few arenas: each load of a model has a thread of its own, and would leave rests in another."""
    _of_glibc("mallopt")(_ARENA_MAX, _ARENAS)
