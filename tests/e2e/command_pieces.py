"""What the tests of the command share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np

Deepseek = Callable[..., "subprocess.CompletedProcess[str]"]
Install = Callable[[str, str], dict[str, str]]

#: Two rows for the model of the fixture `pipeline`.
X = np.arange(8, dtype="float32").reshape(2, 4)


def rows(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """What a run that went well printed with ``--json``."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
