"""What plugin authors test with: fakes, and (in `deepseek.testing.contract`) the contract suite.

Example:
    >>> import deepseek
    >>> from deepseek.testing import fakes
    >>> with deepseek.build({"model": fakes.model_file()}, plugins=[fakes]) as pipeline:
    ...     pipeline.plan.engine.name
    'fake'
"""

from deepseek.testing.fakes import EchoExecutor, FutureSink, model_file

__all__ = ["EchoExecutor", "FutureSink", "model_file"]
