"""From configuration to pipeline: order, choices, conversions, and what is left when something fails."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import deepseek
from deepseek.errors import (
    DeviceError,
    HookError,
    MissingLibraryError,
    ModelError,
    ModelNotFoundError,
    OutOfMemoryError,
    OutputError,
    PlanError,
)
from deepseek.plugin import (
    Batch,
    Coding,
    Config,
    Decline,
    Device,
    Engine,
    Loader,
    Model,
    Options,
    Pass,
    Policy,
    Settings,
    Share,
    Signature,
    Stage,
    Tensors,
    TensorSpec,
    Wrapper,
)
from deepseek.plugins import discover
from deepseek.testing import EchoExecutor, fakes

Plug = Callable[..., ModuleType]
X = Signature((TensorSpec("x", "float32", (-1, 2)),), (TensorSpec("x", "float32", (-1, 2)),))
#: Keeps what is installed on the machine out of a test.
ONLY = {"plugins": {"disable": [plugin.name for plugin in discover()]}}


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.acme"
    path.write_text("weights")
    return str(path)


def loads(format_: str) -> Callable[[], Loader]:
    return lambda: Loader(f"{format_} loader", format_, lambda: Model(format_, None, X), 7)


def runs(name: str, *formats: str, executor: Callable[[], Any] = lambda: EchoExecutor(X)) -> Callable[[], Engine]:
    return lambda: Engine(name, frozenset(formats), lambda model: executor())


def converts(name: str, takes: str, gives: str) -> Pass:
    return Pass(name, Stage.CONVERT, frozenset({takes}), lambda m, f: Model(gives, None, m.signature), yields=gives)


def build(model: str, *plugins: ModuleType, **config: Any) -> deepseek.Pipeline:
    return deepseek.build({"model": model, **ONLY, **config}, plugins=plugins)


def plan(model: str, *plugins: ModuleType, **config: Any) -> deepseek.Plan:
    return deepseek.explain({"model": model, **ONLY, **config}, plugins=plugins)


class Answered(Settings):
    pass


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
        def run(self, inputs: Tensors, options: Options) -> dict[str, Any]:
            return {name: np.asarray(value) * 1.01 for name, value in inputs.items()}

    native = plug("native", load=loads("a"), execute=runs("native", "a"), optimize=lambda: converts("ab", "a", "b"))
    exact = plug("exact", execute=runs("other", "b"))
    with build(model, native, exact, engine="other") as pipeline:
        assert [step.name for step in pipeline.steps] == ["load a loader", "ab", "check ab", "open other"]
        assert "largest error on random input 0.0e+00" in pipeline.steps[2].note
    off = plug("off", execute=runs("other", "b", executor=lambda: Off(X)))
    with pytest.raises(ModelError, match=r"the converted model is off by 0.01 with a batch of 2 \(limit 0.001\)"):
        build(model, native, off, engine="other")


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


@pytest.mark.parametrize("where", ["optimize", "observe", "schedule"])
def test_a_build_that_fails_half_way_leaves_nothing(model: str, plug: Plug, where: str, tmp_path: Path) -> None:
    executor = EchoExecutor(X)
    folders: list[Path] = []

    def convert(m: Model, folder: Path) -> Model:
        folders.append(folder)
        (folder / "big").write_text("x")
        return m

    def broken(*_: object) -> Any:
        raise ModelError("broken")

    hooks = {
        "optimize": lambda: (
            [Pass("1", Stage.REWRITE, frozenset("a"), convert)]
            + ([Pass("2", Stage.REWRITE, frozenset("a"), broken)] if where == "optimize" else [])
        ),
        "observe": lambda config: broken() if where == "observe" else None,
        "schedule": lambda config: Policy("p", broken) if where == "schedule" else None,
    }
    acme = plug("acme", load=loads("a"), execute=runs("e", "a", executor=lambda: executor), **hooks)
    threads = threading.active_count()
    with pytest.raises(ModelError, match="broken"):
        build(model, acme)
    assert executor.closed == (where != "optimize")
    assert len(folders) == 1
    assert not folders[0].exists()
    assert threading.active_count() == threads


def test_a_hook_that_raises_is_blamed_on_its_plugin(model: str, plug: Plug) -> None:
    def bad(config: Config) -> Any:
        return 1 / 0

    with pytest.raises(HookError, match="<bad> 0 raised in its hook `probe`: ZeroDivisionError"):
        plan(model, plug("bad", probe=bad))


@pytest.mark.parametrize("hook", ["load", "execute", "optimize", "schedule", "codec", "probe", "observe"])
def test_an_answer_of_the_wrong_kind_is_not_passed_over(model: str, plug: Plug, hook: str) -> None:
    base = plug("base", load=loads("a"), execute=runs("e", "a"))
    with pytest.raises(HookError, match=rf"<bad> 0 answered its hook `{hook}` with a str\n  fix: it takes "):
        build(model, base, plug("bad", **{hook: lambda: "nonsense"}))


def test_an_engine_that_can_not_be_described_is_blamed(model: str, plug: Plug) -> None:
    def describe() -> Any:
        raise ValueError("oops")

    acme = plug(
        "acme", load=loads("a"), execute=lambda: Engine("e", frozenset("a"), lambda m: EchoExecutor(X), describe)
    )
    with pytest.raises(HookError, match="<acme> 0 raised while it described its engine: ValueError: oops"):
        plan(model, acme).to_dict()


@pytest.mark.parametrize("where", ["load", "pass", "open", "wrap", "make", "code"])
def test_what_a_plugin_raises_in_its_records_is_blamed_on_it(model: str, plug: Plug, where: str) -> None:
    def bad(*_: object) -> Any:
        raise ValueError("oops")

    def when(name: str, good: Any) -> Any:
        return bad if where == name else good

    acme = plug(
        "acme",
        load=lambda: Loader("l", "a", when("load", lambda: Model("a", None, X))),
        optimize=lambda: Pass("p", Stage.REWRITE, frozenset("a"), when("pass", lambda m, f: m)),
        execute=lambda: Engine("e", frozenset("a"), when("open", lambda m: EchoExecutor(X))),
        schedule=lambda config: Policy("s", bad) if where == "make" else None,
        codec=lambda: Coding("c", when("code", lambda s: None)),
    )
    wrap = plug("wrap", execute=lambda: Wrapper("w", when("wrap", lambda executor: executor)))
    says = r"<(acme|wrap)> 0 raised while it did its part of the build \(.*\): ValueError: oops"
    with pytest.raises(HookError, match=says):
        build(model, acme, wrap)


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, OutputError), (errno.EACCES, ModelError)])
def test_the_systems_refusals_are_not_the_plugins_fault(
    model: str, plug: Plug, number: int, error: type[Exception]
) -> None:
    def load() -> Model:
        raise OSError(number, os.strerror(number), "weights.bin")

    acme = plug("acme", load=lambda: Loader("l", "a", load), execute=runs("e", "a"))
    with pytest.raises(error, match="weights.bin: "):
        build(model, acme)


@pytest.mark.parametrize("where", ["load", "pass", "open", "wrap", "make", "code"])
def test_a_record_that_gives_nothing_back_is_blamed_on_its_plugin(model: str, plug: Plug, where: str) -> None:
    def when(name: str, good: Any) -> Any:
        return (lambda *_: None) if where == name else good

    acme = plug(
        "acme",
        load=lambda: Loader("l", "a", when("load", lambda: Model("a", None, X))),
        optimize=lambda: Pass("p", Stage.REWRITE, frozenset("a"), when("pass", lambda m, f: m)),
        execute=lambda: Engine("e", frozenset("a"), when("open", lambda m: EchoExecutor(X))),
        schedule=lambda config: Policy("s", lambda executor: None) if where == "make" else None,  # type: ignore[arg-type,return-value]
        codec=lambda: Coding("c", when("code", lambda s: "codec")),
    )
    wrap = plug("wrap", execute=lambda: Wrapper("w", when("wrap", lambda executor: executor)))
    with pytest.raises(HookError, match=r"<(acme|wrap)> 0 gave nothing back when asked to"):
        build(model, acme, wrap)


def test_an_object_that_lacks_something_is_blamed_on_its_plugin_and_closed(model: str, plug: Plug) -> None:
    closed: list[bool] = []

    class Lacking:
        def close(self) -> None:
            closed.append(True)

    made = Engine("e", frozenset("a"), lambda model: Lacking())  # type: ignore[arg-type,return-value]
    says = r"<acme> 0 raised while it did its part of the build \(give a whole Lacking\): AttributeError: .*signature"
    with pytest.raises(HookError, match=says):
        build(model, plug("acme", load=loads("a"), execute=lambda: made))
    assert closed == [True]


def test_a_model_of_the_wrong_kind_is_blamed_on_its_plugin(model: str, plug: Plug) -> None:
    odd = Loader("l", "a", lambda: {"a": 1})  # type: ignore[arg-type,return-value]
    with pytest.raises(HookError, match="<acme> 0 gave a dict back when asked to load l"):
        build(model, plug("acme", load=lambda: odd, execute=runs("e", "a")))


def test_a_close_that_raises_is_blamed_and_closes_the_rest(model: str, plug: Plug) -> None:
    class Stuck(EchoExecutor):
        def close(self) -> None:
            raise ValueError("stuck")

    inner = EchoExecutor(X)
    acme = plug("acme", load=loads("a"), execute=runs("e", "a", executor=lambda: inner))
    pipeline = build(model, acme, plug("wrap", execute=lambda: Wrapper("w", lambda executor: Stuck(X))))
    with pytest.raises(HookError, match="<wrap> 0 raised while its Stuck closed: ValueError: stuck"):
        pipeline.close()
    assert inner.closed


def test_a_wrapper_that_wraps_nothing_closes_nothing_twice(model: str, plug: Plug) -> None:
    closes: list[str] = []

    class Once(EchoExecutor):
        def close(self) -> None:
            closes.append("engine")

    acme = plug("acme", load=loads("a"), execute=runs("e", "a", executor=lambda: Once(X)))
    with build(model, acme, plug("wrap", execute=lambda: Wrapper("w", lambda executor: executor))):
        pass
    assert closes == ["engine"]


@pytest.mark.parametrize("raised", [ValueError("oops"), SystemExit(3)])
def test_an_observer_that_raises_costs_nobody_an_answer(
    model: str, plug: Plug, caplog: pytest.LogCaptureFixture, raised: BaseException
) -> None:
    class Bad:
        def batch(self, batch: Batch) -> None:
            raise raised

        def close(self) -> None: ...

    acme = plug("acme", load=loads("a"), execute=runs("e", "a"), observe=lambda config: Bad())
    with build(model, acme) as pipeline:
        for _ in range(2):
            assert pipeline.run(x=np.zeros((1, 2), "float32"))["x"].shape == (1, 2)
    # Once: a log that fills up is a fault of its own.
    assert [record.levelname for record in caplog.records if "the observer" in record.message] == ["WARNING"]


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


def test_memory_that_runs_out_while_loading(model: str, plug: Plug) -> None:
    def load() -> Model:
        raise MemoryError

    acme = plug("acme", load=lambda: Loader("l", "a", load), execute=runs("e", "a"))
    with pytest.raises(
        OutOfMemoryError, match=r"<acme> 0 ran out of memory while it did its part of the build \(load l\)"
    ):
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


def test_an_optional_plugin_is_passed_over_but_not_in_silence(
    model: str, plug: Plug, caplog: pytest.LogCaptureFixture
) -> None:
    acme = plug("acme", load=loads("a"), execute=runs("e", "a"))
    bad = plug("bad", load=lambda: 1 / 0)
    settings = {"plugins": {**ONLY["plugins"], "optional": ["bad"]}}
    deepseek.explain({"model": model, **settings}, plugins=[acme, bad])
    assert "without the plugin `bad`, which is broken: <bad> 0 raised in its hook `load`" in caplog.text


def test_a_conversion_that_is_declined_says_why(model: str, plug: Plug) -> None:
    missing = Decline("its library `acme2onnx` is not installed", missing="acme2onnx")
    acme = plug("acme", load=loads("a"), optimize=lambda: missing, execute=runs("e", "b"))
    with pytest.raises(
        MissingLibraryError, match=r"the engine e takes b, the model is in the format a; acme: its library"
    ):
        plan(model, acme)


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


def test_a_refused_connection_is_no_fault_of_the_model(model: str, plug: Plug) -> None:
    def wrap(executor: Any) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    acme = plug("acme", load=loads("a"), execute=runs("e", "a"))
    with pytest.raises(HookError, match="<far> 0 raised while it did its part of the build"):
        build(model, acme, plug("far", execute=lambda: Wrapper("w", wrap)))


def test_an_optional_observer_that_can_not_be_made_is_passed_over_but_not_in_silence(
    model: str, plug: Plug, caplog: pytest.LogCaptureFixture
) -> None:
    def observe() -> object:
        raise OSError("no meter")

    core = plug("core_", load=loads("a"), execute=runs("e", "a"))
    meter = plug("meter", observe=observe)
    plugins = {**ONLY["plugins"], "optional": ["meter"]}
    with deepseek.build({"model": model, "plugins": plugins}, plugins=[core, meter]) as pipeline:
        assert pipeline.run(x=np.zeros((1, 2), "float32"))
    assert caplog.text.count("without the plugin `meter`, which is broken") == 1
