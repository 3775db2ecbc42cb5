"""What plugins do wrong while a pipeline is built: who is blamed, and what is left."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek
from deepseek.errors import HookError, ModelError, OutOfMemoryError, OutputError
from deepseek.plugin import (
    Batch,
    Coding,
    Config,
    Engine,
    Loader,
    Model,
    Pass,
    Policy,
    Stage,
    Wrapper,
)
from deepseek.testing import EchoExecutor
from kernel_pieces import ONLY, Plug, X, build, loads, plan, runs


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


def test_memory_that_runs_out_while_loading(model: str, plug: Plug) -> None:
    def load() -> Model:
        raise MemoryError

    acme = plug("acme", load=lambda: Loader("l", "a", load), execute=runs("e", "a"))
    with pytest.raises(
        OutOfMemoryError, match=r"<acme> 0 ran out of memory while it did its part of the build \(load l\)"
    ):
        build(model, acme)


def test_an_optional_plugin_is_passed_over_but_not_in_silence(
    model: str, plug: Plug, caplog: pytest.LogCaptureFixture
) -> None:
    acme = plug("acme", load=loads("a"), execute=runs("e", "a"))
    bad = plug("bad", load=lambda: 1 / 0)
    settings = {"plugins": {**ONLY["plugins"], "optional": ["bad"]}}
    deepseek.explain({"model": model, **settings}, plugins=[acme, bad])
    assert "without the plugin `bad`, which is broken: <bad> 0 raised in its hook `load`" in caplog.text


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
