"""What carries requests on: the seam between connections and the service behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from deepseek_serving.bodies import Memory
from deepseek_serving.http2.headers import Headers
from deepseek_serving.settings import LimitSettings

if TYPE_CHECKING:
    from deepseek_serving.http2.connection import Connection
    from deepseek_serving.http2.streams import Receiver, Stream


class Front(Protocol):
    """What all connections share.

    Attributes:
        limits: what a client may ask for.
        scratch: where connections read to.
        draining: no new request is taken.
        memory: where what waits for clients counts.
    """

    limits: LimitSettings
    scratch: bytearray
    draining: bool
    memory: Memory

    def look(self, headers: Headers) -> Any:
        """What follows from the headers of a request."""

    def begin(self, stream: Stream, seen: Any) -> Receiver:
        """A receiver for a new request."""

    def opened(self, connection: Connection) -> None:
        """A client has connected."""

    def closed(self, connection: Connection) -> None:
        """A connection has ended."""
