"""The section `onnxruntime`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from deepseek.plugin import Settings


class OnnxRuntimeSettings(Settings):
    """How ONNX Runtime executes."""

    providers: Annotated[
        list[str],
        Meta(
            description="Execution providers, first choice first; empty: the one of `device`. A provider that is "
            "named and can't be used is an error, and so is an operator that none of those named has.",
            examples=[["CPUExecutionProvider"]],
        ),
    ] = []
    threads: Annotated[int, Meta(ge=0, le=1024, description="Threads inside an operator; 0: one per core.")] = 0
    inter_op_threads: Annotated[int, Meta(ge=0, le=1024, description="Operators that run side by side; 0: one.")] = 0
    spinning: Annotated[
        bool, Meta(description="Idle threads spin: lower latency alone, worse when requests overlap.")
    ] = True
    graph_optimization: Annotated[
        Literal["disable", "basic", "extended", "layout", "all"], Meta(description="How far the graph is rewritten.")
    ] = "all"
    io_binding: Annotated[
        bool | None,
        Meta(description="Bind tensors to device memory; omitted: where one of them is on the card already."),
    ] = None
    optimized_model: Annotated[
        Path | None,
        Meta(
            description="File to keep the optimized graph in. Written on the first build, loaded on later ones "
            "while model, ONNX Runtime and processor are the same."
        ),
    ] = None
