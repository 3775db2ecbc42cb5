"""Resident memory of a process that serves ResNet-50, through the pipeline or with the bare engine.

python benchmarks/memory.py ENGINE ours|bare       # prints JSON; a fresh process for each
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import models
import numpy as np


def resident() -> int:
    """Bytes of physical memory that the process holds, without a library of ours or of others."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Load, run batch 1 and 8 a few times, and print the resident set."""
    engine, how = sys.argv[1:]
    call: Any
    if how == "ours":
        import deepseek

        pipeline = deepseek.build(models.configuration(engine))
        call = lambda x: pipeline.run(image=x)["logits"]  # noqa: E731
    else:
        call = models.bare(engine)
    for batch in (1, 8, 1):
        x = models.image(engine, batch)
        for _ in range(3):
            assert np.isfinite(call(x)).all()
    print(json.dumps({"resident_bytes": resident()}))


if __name__ == "__main__":
    main()
