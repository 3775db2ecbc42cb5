"""What carries gRPC: our own HTTP/2, or the official library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from deepseek_serving.server import Server


class Carrier(Protocol):
    """Serves gRPC on a port of its own."""

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises ConfigError."""

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those in flight so many seconds."""


def carrier(server: Server, name: str, *, shared: bool) -> Carrier:
    """The carrier of a name.

    Args:
        server: whose models it serves.
        name: ``native`` or ``grpcio``.
        shared: whether other processes listen on the same port.
    """
    # Imported here: nothing of what is not used is loaded.
    if name == "grpcio":
        from deepseek_serving.grpc.aio import AioCarrier

        return AioCarrier(server, shared=shared)
    from deepseek_serving.grpc.native import NativeCarrier

    return NativeCarrier(server, shared=shared)
