"""DeepSeek: an inference framework with a minimal kernel and separately installable plugins.

Example:
    >>> import deepseek
    >>> with deepseek.build("pipeline.yaml") as pipeline:
    ...     outputs = pipeline.run(image=array)                 # tensors in, tensors out
    ...     answers = pipeline.predict("cat.jpg")               # through the pipeline's codecs

Names are resolved on first use (PEP 562), so that ``import deepseek`` costs a millisecond and
loads no heavy library.
"""

from __future__ import annotations

import importlib

#: As in `typing`, whose import would cost more than everything else here; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from deepseek.errors import DeepSeekError
    from deepseek.kernel import build, explain
    from deepseek.pipeline import Pipeline
    from deepseek.plan import Plan
    from deepseek.types import Options

__version__ = "0.1.0"
__all__ = ["DeepSeekError", "Options", "Pipeline", "Plan", "__version__", "build", "explain"]

_HOMES = {
    "DeepSeekError": "deepseek.errors",
    "Options": "deepseek.types",
    "Pipeline": "deepseek.pipeline",
    "Plan": "deepseek.plan",
    "build": "deepseek.kernel",
    "explain": "deepseek.kernel",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'deepseek' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
