"""From configuration to pipeline: order, choices, conversions, and what is left when something fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek
from deepseek.errors import (
    DeviceError,
    MissingLibraryError,
    ModelNotFoundError,
    OutOfMemoryError,
    PlanError,
)
from deepseek.plugin import (
    Batch,
    Decline,
    Device,
    Engine,
    Loader,
    Model,
    Options,
    Pass,
    Policy,
    Share,
    Stage,
    Tensors,
    Wrapper,
)
from deepseek.testing import EchoExecutor, fakes
from kernel_pieces import Answered, Plug, X, build, loads, plan, runs


def test_the_order_of_a_build(model: str, plug: Plug) -> None:
    log: list[str] = []

    class Executor(EchoExecutor):
        def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
            log.append("run")
            return super().run(inputs, shares)

        def close(self) -> None:
            log.append("close executor")

    class Watch:
        def batch(self, batch: Batch) -> None:
            log.append(f"observe {batch.rows} rows")

        def close(self) -> None:
            log.append("close observer")

    class Scheduler:
        def __init__(self, executors: Sequence[EchoExecutor]) -> None:
            log.append("make scheduler")
            self._execute, self.submit = executors[0].run, None

        def run(self, inputs: Tensors, share: Share) -> dict[str, Any]:
            return self._execute(inputs, [share])

        def close(self) -> None:
            log.append("close scheduler")

    def said(name: str, result: Any) -> Any:
        log.append(name)
        return result

    acme = plug(
        "acme",
        sections=lambda: said("sections", {"acme": Answered}),
        probe=lambda config: said("probe", []),
        load=lambda source: said("load", Loader("l", "a", lambda: said("loading", Model("a", None, X)))),
        optimize=lambda: said(
            "optimize",
            [
                Pass("z", Stage.REWRITE, frozenset({"a"}), lambda m, f: said("z", m)),
                Pass("quantize", Stage.QUANTIZE, frozenset({"a"}), lambda m, f: said("quantize", m)),
                Pass("a", Stage.REWRITE, frozenset({"a"}), lambda m, f: said("a", m)),
            ],
        ),
        execute=lambda: said("execute", Engine("e", frozenset({"a"}), lambda m: said("open", Executor(m.signature)))),
        schedule=lambda config: said("schedule", Policy("p", Scheduler)),  # type: ignore[arg-type]
        codec=lambda: said("codec", None),
        observe=lambda config: said("observe", Watch()),
    )
    with build(model, acme) as pipeline:
        pipeline.run(x=np.zeros((3, 2), "float32"))
    assert log == [
        "sections", "probe", "load", "execute", "optimize", "codec", "schedule",
        "loading", "a", "z", "quantize", "open", "observe", "make scheduler",
        "run", "observe 3 rows", "close scheduler", "close observer", "close executor",
    ]  # fmt: skip


def test_explain_loads_nothing(model: str, plug: Plug) -> None:
    def forbidden(*_: object) -> Any:
        raise AssertionError("explain must not load")

    acme = plug(
        "acme",
        load=lambda: Loader("l", "a", forbidden, 100),
        execute=lambda: Engine(
            "e", frozenset({"a"}), forbidden, lambda: {"threads": 2}, library_bytes=1000, weight_copies=2
        ),
        observe=lambda config: forbidden(),
    )
    shown = plan(model, acme)
    assert shown.to_dict()["execute"] == {"plugin": "acme", "engine": "e", "format": "a", "threads": 2}
    assert shown.memory_bytes == 1200
    assert "execute    e: threads 2" in str(shown)


def test_the_engine_that_takes_the_format_is_chosen(model: str, plug: Plug) -> None:
    one, two = plug("one", load=loads("b"), execute=runs("one", "a")), plug("two", execute=runs("two", "b"))
    assert plan(model, one, two).engine.name == "two"


def test_who_declines_is_listed_with_the_reason(model: str, plug: Plug) -> None:
    one = plug("one", load=lambda: Decline("it has no code"), execute=runs("one", "a"))
    two = plug("two", load=lambda: None, execute=lambda: Decline("runs on tea only"))
    with pytest.raises(PlanError, match=r"no plugin loads model.acme; one: it has no code"):
        plan(model, one, two)
    with pytest.raises(PlanError, match=r"the engine `two` can't be used; two: runs on tea only"):
        plan(model, one, two, engine="two")
    with pytest.raises(PlanError, match=r"there is no engine `three`; not asked: .*\n  fix: engines here: one$"):
        plan(model, one, two, engine="three")


def test_a_missing_library_has_its_own_error(model: str, plug: Plug) -> None:
    absent = plug("absent", execute=lambda: Decline("its library is not installed: pip install 'x[cpu]'", missing="x"))
    with pytest.raises(MissingLibraryError, match=r"pip install 'x\[cpu\]'"):
        plan(model, absent, engine="absent")


def test_wrappers_go_around_the_executor_in_order(model: str, plug: Plug) -> None:
    log: list[str] = []

    def wrapper(name: str) -> Any:
        class Wrapped(EchoExecutor):
            def __init__(self, inner: Any) -> None:
                super().__init__(inner.signature)
                self.inner = inner

            def run(self, inputs: Tensors, options: Options) -> dict[str, Any]:
                log.append(name)
                return dict(self.inner.run(inputs, options))

            def close(self) -> None:
                log.append(f"close {name}")

        return lambda: Wrapper(name, Wrapped)

    base = plug("base", load=loads("a"), execute=runs("e", "a"))
    with build(
        model, base, plug("inner", execute=wrapper("inner")), plug("outer", execute=wrapper("outer"))
    ) as pipeline:
        pipeline.run(x=np.zeros((1, 2), "float32"))
    assert log == ["outer", "inner", "close outer", "close inner"]


def test_devices_come_from_plugins_and_are_named_when_absent(model: str, plug: Plug) -> None:
    card = Device("acme:0", "acme", 100, 50)
    acme = plug("acme", probe=lambda: [card], load=loads("a"), execute=runs("e", "a"))
    assert plan(model, acme, device="acme").device == card
    with pytest.raises(DeviceError, match=r"no device `acme:1` on this machine\n  fix: found: cpu, acme:0"):
        plan(model, acme, device="acme:1")


def test_weights_that_do_not_fit_are_refused_before_loading(model: str, plug: Plug) -> None:
    huge = Loader("l", "a", lambda: pytest.fail("must not load"), 1 << 50)
    acme = plug("acme", load=lambda: huge, execute=runs("e", "a"))
    with pytest.raises(OutOfMemoryError, match="the weights take 1024TiB, cpu has"):
        build(model, acme)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").touch()
    with pytest.raises(ModelNotFoundError, match=r"no model at .*absent.onnx\n  fix: .* holds other.onnx"):
        deepseek.explain({"model": str(tmp_path / "absent.onnx")})


def test_fakes_are_a_plugin_like_any_other() -> None:
    with deepseek.build({"model": fakes.model_file()}, plugins=[fakes]) as pipeline:
        x = np.arange(8, dtype="float32").reshape(2, 4)
        assert (pipeline.run(x=x)["x"] == x).all()


def test_a_link_has_the_name_that_it_is_called_by(tmp_path: Path, plug: Plug) -> None:
    (tmp_path / "3f2a9c").write_text("weights")
    (tmp_path / "model.acme").symlink_to(tmp_path / "3f2a9c")
    seen = []
    acme = plug("acme", load=lambda source: seen.append(source.path.name) or loads("a")(), execute=runs("e", "a"))
    plan(str(tmp_path / "model.acme"), acme)
    assert seen == ["model.acme"]


def test_a_pipeline_file_may_lie_in_the_model_s_own_folder(
    tmp_path: Path, plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    acme = plug("acme", load=loads("a"), execute=runs("e", "a"))
    assert plan(".", acme).source.path == tmp_path


def test_what_an_executor_does_beyond_the_protocol_stays_in_reach(model: str, plug: Plug) -> None:
    class Stepwise(EchoExecutor):
        def step(self) -> str:
            return "stepped"

    found = []

    class Scheduler:
        def __init__(self, executors: Any) -> None:
            found.append(executors[0].step())
            self.run = self.submit = None

        def close(self) -> None: ...

    class Watch:
        def batch(self, batch: Batch) -> None: ...

        def close(self) -> None: ...

    acme = plug("acme", load=loads("a"), execute=runs("e", "a", executor=lambda: Stepwise(X)), observe=lambda: Watch())
    with build(model, acme, plug("s", schedule=lambda: Policy("s", Scheduler))):  # type: ignore[arg-type]
        assert found == ["stepped"]
