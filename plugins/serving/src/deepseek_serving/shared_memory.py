"""System shared memory that clients on the same machine registered, so that tensors need not travel.

Source: the protocol's extension "system shared memory". A client that shortens a region while it is in use can end
the process (SIGBUS): for clients that are trusted, therefore off unless allowed.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from pathlib import Path
from typing import Any

import msgspec

from deepseek.plugin import InputError
from deepseek_serving.errors import UnknownError

_SHM = Path("/dev/shm")  # noqa: S108 -- where POSIX shared memory is on Linux
#: The object's name, without a way out of the folder.
_KEY = re.compile(r"/?([A-Za-z0-9_][A-Za-z0-9_.\-]{0,250})")


class Registered(msgspec.Struct):
    """A region."""

    key: str
    offset: int
    size: int
    memory: memoryview


class SharedMemory:
    """Regions by the names that clients gave them, each tenant its own."""

    def __init__(self) -> None:
        self._regions: dict[tuple[str, str], Registered] = {}

    def register(self, tenant: str, name: str, key: str, offset: int, size: int) -> None:
        """Make a shared-memory object known. Raises InputError."""
        match = _KEY.fullmatch(key)
        if not name or match is None:
            raise InputError(f"the shared memory `{key[:80]}` can't be named so")
        if (tenant, name) in self._regions:
            raise InputError(f"the shared memory `{name}` is registered already", hint="unregister it first")
        self._regions[tenant, name] = Registered(key, offset, size, _map(match[1], offset, size))

    def unregister(self, tenant: str, name: str) -> None:
        """Forget a region; all of them where the name is empty. What is in use is freed with its last request."""
        for key in [key for key in self._regions if key[0] == tenant and name in ("", key[1])]:
            del self._regions[key]

    def status(self, tenant: str, name: str) -> list[dict[str, Any]]:
        """The regions, or one of them. Raises UnknownError."""
        found = {key[1]: region for key, region in self._regions.items() if key[0] == tenant and name in ("", key[1])}
        if name and not found:
            raise UnknownError(f"no shared memory `{name}` is registered")
        return [
            {"name": name, "key": region.key, "offset": region.offset, "byte_size": region.size}
            for name, region in found.items()
        ]

    def region(self, tenant: str, name: str, offset: int, size: int) -> memoryview:
        """Bytes of a region. Raises InputError."""
        region = self._regions.get((tenant, name))
        if region is None:
            raise InputError(f"no shared memory `{name[:80]}` is registered")
        if offset + size > region.size:
            raise InputError(f"the shared memory `{name}` has {region.size} bytes, not {offset + size}")
        return region.memory[offset : offset + size]


def _map(name: str, offset: int, size: int) -> memoryview:
    try:
        handle = os.open(_SHM / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise InputError(f"the shared memory `{name}` can't be opened: {exc.strerror}") from exc
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or offset < 0 or size <= 0 or offset + size > found.st_size:
            raise InputError(f"the shared memory `{name}` has no {size} bytes from {offset} on")
        # The offset of a mapping is a number of pages.
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(handle, offset + size - start, offset=start)
    finally:
        os.close(handle)
    return memoryview(mapped)[offset - start :]
