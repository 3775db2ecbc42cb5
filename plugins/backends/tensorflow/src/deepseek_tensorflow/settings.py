"""The section `tensorflow`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from deepseek.plugin import Settings


class TensorFlowSettings(Settings):
    """How TensorFlow loads and executes."""

    signature: Annotated[str, Meta(description="The SavedModel's signature to call.")] = "serving_default"
    file_operators: Annotated[
        bool, Meta(description="Allow a SavedModel whose graph reads or writes files; only for one that you trust.")
    ] = False
    jit_compile: Annotated[bool, Meta(description="Compile with XLA; a new compilation for each new shape.")] = False
    memory_growth: Annotated[
        bool | None,
        Meta(
            description="Take GPU memory as needed instead of all at once, for the whole process; omitted: as needed, "
            "unless TensorFlow runs in the process already."
        ),
    ] = None
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads inside an operator, for the whole process; 0: one per core.")
    ] = 0
    inter_op_threads: Annotated[
        int,
        Meta(ge=0, le=1024, description="Operators side by side, for the whole process; 0: TensorFlow's choice."),
    ] = 0
