"""API keys: made, kept as hashes in a file, and read again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from deepseek.plugin import ConfigError, OutputError, atomic_write

#: What every key begins with, so that scanners for leaked secrets know one.
PREFIX = "dsk_"


_Number = Annotated[float, Meta(ge=0, le=1e9)]
#: Requests per second: one in twelve days.
_SLOWEST = 1e-6


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as the file holds it: its hash, and what its holder may.

    The keys have 256 random bits, so one round of SHA-256 is enough: nobody can guess what was hashed.

    Attributes:
        id: what the key is called by people.
        tenant: who is billed.
        sha256: of the key, hexadecimal.
        admin: whether administrative calls that the server allows are open to it.
        rate: requests per second that the tenant may make in the long run, with all of its keys; 0: any number.
        burst: requests at once beyond that; 0: as many as in one second.
    """

    id: str
    tenant: str
    sha256: str
    admin: bool = False
    rate: _Number = 0.0
    burst: _Number = 0.0


def digest(key: bytes) -> bytes:
    """The hash under which a key is kept."""
    return hashlib.sha256(key).digest()


def read(path: Path) -> list[Key]:
    """The keys of a file. Raises ConfigError."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[Key])
        if any(len(bytes.fromhex(key.sha256)) != 32 for key in found):
            raise ValueError("a hash has not 64 hexadecimal digits")
        if any(0 < key.rate < _SLOWEST for key in found):
            raise ValueError(f"a rate is below {_SLOWEST:g} requests per second")
        return found
    except FileNotFoundError:
        raise ConfigError("there is no file of keys", where=str(path), hint="make one: deepseek keys add") from None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the file of keys can't be read: {exc}", where=str(path)) from exc


def add(path: Path, tenant: str, **rights: Any) -> str:
    """Add a key to a file, which is made where there is none; the key itself, which is kept nowhere.

    Raises:
        ConfigError: the file is there, and is no file of keys; or a right that can't be.
        OutputError: it can't be written.
    """
    numbers = [rights.get(name, 0.0) for name in ("rate", "burst")]
    if not tenant.strip() or not all(number == 0 or _SLOWEST <= number <= 1e9 for number in numbers):
        raise ConfigError(f"a key needs a tenant's name, and a rate and a burst that are numbers from {_SLOWEST:g}")
    secret = PREFIX + secrets.token_urlsafe(32)
    name = secrets.token_hex(4)
    with _alone(path):
        keys = read(path) if path.exists() else []
        before = next((key for key in keys if key.tenant == tenant and key.rate), None)
        if before is not None:
            if numbers not in ([0.0, 0.0], [before.rate, before.burst]):
                what = f"the tenant `{tenant}` has the rate {before.rate:g}/s already, for all of its keys"
                raise ConfigError(what, hint="leave --rate and --burst away, or remove its keys first")
            rights |= {"rate": before.rate, "burst": before.burst}
        write(path, [*keys, Key(name, tenant, digest(secret.encode()).hex(), **rights)])
    return secret


def remove(path: Path, name: str) -> None:
    """Take a key out of a file. Raises ConfigError."""
    with _alone(path):
        keys = read(path)
        left = [key for key in keys if key.id != name]
        if len(left) == len(keys):
            known = ", ".join(key.id for key in keys)
            raise ConfigError(f"there is no key `{name}`", where=str(path), hint=f"it holds: {known or 'none'}")
        write(path, left)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Change a file while no other process does. Raises OutputError."""
    try:
        folder = os.open(path.absolute().parent, os.O_RDONLY)
    except OSError as exc:
        raise OutputError(f"the file of keys can't be written: {exc.strerror}", where=str(path)) from exc
    try:
        # Of the folder: the file itself is replaced.
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write(path: Path, keys: list[Key]) -> None:
    """Write a file of keys, which nobody else may read."""
    with atomic_write(path) as scratch:
        scratch.chmod(0o600)
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(keys), indent=2))
    # The file that was there may have been open to others.
    path.chmod(0o600)
