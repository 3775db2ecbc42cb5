"""Who may ask: keys, tenants, and their rates."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from deepseek.plugin import ConfigError, InputError
from deepseek_serving import keys
from deepseek_serving.errors import ForbiddenError, TooFastError, UnauthorizedError
from deepseek_serving.keys import Key
from deepseek_serving.rates import Bucket, OwnTimes, Times

logger = logging.getLogger("deepseek.serving")


class Caller(msgspec.Struct, frozen=True):
    """Who makes a call.

    Attributes:
        tenant: who is billed; empty: nobody.
        admin: whether administrative calls are open to it.
    """

    tenant: str = ""
    admin: bool = True


#: Who calls where no keys are needed.
ANYBODY = Caller()


class Gatekeeper:
    """Lets callers in by their keys; without a file of keys, whoever can connect.

    Args:
        path: the file of keys, which is read again when it changes.
        allow: administrative calls that the server allows.
        times: what tenants have used of their rates, which the server's other processes share.

    Raises:
        ConfigError: the file can't be read.

    Attributes:
        closed: whether a key is needed.
    """

    def __init__(self, path: Path | None, allow: Iterable[str], times: Times | None = None) -> None:
        self.closed = path is not None
        self._path = path
        self._allow = frozenset(allow)
        self._times: Times = OwnTimes() if times is None else times
        self._changed = 0
        self._missing = False
        self._keys: dict[bytes, Key] = {}
        self._buckets: dict[str, Bucket] = {}
        if path is not None:
            self._read(path)
            self._changed = path.stat().st_mtime_ns

    def admit(self, headers: Iterable[tuple[bytes, bytes]], count: int = 1) -> str:
        """The tenant that makes inference requests, so many at once.

        Raises:
            UnauthorizedError: the key is not known.
            TooFastError: the tenant is over its rate.
            InputError: it may never make so many at once.
        """
        key = self._key(headers)
        bucket = self._buckets.get(key.tenant)
        if bucket is not None:
            if count > bucket.burst and count > 1:
                hint = f"send at most {int(bucket.burst)}"
                raise InputError(
                    f"{count} requests at once are more than the tenant `{key.tenant}` may make", hint=hint
                )
            wait = bucket.take(count)
            if wait:
                rate = f"{bucket.rate:g} requests per second"
                raise TooFastError(f"the tenant `{key.tenant}` is over its rate of {rate}", retry_after=wait)
        return key.tenant

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Who makes any other call. Raises UnauthorizedError."""
        if not self.closed:
            return ANYBODY
        key = self._key(headers)
        return Caller(key.tenant, key.admin)

    def knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a caller has a key, if one is needed."""
        try:
            self.caller(headers)
        except UnauthorizedError:
            return False
        return True

    def allow(self, what: str, caller: Caller) -> None:
        """Raises ForbiddenError unless an administrative call is open to a caller."""
        if what not in self._allow:
            hint = f"the server's settings must say so: `server.allow: [{what}]`"
            raise ForbiddenError(f"`{what}` is not allowed on this server", hint=hint)
        if not caller.admin:
            raise ForbiddenError(f"`{what}` needs an administrator's key")

    def refresh(self) -> None:
        """Read the keys again when their file has changed; one that is broken changes nothing."""
        if self._path is None:
            return
        try:
            changed = self._path.stat().st_mtime_ns
            self._missing = False
            if changed != self._changed:
                # Before it is read: one that is broken is told of once.
                self._changed = changed
                self._read(self._path)
                logger.info("the keys were read again: %d", len(self._keys))
        except OSError as exc:
            if not self._missing:
                self._missing = True
                logger.error("the file of keys can't be looked at: %s; those known go on", exc.strerror)
        except ConfigError as error:
            logger.error("%s; those known go on", error.what)

    def _read(self, path: Path) -> None:
        found = keys.read(path)
        self._keys = {bytes.fromhex(key.sha256): key for key in found}
        # Of several that a file written by hand may name, the lowest.
        self._buckets = {
            key.tenant: Bucket(key.rate, max(1.0, key.burst or key.rate), self._times.of(key.tenant))
            for key in sorted(found, key=lambda key: -key.rate) if key.rate
        }  # fmt: skip

    def _key(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        for name, value in headers:
            if name == b"authorization":
                kind, _, secret = value.partition(b" ")
                if kind.lower() != b"bearer":
                    continue
            elif name == b"x-api-key":
                secret = value
            else:
                continue
            found = keys.digest(secret.strip())
            # Looked up by its hash, of which an attacker knows nothing; the comparison itself takes constant time.
            key = self._keys.get(found)
            if key is not None and hmac.compare_digest(bytes.fromhex(key.sha256), found):
                return key
            raise UnauthorizedError("the API key is not known")
        raise UnauthorizedError("an API key is needed", hint="send `Authorization: Bearer KEY`")
