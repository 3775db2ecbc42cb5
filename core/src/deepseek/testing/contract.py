"""The contract suite: what every plugin promises, as tests that its author inherits.

Example (a plugin's whole ``tests/test_contract.py``)::

    from deepseek.testing.contract import PluginContract

    class TestContract(PluginContract):
        plugin = "acme"
        bad_settings = [({"acme": {"threads": -1}}, "acme.threads")]

        def configuration(self, folder):
            return {"model": str(write_a_small_model(folder)), "engine": "acme"}

Needs ``pip install 'deepseek-core[testing]'``.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest

import deepseek
from deepseek.devices import resident_bytes
from deepseek.errors import ClosedError, ConfigError, PlanError
from deepseek.hookspecs import NAMES
from deepseek.pipeline import Pipeline
from deepseek.plugins import Plugin, discover
from deepseek.registry import Registry
from deepseek.testing import fakes
from deepseek.testing.comparing import check_fit, check_same, parts
from deepseek.testing.strangers import Foreign, neighbour
from deepseek.verify import sample

#: Libraries that may not be loaded by importing a plugin's hooks.
HEAVY = ("numpy", "torch", "tensorflow", "onnxruntime", "onnx", "transformers", "tokenizers", "PIL", "tvm", "openvino")


class PluginContract:
    """Subclass it as ``TestContract``, name the plugin, and give a pipeline in which it takes part."""

    #: The plugin's entry-point name.
    plugin: ClassVar[str] = ""

    #: (section, the key that the error must name) for settings that must be refused.
    bad_settings: ClassVar[Sequence[tuple[Mapping[str, Any], str]]] = ()

    #: How far results in a batch may differ from those one by one, relative to the largest output.
    tolerance: ClassVar[float] = 1e-4

    #: How much resident memory may grow from one build and close to the next, bytes, once it has settled.
    leak_bytes: ClassVar[int] = 1 << 20

    def configuration(self, folder: Path) -> dict[str, Any]:
        """A pipeline that uses the plugin; default: a fake engine, for plugins that are none themselves."""
        return {"model": fakes.model_file(folder=folder)}

    def inputs(self, pipeline: Pipeline, rows: int, seed: int = 0) -> dict[str, Any]:
        """Tensors for the pipeline; default: random ones of its signature."""
        return sample(pipeline.signature, rows, seed)

    # What follows are the tests.

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        """The subclass's configuration."""
        return self.configuration(tmp_path)

    def build(self, config: Mapping[str, Any]) -> Pipeline:
        """A pipeline in which fakes may take part beside what is installed."""
        return deepseek.build(config, plugins=[fakes])

    def test_is_installed_and_states_its_api(self) -> None:
        assert self._found().api, "the distribution needs the keyword deepseek-plugin-api-MAJOR.MINOR"

    def test_hooks_are_known_and_well_formed(self) -> None:
        plugin = next(item for item in Registry(discover()).plugins if item.name == self.plugin)
        assert plugin.state == "active"
        assert plugin.hooks
        assert set(plugin.hooks) <= set(NAMES)

    def test_hooks_import_nothing_heavy(self) -> None:
        code = f"import sys, {self._found().target}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
        assert done.stdout.split() == []

    def test_neighbours_before_and_after_change_nothing(self, config: dict[str, Any]) -> None:
        """The plugin answers for what is its own alone, so it does not matter who answers before and after it."""
        plans = [deepseek.explain(config, plugins=[fakes, neighbour(name)]) for name in ("_first", "~last")]
        first, last = ([part for part in parts(plan) if part.plugin == self.plugin] for plan in plans)
        assert [part.record.name for part in first] == [part.record.name for part in last]

    def test_takes_part(self, config: dict[str, Any]) -> None:
        answered = {part.plugin for part in parts(deepseek.explain(config, plugins=[fakes]))}
        silent = {"sections", "probe", "observe", "commands"} >= set(self._hooks())
        assert silent or self.plugin in answered, "configuration() must give a pipeline that uses the plugin"

    def test_a_batch_equals_its_rows(self, config: dict[str, Any]) -> None:
        with self.build(config) as pipeline:
            batch = self.inputs(pipeline, 4)
            together = pipeline.run(batch)
            if not pipeline.signature.batched:
                check_same(pipeline.run(batch), together, self.tolerance)
                return
            rows = [pipeline.run({name: value[i : i + 1] for name, value in batch.items()}) for i in range(4)]
            apart = {name: np.concatenate([row[name] for row in rows]) for name in together}
            check_same(apart, together, self.tolerance)

    def test_threads_get_their_own_answers(self, config: dict[str, Any]) -> None:
        with self.build(config) as pipeline:
            questions = [self.inputs(pipeline, 1, seed) for seed in range(16)]
            wanted = [pipeline.run(question) for question in questions]
            barrier = threading.Barrier(4)

            def ask(start: int) -> list[Any]:
                barrier.wait()
                return [pipeline.run(question) for question in questions[start::4]]

            with ThreadPoolExecutor(4) as pool:
                for start, answers in enumerate(pool.map(ask, range(4))):
                    for answer, right in zip(answers, wanted[start::4], strict=True):
                        check_same(answer, right, self.tolerance)

    def test_submit_answers_like_run(self, config: dict[str, Any]) -> None:
        with self.build(config) as pipeline:
            inputs = self.inputs(pipeline, 1)
            check_same(pipeline.submit(inputs).result(60), pipeline.run(inputs), self.tolerance)

    def test_answers_are_the_callers_own(self, config: dict[str, Any]) -> None:
        with self.build(config) as pipeline:
            inputs = self.inputs(pipeline, 2)
            kept = {name: np.array(value) for name, value in inputs.items()}
            wanted = {name: value.copy() for name, value in pipeline.run(inputs).items()}
            for value in pipeline.run(inputs).values():
                value[...] = np.zeros((), value.dtype)
            check_same(inputs, kept, 0.0)
            check_same(pipeline.run(inputs), wanted, self.tolerance)

    def test_arrays_of_any_library_are_taken(self, config: dict[str, Any]) -> None:
        with self.build(config) as pipeline:
            inputs = self.inputs(pipeline, 2)
            # NumPy's own text and foreign byte orders have no DLPack form.
            foreign = {n: Foreign(v) if v.dtype.kind in "biuf" else v for n, v in inputs.items()}
            check_same(pipeline.run(foreign), pipeline.run(inputs), self.tolerance)

    def test_answers_are_what_the_signature_says(self, config: dict[str, Any]) -> None:
        with self.build(config) as pipeline:
            check_fit(pipeline.run(self.inputs(pipeline, 2)), pipeline.signature)

    def test_a_file_of_another_kind_is_not_claimed(self, tmp_path: Path) -> None:
        (tmp_path / "model.no_such_kind").write_bytes(b"no such kind")
        try:
            plan = deepseek.explain({"model": str(tmp_path / "model.no_such_kind")})
        except PlanError:
            return
        assert plan.loader.plugin != self.plugin

    def test_two_pipelines_do_not_disturb_one_another(self, config: dict[str, Any]) -> None:
        with self.build(config) as first:
            inputs = self.inputs(first, 1)
            before = first.run(inputs)
            with self.build(config) as second:
                check_same(second.run(inputs), before, self.tolerance)
            check_same(first.run(inputs), before, self.tolerance)

    def test_close_ends_threads_and_processes_and_refuses_work(
        self, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A place of its own for the folders of passes: other processes have theirs in the usual one.
        (scratch := tmp_path / "scratch").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        threads, children = set(threading.enumerate()), psutil.Process().children()
        pipeline = self.build(config)
        inputs = self.inputs(pipeline, 1)
        pipeline.submit(inputs).result(60)
        pipeline.close()
        pipeline.close()
        with pytest.raises(ClosedError):
            pipeline.run(inputs)
        with pytest.raises(ClosedError):
            pipeline.submit(inputs)
        assert set(threading.enumerate()) <= threads
        assert psutil.Process().children() == children
        assert not list(scratch.glob("deepseek-*"))

    def test_standard_output_is_left_to_answers(
        self, config: dict[str, Any], capfd: pytest.CaptureFixture[str]
    ) -> None:
        with self.build(config) as pipeline:
            pipeline.run(self.inputs(pipeline, 1))
        assert capfd.readouterr().out == ""

    def test_building_and_closing_does_not_leak(self, config: dict[str, Any]) -> None:
        process = psutil.Process()

        def cycle() -> None:
            with self.build(config) as pipeline:
                for _ in range(10):
                    pipeline.run(self.inputs(pipeline, 1))
            gc.collect()

        def growth() -> tuple[int, int]:
            files, memory = process.num_fds(), resident_bytes()
            for _ in range(5):
                cycle()
            return process.num_fds() - files, resident_bytes() - memory

        for _ in range(3):
            cycle()
        # Pools and caches of the libraries fill up at some time or other; a leak goes on.
        seen = [growth()]
        while (seen[-1][0] > 0 or seen[-1][1] > 5 * self.leak_bytes) and len(seen) < 5:
            seen.append(growth())
        files, memory = seen[-1]
        assert files <= 0, f"open files, growth in each 5 cycles: {[count for count, _ in seen]}"
        assert memory <= 5 * self.leak_bytes, f"bytes, growth in each 5 cycles: {[size for _, size in seen]}"

    def test_bad_settings_are_refused_by_name(self, config: dict[str, Any]) -> None:
        assert self.bad_settings or "sections" not in self._hooks(), "give bad_settings for the plugin's sections"
        for section, key in self.bad_settings:
            with pytest.raises(ConfigError, match=key.replace(".", r"\.").replace("[", r"\[")):
                self.build({**config, **section})

    def test_unknown_keys_are_refused(self, config: dict[str, Any]) -> None:
        registry = Registry(item for item in discover() if item.name == self.plugin)
        for section in registry.sections():
            with pytest.raises(ConfigError, match="no_such_key"):
                self.build({**config, section: {"no_such_key": 1}})

    def _found(self) -> Plugin:
        found = {item.name: item for item in discover()}
        assert self.plugin in found, f"the plugin {self.plugin!r} is not installed: pip install -e ."
        return found[self.plugin]

    def _hooks(self) -> tuple[str, ...]:
        return next(item.hooks for item in Registry(discover()).plugins if item.name == self.plugin)
