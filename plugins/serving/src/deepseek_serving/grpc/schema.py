"""The protocol's messages, made from open_inference.proto in a pool of descriptors of their own.

A pool of their own, because a client's library in the same process (`tritonclient`) holds messages of the same names.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

#: The service's name: part of every call's path.
SERVICE = "inference.GRPCInferenceService"

_POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(
    files(__package__).joinpath("open_inference.binpb").read_bytes()
).file:
    _POOL.Add(_file)


def message(name: str) -> Any:
    """The class of a message (``ModelInferRequest``)."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


def methods() -> dict[str, tuple[Any, Any]]:
    """Every call of the service, with the classes of its request and its response."""
    service: Any = _POOL.FindServiceByName(SERVICE)
    return {call.name: (message(call.input_type.name), message(call.output_type.name)) for call in service.methods}


ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")
