"""The section `torch`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from deepseek.plugin import Settings


class TorchSettings(Settings):
    """How PyTorch loads and executes."""

    factory: Annotated[
        str,
        Meta(
            description="For weights without code (a state dict, safetensors): the callable that builds the module, "
            "as `package.module:name`, or `./file.py:name` relative to this file.",
            examples=["torchvision.models:resnet50", "./efficientnet.py:lite0"],
        ),
    ] = ""
    factory_args: Annotated[dict[str, Any], Meta(description="Keyword arguments of the factory.")] = {}
    strict: Annotated[bool, Meta(description="Refuse weights that do not match the module name by name.")] = True
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        Meta(description="Compute in this dtype; inputs and outputs keep theirs. Omitted: as stored."),
    ] = None
    channels_last: Annotated[bool, Meta(description="Keep images as NHWC in memory; faster for convolutions.")] = False
    threads: Annotated[int, Meta(ge=0, le=1024, description="Threads inside an operator; 0: PyTorch's choice.")] = 0
