"""What a pipeline adds to the bare engine: a call that does nothing, and ResNet-50 at batch 1 and 8.

"Bare" is the very session, module or graph function that the pipeline holds, called with the engine's own API.
Two copies of a model would measure each other: the idle threads of one ONNX Runtime session spin for a while after
each call, beside the next call of the other.

python benchmarks/overhead.py ENGINE [--device cuda:0] [--seconds 60]       # prints JSON
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import models
import numpy as np
from measure import side_by_side

import deepseek


def smallest(engine: str, seconds: float) -> dict[str, Any]:
    """A model with next to no work, float32[1, 16], bare and through `pipeline.run`."""
    x = np.ones((1, 16), np.float32)
    with deepseek.build(models.smallest(engine)) as pipeline:
        call = models.bare_smallest(engine, pipeline.executor)
        return side_by_side(lambda: pipeline.run(x=x), lambda: call(x), seconds / 4, calls=50)


def resnet50(engine: str, device: str, seconds: float) -> dict[str, Any]:
    """The pipeline beside the engine's own API."""
    results = {}
    with deepseek.build({**models.configuration(engine), "device": device}) as pipeline:
        call = models.bare(engine, device, pipeline.executor)
        for batch in (1, 8):
            x = models.image(engine, batch)
            answer, right = pipeline.run(image=x)["logits"], call(x)
            assert np.abs(answer - right).max() <= 1e-3 * np.abs(right).max()
            results[f"batch {batch}"] = side_by_side(lambda x=x: pipeline.run(image=x), lambda x=x: call(x), seconds)
    return results


def main() -> None:
    """Measure one engine and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=models.ENGINES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=60, help="for each measurement")
    parser.add_argument("--smallest-only", action="store_true", help="leave ResNet-50 out")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"engine": arguments.engine, "device": arguments.device}
    if arguments.device == "cpu":
        results["smallest"] = smallest(arguments.engine, arguments.seconds)
    if not arguments.smallest_only:
        results["resnet50"] = resnet50(arguments.engine, arguments.device, arguments.seconds)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
