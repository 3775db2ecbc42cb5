"""What can go wrong between a client and a model, and how each protocol says so."""

from __future__ import annotations

from math import ceil
from typing import ClassVar

from deepseek.plugin import (
    ClosedError,
    ConfigError,
    DeadlineError,
    DeepSeekError,
    InputError,
    OutOfMemoryError,
    QueueFullError,
    UnavailableError,
)

#: Seconds that a client is told to wait at most: a day.
_LONGEST = 86400


class RefusedError(DeepSeekError):
    """A request that is answered with a status of its own.

    Args:
        what, hint: as in DeepSeekError.
        retry_after: seconds after which it is worth asking again; 0: it is not.
    """

    status: ClassVar[int] = 400
    grpc: ClassVar[str] = "INVALID_ARGUMENT"
    exit_code = 1

    def __init__(self, what: str, *, hint: str = "", retry_after: float = 0) -> None:
        super().__init__(what, hint=hint)
        self.retry_after = retry_after


class UnknownError(RefusedError):
    """There is no such model, version or page."""

    status, grpc = 404, "NOT_FOUND"


class NotReadyError(RefusedError):
    """The model is known, but does not take requests now."""

    status, grpc = 503, "UNAVAILABLE"


class OverloadedError(NotReadyError):
    """As many requests wait as may."""


class UnauthorizedError(RefusedError):
    """No key, or none that is known."""

    status, grpc = 401, "UNAUTHENTICATED"


class ForbiddenError(RefusedError):
    """The call is not allowed on this server, or not with this key."""

    status, grpc = 403, "PERMISSION_DENIED"


class TooFastError(RefusedError):
    """The tenant is over its rate."""

    status, grpc = 429, "RESOURCE_EXHAUSTED"


class TooLargeError(RefusedError):
    """The body is over the limit."""

    status, grpc = 413, "RESOURCE_EXHAUSTED"


class SlowReaderError(RefusedError):
    """More of an answer waits for the client to read it than is kept."""

    status, grpc = 503, "RESOURCE_EXHAUSTED"


class UnsupportedError(RefusedError):
    """A part of the protocol that the server, or the model, does not have."""

    # Not 501: what is wrong is the request, and monitors take 5xx for a fault of the server's.
    status, grpc = 400, "UNIMPLEMENTED"


class GoneError(RefusedError):
    """The client went away, or took the request back."""

    status, grpc = 499, "CANCELLED"


#: Of the kernel's, those that tell a client what to do.
_OTHERS = (InputError, ConfigError, UnavailableError, OutOfMemoryError)


def http_status(error: BaseException) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RefusedError):
        return error.status
    # A pipeline file that is wrong, when somebody has asked to load it.
    if isinstance(error, InputError | ConfigError):
        return 400
    return 503 if isinstance(error, UnavailableError | OutOfMemoryError) else 500


def grpc_status(error: BaseException) -> str:
    """The name of the gRPC status code of an error."""
    if isinstance(error, RefusedError):
        return error.grpc
    if isinstance(error, InputError | ConfigError):
        return "INVALID_ARGUMENT"
    if isinstance(error, DeadlineError):
        return "DEADLINE_EXCEEDED"
    if isinstance(error, ClosedError):
        return "UNAVAILABLE"
    return "RESOURCE_EXHAUSTED" if isinstance(error, QueueFullError | OutOfMemoryError) else "INTERNAL"


def cause(error: BaseException) -> str:
    """A short name of an error's kind, for metrics."""
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).strip("_")


def carried(error: BaseException) -> list[str]:
    """An error as another process is told of it: its kind, what it says, and its hint."""
    if isinstance(error, DeepSeekError):
        return [type(error).__name__, error.what, error.hint]
    return ["", f"a worker process could not do it: {type(error).__name__}", ""]


def brought(kind: str, what: str, hint: str) -> DeepSeekError:
    """An error that another process told of."""
    known: dict[str, type[DeepSeekError]] = {one.__name__: one for one in (*RefusedError.__subclasses__(), *_OTHERS)}
    return known.get(kind, DeepSeekError)(what, hint=hint)


class Refusals:
    """Counts answers that are errors, by protocol and status: ``http 404``, ``grpc NOT_FOUND``."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def http(self, status: int) -> None:
        """One over HTTP."""
        self.add(f"http {status}")

    def grpc(self, error: BaseException) -> None:
        """One over gRPC."""
        self.add(f"grpc {grpc_status(error)}")

    def add(self, key: str) -> None:
        """One, by its key."""
        self.counts[key] = self.counts.get(key, 0) + 1


def text(error: BaseException) -> str:
    """What the client is told."""
    if not isinstance(error, DeepSeekError):
        return "internal error"
    return f"{error.what} ({error.hint})" if error.hint else error.what


def advice(error: BaseException, status: int) -> dict[str, str]:
    """The headers that say what to do: when to ask again, where that is worth it; and that a key is wanted."""
    wait = error.retry_after if isinstance(error, RefusedError) else 0
    if status == 401:
        return {"www-authenticate": "Bearer"}
    # Not rounded down: who asks again then is to have an answer.
    return {"retry-after": str(min(max(1, ceil(wait)), _LONGEST))} if wait or status in (429, 503) else {}
