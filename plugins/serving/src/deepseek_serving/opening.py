"""A pipeline on its way to being served: built, and run on zeros until it is warm."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import NamedTuple

import numpy as np

import deepseek
from deepseek.plugin import ANY, ExecutionError, InputError, Signature
from deepseek_serving.oip.datatypes import PROTOCOL, Tensor, dtype_of
from deepseek_serving.quickness import OUTLIER
from deepseek_serving.settings import ServingSettings
from deepseek_serving.statistics import Statistics, meter

logger = logging.getLogger("deepseek.serving")

#: This plugin's own name: a pipeline that is served needs it, whatever version it names.
PLUGIN = "serving"
#: What `build` is given: modules of plugins that are not installed, in tests and programs.
Plugins = Sequence[ModuleType]
#: Runs beyond the warm-up's own that tell how quick a small model is.
_MORE = 20


class Opened(NamedTuple):
    """A pipeline that is built and warm.

    Attributes:
        alone: seconds of an execution when nothing else ran; 0.0: not known.
        seconds: that it all took.
    """

    pipeline: deepseek.Pipeline
    alone: float
    seconds: float


def open_pipeline(path: Path, statistics: Statistics, overrides: Sequence[str], plugins: Plugins) -> Opened:
    """Build and warm up a pipeline; not on the loop. Raises DeepSeekError.

    Args:
        path: its file.
        statistics: what sees every batch that it executes.
        overrides, plugins: as for `deepseek.build`.
    """
    start = monotonic()
    pipeline = deepseek.build(path, overrides=overrides, plugins=[meter(statistics), *plugins], enable=[PLUGIN])
    try:
        alone = _warm_up(pipeline, path, pipeline.plan.config[ServingSettings])
    except BaseException:
        pipeline.close()
        raise
    return Opened(pipeline, alone, monotonic() - start)


def _warm_up(pipeline: deepseek.Pipeline, path: Path, settings: ServingSettings) -> float:
    """Run a new pipeline; how long an execution takes when nothing else runs, 0.0: not known."""
    if not settings.warmup:
        return 0.0
    try:
        for name in settings.warmup_shapes.keys() - {spec.name for spec in pipeline.signature.inputs}:
            raise InputError(f"`serving.warmup_shapes` names `{name}`, which is no input of the model")
        inputs = zeros(pipeline.signature, settings.warmup_shapes)
        took = [timed(pipeline, inputs) for _ in range(settings.warmup)]
        if took[-1] < OUTLIER:
            # The first runs find no cache warm, and say little of a small model.
            took += [timed(pipeline, inputs) for _ in range(_MORE)]
        return min(took)
    except (InputError, ExecutionError) as error:
        if settings.warmup_shapes:
            raise
        # Shapes that nobody stated are guessed, and may be what the model can't take.
        logger.warning("%s: not warmed up, zeros of the shapes guessed do not suit: %s", path, error.what)
        return 0.0


def timed(pipeline: deepseek.Pipeline, inputs: Mapping[str, Tensor]) -> float:
    """Seconds of a run."""
    start = monotonic()
    pipeline.executor.run(inputs, ())
    return monotonic() - start


def zeros(signature: Signature, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Inputs that a model takes: zeros and empty texts, 1 where a size is open and not given. Raises InputError."""
    made: dict[str, Tensor] = {}
    for spec in signature.inputs:
        shape = shapes.get(spec.name)
        if shape is None:
            if spec.shape is None:
                raise InputError(f"the shape of `{spec.name}` is not known", hint="state it in `serving.warmup_shapes`")
            shape = [1 if size == ANY else size for size in spec.shape]
        if spec.dtype == "str":
            made[spec.name] = np.full(shape, "", object)
        elif spec.dtype in PROTOCOL:
            made[spec.name] = np.zeros(shape, dtype_of(PROTOCOL[spec.dtype]))
        else:
            raise InputError(f"`{spec.name}` is of the dtype `{spec.dtype}`, of which no zeros can be made")
    return made
