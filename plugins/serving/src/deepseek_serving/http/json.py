"""JSON in requests and answers, by msgspec."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from deepseek.plugin import InputError
from deepseek_serving.oip.nesting import check_depth

T = TypeVar("T")


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def decoded(raw: bytes, kind: type[T]) -> T:
    """A request's JSON; an empty body is an empty object. Raises InputError."""
    check_depth(raw)
    try:
        return msgspec.json.decode(raw if raw.strip() else b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InputError(f"the body is not as it should be: {exc}") from exc
