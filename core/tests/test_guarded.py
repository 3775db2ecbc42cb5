"""Whatever plugins' own objects raise while they serve names the plugin, and reaches callers as one kind of error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import deepseek
from deepseek.errors import DeepSeekError, ExecutionError, HookError, InputError, OutOfMemoryError
from deepseek.plugin import Coding, Engine, Policy, Request, Share, Tensors, Wrapper
from deepseek.plugins import discover
from deepseek.testing import EchoExecutor, fakes

Plug = Callable[..., ModuleType]
X = np.zeros((1, 4), "float32")
ONLY = {"plugins": {"disable": [plugin.name for plugin in discover()]}}


def raising(error: BaseException) -> Callable[..., Any]:
    def work(*_: object) -> Any:
        raise error

    return work


def build(*plugins: ModuleType) -> deepseek.Pipeline:
    return deepseek.build({"model": fakes.model_file(), **ONLY}, plugins=[*plugins, fakes])


def engine(plug: Plug, work: Callable[[Tensors], object]) -> ModuleType:
    made = Engine("acme", frozenset({"fake"}), lambda model: EchoExecutor(model.signature, work=work))
    return plug("acme", execute=lambda: made)


@pytest.mark.parametrize(
    ("raised", "error", "says"),
    [
        (ValueError("oops"), ExecutionError, "<acme> 0 raised while it executed: ValueError: oops"),
        (OSError("unplugged"), ExecutionError, "<acme> 0 raised while it executed: OSError: unplugged"),
        (SystemExit(0), ExecutionError, "<acme> 0 raised while it executed: SystemExit: 0"),
        (MemoryError(), OutOfMemoryError, "<acme> 0 ran out of memory while it executed"),
        (InputError("too odd"), InputError, "^too odd$"),
    ],
)
def test_an_executor_that_raises(plug: Plug, raised: BaseException, error: type[DeepSeekError], says: str) -> None:
    with build(engine(plug, raising(raised))) as pipeline:
        with pytest.raises(error, match=says):
            pipeline.run(x=X)
        with pytest.raises(error, match=says):
            pipeline.submit(x=X).result(60)


def test_an_interrupt_is_nobody_s_fault(plug: Plug) -> None:
    with build(engine(plug, raising(KeyboardInterrupt()))) as pipeline, pytest.raises(KeyboardInterrupt):
        pipeline.run(x=X)


def test_the_wrapper_and_not_the_engine_is_blamed_for_what_it_raises(plug: Plug) -> None:
    bad = EchoExecutor(work=raising(ValueError("oops")))
    wrap = plug("wrap", execute=lambda: Wrapper("w", lambda executor: bad))
    with build(wrap) as pipeline, pytest.raises(ExecutionError, match="<wrap> 0 raised while it executed"):
        pipeline.run(x=X)


def test_a_scheduler_that_raises(plug: Plug) -> None:
    class Bad:
        run = submit = staticmethod(raising(ValueError("oops")))

        def close(self) -> None: ...

    with build(plug("acme", schedule=lambda config: Policy("bad", lambda executors: Bad()))) as pipeline:
        for call in (pipeline.run, pipeline.submit):
            with pytest.raises(HookError, match="<acme> 0 raised while it scheduled: ValueError: oops"):
                call(x=X)


def test_a_codec_that_raises(plug: Plug, tmp_path: Path) -> None:
    class Bad:
        suffixes = frozenset({".txt"})
        read = encode = decode = staticmethod(raising(KeyError("oops")))

    with build(plug("acme", codec=lambda: Coding("bad", lambda signature: Bad()))) as pipeline:
        for call in (pipeline.predict, pipeline.codec.encode):
            with pytest.raises(HookError, match="<acme> 0 raised while it encoded an input: KeyError: 'oops'"):
                call("text")
        with pytest.raises(HookError, match="<acme> 0 raised while it read an input"):
            next(pipeline.codec.read(tmp_path / "a.txt", None))
        with pytest.raises(HookError, match="<acme> 0 raised while it decoded an answer"):
            pipeline.codec.decode({"x": X})


def test_a_codec_that_raises_half_way_through_a_file(plug: Plug, tmp_path: Path) -> None:
    class Bad:
        suffixes = frozenset({".txt"})
        encode = decode = staticmethod(raising(KeyError("oops")))

        def read(self, path: Path | None, data: bytes | None) -> Iterator[tuple[str, Tensors]]:
            yield "one", {"x": X}
            raise KeyError("oops")

    with build(plug("acme", codec=lambda: Coding("bad", lambda signature: Bad()))) as pipeline:
        items = pipeline.codec.read(tmp_path / "a.txt", None)
        assert next(items)[0] == "one"
        with pytest.raises(HookError, match="<acme> 0 raised while it read an input: KeyError: 'oops'"):
            next(items)


def test_a_scheduler_of_a_plugin_sees_errors_of_ours_only(plug: Plug) -> None:
    seen: list[BaseException] = []

    class Watching:
        def __init__(self, executors: Any) -> None:
            [self._executor] = executors

        def run(self, inputs: Tensors, share: Share) -> Any:
            try:
                return self._executor.run(inputs, [share])
            except Exception as exc:
                seen.append(exc)
                raise

        def submit(self, request: Request) -> None: ...

        def close(self) -> None: ...

    acme = plug("watch", schedule=lambda config: Policy("watching", Watching))
    with build(acme, engine(plug, raising(ValueError("oops")))) as pipeline, pytest.raises(ExecutionError):
        pipeline.run(x=X)
    assert [type(error) for error in seen] == [ExecutionError]


def test_an_executor_that_answers_with_something_else_than_a_dict(plug: Plug) -> None:
    class Nothing(EchoExecutor):
        def run(self, inputs: Tensors, shares: Any) -> Any:
            return None

    made = Engine("acme", frozenset({"fake"}), lambda model: Nothing(model.signature))
    with build(plug("acme", execute=lambda: made)) as pipeline:
        says = "<acme> 0 answered with a NoneType instead of a dict of named arrays"
        with pytest.raises(ExecutionError, match=says):
            pipeline.run(x=X)
        with pytest.raises(ExecutionError, match=says):
            pipeline.submit(x=X).result(60)


def test_a_scheduler_that_answers_nothing(plug: Plug) -> None:
    class Silent:
        def run(self, inputs: Tensors, share: Share) -> Any: ...
        def submit(self, request: Request) -> None: ...
        def close(self) -> None: ...

    acme = plug("acme", schedule=lambda: Policy("acme", lambda executors: Silent()))
    with build(acme) as pipeline, pytest.raises(HookError, match="<acme> 0 answered with a NoneType instead of a dict"):
        pipeline.run(x=X)


@pytest.mark.parametrize("concurrency", [-1, "a", None])
def test_a_limit_that_is_none(plug: Plug, concurrency: Any) -> None:
    def opened(model: Any) -> EchoExecutor:
        executor = EchoExecutor(model.signature)
        executor.concurrency = concurrency
        return executor

    acme = plug("acme", execute=lambda: Engine("acme", frozenset({"fake"}), opened))
    with pytest.raises(HookError, match=r"<acme> 0 raised .* its concurrency is .*; it must be a number"):
        build(acme)


class Codec:
    """Reads, encodes and decodes what it is told to."""

    suffixes = frozenset({".acme"})

    def __init__(self, item: Any = None, decoded: Any = None) -> None:
        self.item, self.decoded = item, decoded

    def read(self, path: Path | None, stream: Any) -> Iterator[Any]:
        yield self.item

    def encode(self, value: object) -> Any:
        return {"x": X}

    def decode(self, outputs: Any) -> Any:
        return self.decoded


@pytest.mark.parametrize("decoded", [None, [1], {"x": 1}])
def test_a_codec_whose_answers_are_none(plug: Plug, decoded: Any) -> None:
    acme = plug("acme", codec=lambda: Coding("acme", lambda signature: Codec(decoded=decoded)))
    with (
        build(acme) as pipeline,
        pytest.raises(HookError, match="<acme> 0 answered with a .* instead of a list of dicts"),
    ):
        pipeline.predict("cat")


@pytest.mark.parametrize("item", [1, ("a", {}, 3), ("a", 5), (5, {})])
def test_a_codec_whose_items_are_none(plug: Plug, item: Any) -> None:
    acme = plug("acme", codec=lambda: Coding("acme", lambda signature: Codec(item)))
    with build(acme) as pipeline, pytest.raises(HookError, match="<acme> 0 answered with .* instead of a label and"):
        list(pipeline.codec.read(Path("a.acme"), None))
