"""Which way a model takes to another engine, and whether it is the same model when it arrives."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from deepseek.errors import HookError, MissingLibraryError, ModelError, PlanError
from deepseek.plugin import Decline, Loader, Model, Pass, Share, Signature, Stage, Tensors, TensorSpec
from deepseek.testing import EchoExecutor
from kernel_pieces import Plug, X, build, converts, loads, plan, runs


def test_a_named_engine_is_reached_by_the_shortest_chain_of_conversions(model: str, plug: Plug) -> None:
    long = [converts("1", "a", "b"), converts("2", "b", "c"), converts("3", "c", "d")]
    acme = plug("acme", load=loads("a"), execute=runs("e", "d"), optimize=lambda: [*long, converts("4", "b", "d")])
    assert [(item.record.name, item.takes, item.gives) for item in plan(model, acme).passes] == [
        ("1", "a", "b"),
        ("4", "b", "d"),
    ]


def test_a_pass_for_another_format_is_reached_by_conversion(model: str, plug: Plug) -> None:
    quantize = Pass("quantize", Stage.QUANTIZE, frozenset({"b"}), lambda m, f: m)
    acme = plug(
        "acme", load=loads("a"), execute=runs("e", "a", "b"), optimize=lambda: [quantize, converts("ab", "a", "b")]
    )
    assert [item.record.name for item in plan(model, acme).passes] == ["ab", "quantize"]


def test_no_chain_is_an_error_that_lists_the_conversions(model: str, plug: Plug) -> None:
    acme = plug("acme", load=loads("a"), execute=runs("e", "d"), optimize=lambda: converts("ab", "a", "b"))
    with pytest.raises(
        PlanError,
        match=r"engine e takes d, the model is in the format a; not asked: .*\n  fix: conversions here: a to b",
    ):
        plan(model, acme)


def test_a_conversion_is_checked_against_the_original(model: str, plug: Plug) -> None:
    class Off(EchoExecutor):
        def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
            return {name: np.asarray(value) * 1.01 for name, value in inputs.items()}

    native = plug("native", load=loads("a"), execute=runs("native", "a"), optimize=lambda: converts("ab", "a", "b"))
    exact = plug("exact", execute=runs("other", "b"))
    with build(model, native, exact, engine="other") as pipeline:
        assert [step.name for step in pipeline.steps] == ["load a loader", "ab", "check ab", "open other"]
        assert "largest error on random input 0.0e+00" in pipeline.steps[2].note
    off = plug("off", execute=runs("other", "b", executor=lambda: Off(X)))
    with pytest.raises(ModelError, match=r"the converted model is off by 0.01 with a batch of 2 \(limit 0.001\)"):
        build(model, native, off, engine="other")


def test_not_a_number_must_stay_where_it_was(model: str, plug: Plug) -> None:
    def engine(name: str, format_: str, value: float) -> ModuleType:
        class Fixed(EchoExecutor):
            def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
                return {"good": np.ones((2, 2)), "x": np.full((2, 2), value)}

        return plug(name, execute=runs(name, format_, executor=lambda: Fixed(X)))

    native = plug("loader", load=loads("a"), optimize=lambda: converts("ab", "a", "b"))
    with pytest.raises(ModelError, match="the conversion changed where `x` is infinite or not a number"):
        build(model, native, engine("one", "a", 1.0), engine("two", "b", np.nan), engine="two")
    with build(model, native, engine("one", "a", np.nan), engine("two", "b", np.nan), engine="two") as pipeline:
        assert "0.0e+00" in pipeline.steps[2].note


def test_a_conversion_that_is_declined_says_why(model: str, plug: Plug) -> None:
    missing = Decline("its library `acme2onnx` is not installed", missing="acme2onnx")
    acme = plug("acme", load=loads("a"), optimize=lambda: missing, execute=runs("e", "b"))
    with pytest.raises(
        MissingLibraryError, match=r"the engine e takes b, the model is in the format a; acme: its library"
    ):
        plan(model, acme)


def test_a_model_that_counts_its_calls_must_do_so_afterwards(model: str, plug: Plug) -> None:
    class Counts(EchoExecutor):
        def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
            return {name: value + self.calls for name, value in super().run(inputs, shares).items()}

    native = plug("native", load=loads("a"), optimize=lambda: converts("ab", "a", "b"))
    counts = plug("counts", execute=runs("counts", "a", executor=lambda: Counts(X)))
    with pytest.raises(ModelError, match="the converted model is off by"):
        build(model, native, counts, plug("forgets", execute=runs("forgets", "b")), engine="forgets")
    both = plug("both", execute=runs("both", "b", executor=lambda: Counts(X)))
    build(model, native, counts, both, engine="both").close()


def test_an_imaginary_part_counts(model: str, plug: Plug) -> None:
    class Turned(EchoExecutor):
        def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
            return {name: value + 1j for name, value in super().run(inputs, shares).items()}

    native = plug("native", load=loads("a"), execute=runs("n", "a"), optimize=lambda: converts("ab", "a", "b"))
    with pytest.raises(ModelError, match="the converted model is off by"):
        build(model, native, plug("t", execute=runs("t", "b", executor=lambda: Turned(X))), engine="t")


@pytest.mark.parametrize(
    ("dtype", "shape", "says"),
    [
        ("float32", None, "largest error on random input 0.0e+00"),
        ("bfloat16", (-1, 2), "not checked: NumPy has no bfloat16"),
    ],
)
def test_what_a_converted_model_does_not_tell_the_original_may(
    model: str, plug: Plug, dtype: str, shape: Any, says: str
) -> None:
    vague = TensorSpec("x", dtype, shape)
    native = plug("native", load=loads("a"), execute=runs("n", "a"), optimize=lambda: converts("ab", "a", "b"))
    other = plug("t", execute=runs("t", "b", executor=lambda: EchoExecutor(Signature((vague,), (vague,)))))
    with build(model, native, other, engine="t") as pipeline:
        assert says in pipeline.steps[2].note


@pytest.mark.parametrize("guilty", ["loads", "converts"])
def test_a_model_of_another_format_than_promised_is_blamed(model: str, plug: Plug, guilty: str) -> None:
    loader = Loader("l", "a", lambda: Model("z" if guilty == "loads" else "a", None, X), 0)
    step = Pass("ab", Stage.CONVERT, frozenset({"a"}), lambda m, f: Model("z", None, X), yields="b")
    acme = plug("acme", load=lambda: loader, optimize=lambda: step, execute=runs("e", "b"))
    with pytest.raises(HookError, match=r"<acme> 0 gave a model of the format `z` back, not `[ab]`"):
        build(model, acme, engine="e")
