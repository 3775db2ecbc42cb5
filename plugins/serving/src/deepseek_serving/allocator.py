"""The C library's allocator, which keeps what a model gave back unless it is asked for it."""

from __future__ import annotations

import ctypes
from typing import Any

#: glibc's numbers of its parameters. Source: mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
#: Arenas that threads share; bytes that are kept for the next request, and of blocks that are the system's each time.
_ARENAS, _KEPT, _LARGE = 2, 16 << 20, 8 << 20


def _of_glibc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        # Not glibc: nothing of the kind is known.
        return lambda *numbers: None


#: Give unused memory back to the system; takes how many bytes to keep.
trim = _of_glibc("malloc_trim")


def tune() -> None:
    """Make the allocator one for a server.

    Each load of a model has a thread of its own, and would leave rests in another arena: threads share few. And the
    memory of each body would be given back to the system after the request: some is kept for the next.
    """
    change = _of_glibc("mallopt")
    change(_ARENA_MAX, _ARENAS)
    change(_TRIM_THRESHOLD, _KEPT)
    change(_MMAP_THRESHOLD, _LARGE)
