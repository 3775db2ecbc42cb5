"""gRPC's own headers: statuses, deadlines, names of calls. Source: gRPC over HTTP/2."""

from __future__ import annotations

import re
from urllib.parse import quote

from deepseek.plugin import InputError
from deepseek_serving.errors import grpc_status, text
from deepseek_serving.http2.headers import block

_NUMBERS = {
    name: number
    for number, name in enumerate((
        "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
        "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
    ))
}  # fmt: skip
#: Characters that a message keeps; the others are written as %XX.
_KEPT = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
#: Bytes of a message: clients take 8 KiB of headers, and one byte may be written as three.
_LONGEST = 2048
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_TOP = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_ACCEPTED = (b"grpc-accept-encoding", b"identity,deflate,gzip")
#: The headers before an answer's messages, and those after them.
HEAD = block(*_TOP, _ACCEPTED)
DONE = block((b"grpc-status", b"0"))
#: The answer to what is not gRPC.
NOT_GRPC = block((b":status", b"415"), (b"content-length", b"0"))
NOT_POST = block((b":status", b"405"), (b"allow", b"POST"), (b"content-length", b"0"))


def head(span: bytes) -> bytes:
    """The headers before an answer's messages; `span` is the header ``traceparent`` of one that is traced."""
    return block(*_TOP, _ACCEPTED, (b"traceparent", span)) if span else HEAD


def failed(error: BaseException, *, begun: bool = False, span: bytes = b"") -> bytes:
    """The header block that says what went wrong.

    Args:
        error: it.
        begun: whether the answer's headers have been sent.
        span: the header ``traceparent`` of a call that is traced.
    """
    # Whole characters of it.
    said = text(error).encode()[:_LONGEST].decode("utf-8", "ignore")
    status = (b"grpc-status", b"%d" % _NUMBERS[grpc_status(error)])
    named = ((b"traceparent", span),) if span else ()
    return block(*(() if begun else (*_TOP, *named)), status, (b"grpc-message", quote(said, safe=_KEPT).encode()))


def timeout(value: bytes) -> float:
    """The header `grpc-timeout`, in seconds. Raises InputError."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise InputError(f"grpc-timeout is up to eight digits and a unit (got {value[:40]!r})")
    return int(match[1]) * _SECONDS[match[2]]
