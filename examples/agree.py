"""Shows that the three engines agree: the largest difference of their logits on every photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import deepseek

HERE = Path(__file__).parent
PIPELINES = ("classify", "classify-onnxruntime", "classify-tensorflow")
LIMIT = 1e-3


def logits() -> dict[str, np.ndarray]:
    """Engine name to logits float32[photographs, 1000]."""
    found = {}
    for name in PIPELINES:
        with deepseek.build(HERE / f"{name}.yaml") as pipeline:
            photos = sorted((HERE / "models/photos").iterdir())
            rows = [pipeline.run(pipeline.codec.encode(photo))["logits"] for photo in photos]
            found[pipeline.plan.engine.name] = np.concatenate(rows)
    return found


def main() -> None:
    """Print one line per pair; exit with 1 when a pair differs by more than LIMIT."""
    (first, base), *others = logits().items()
    worst = 0.0
    for name, values in others:
        difference = float(np.abs(values - base).max())
        worst = max(worst, difference)
        print(f"{first} and {name} agree to {difference:.1e} in the logits")
    raise SystemExit(worst > LIMIT)


if __name__ == "__main__":
    main()
