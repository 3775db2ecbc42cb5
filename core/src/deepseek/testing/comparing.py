"""How the contract suite compares answers and plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deepseek.plan import Plan
from deepseek.plugin import ANY, Signature


def check_same(left: Mapping[str, Any], right: Mapping[str, Any], tolerance: float) -> None:
    """Assert that two answers are equal; floats up to a tolerance relative to the largest value of each tensor."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.shape == right[name].shape, name
        if value.dtype.kind != "f":
            assert (value == right[name]).all(), name
        else:
            scale = float(np.abs(right[name]).max(initial=0.0)) or 1.0
            assert float(np.abs(value - right[name]).max(initial=0.0)) <= tolerance * scale, name


def check_fit(answers: Mapping[str, Any], signature: Signature) -> None:
    """Assert that an answer has the names, dtypes and shapes of a signature's outputs, as far as it tells them."""
    outputs = {spec.name: spec for spec in signature.outputs}
    assert not outputs or outputs.keys() == answers.keys()
    for name, spec in outputs.items():
        dtype, shape = answers[name].dtype, answers[name].shape
        assert not spec.dtype or dtype.name == spec.dtype or (spec.dtype, dtype.kind) == ("str", "O"), spec
        if spec.shape is not None:
            fits = all(size == known or known == ANY for size, known in zip(shape, spec.shape, strict=False))
            assert len(shape) == len(spec.shape), f"{spec}, answered with {list(shape)}"
            assert fits, f"{spec}, answered with {list(shape)}"


def parts(plan: Plan) -> list[Any]:
    """Everything that a plan was put together from."""
    parts = [plan.loader, plan.engine, plan.policy, plan.coding, *plan.wrappers, *plan.passes]
    return [part for part in parts if part]
