"""A pipeline file to settings: what is read, and what every mistake says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from config_pieces import Acme, read, refused
from deepseek import reader
from deepseek.config import settle
from deepseek.errors import ConfigError
from deepseek.settings import Settings


def test_settings_are_converted_and_frozen(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
model: model.onnx
acme:
  delay: 2ms
  memory: 16GiB
  loss: 1%
  mode: small
  inner: {a: {size: 3, path: data/x}}
""",
    )
    acme = config[Acme]
    assert (acme.delay, acme.memory, acme.loss, acme.mode) == (0.002, 2**34, 0.01, "small")
    assert acme.inner["a"].path == tmp_path / "data/x"
    assert config.model.source == tmp_path / "model.onnx"
    with pytest.raises(AttributeError, match="immutable"):
        acme.mode = "fast"  # type: ignore[misc]


def test_a_mapping_is_as_good_as_a_file() -> None:
    given = {"model": {"source": "m.onnx"}, "acme": {"names": ["a"], "inner": {"x": {"size": 2}}}}
    config = settle(reader.read(given, ["acme.inner.x.size=5"]), {"acme": Acme})
    assert config[Acme].inner["x"].size == 5
    assert given["acme"]["inner"]["x"]["size"] == 2  # type: ignore[index,call-overload]  # the caller's own is untouched


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "model: m\nacme:\n  delya: 2ms\n",
            "p.yaml:3:3: `acme.delya` is not a known key\n  fix: did you mean `acme.delay`?",
        ),
        ("model: m\nacmee: {}\n", "p.yaml:2:1: `acmee` is not a known key\n  fix: did you mean `acme`?"),
        (
            "model: m\nacme: {delay: 2 apples}\n",
            "p.yaml:2:15: `acme.delay` must be a duration such as `2ms`, `1.5s` or `5m` (got `2 apples`)",
        ),
        (
            "model: m\nacme: {memory: much}\n",
            "p.yaml:2:16: `acme.memory` must be a size such as `512MiB` or `16GiB` (got `much`)",
        ),
        ("model: m\nacme: {mode: faster}\n", "`acme.mode` must be one of `fast`, `small` (got `faster`)"),
        ("model: m\nacme: {threads: -1}\n", "p.yaml:2:17: `acme.threads` must be a whole number >= 0 (got `-1`)"),
        ("model: m\nacme: {threads: many}\n", "`acme.threads` must be a whole number (got `many`)"),
        ("model: m\nacme: {names: [a, 3]}\n", "p.yaml:2:19: `acme.names[1]` must be text (got `3`)"),
        ("model: m\nacme:\n  inner:\n    a:\n      siez: 3\n", "p.yaml:5:7: `acme.inner.a.siez` is not a known key"),
        (
            "model: m\nacme:\n  inner: {a: {size: 0}}\n",
            "p.yaml:3:21: `acme.inner.a.size` must be a whole number >= 1 (got `0`)",
        ),
        ("model: m\nacme: 5\n", "p.yaml:2:7: `acme` must be a mapping (got `5`)"),
        ("acme: {}\n", "`model` is missing"),
        ("model: {}\n", "`model.source` is missing"),
        ("model: m\nversion: v9\n", "`version`"),
        ("model: m\nmodel: n\n", "p.yaml:2:1: `model` stands twice"),
        ("model: [\n", "p.yaml:2:1: this is not valid YAML"),
        ("- a\n", "p.yaml:1:1: a pipeline file is a mapping"),
        ("", "p.yaml:1:1: a pipeline file is a mapping"),
        ("model: !!python/object/apply:os.system [ls]\n", "p.yaml:1:8"),
        ("model: !!python/name:os.system x\n", "p.yaml:1:8"),
        ("model: ${NO_SUCH_VARIABLE}\n", "p.yaml:1:8: the environment variable NO_SUCH_VARIABLE is not set"),
        ("? [a, b]\n: c\n", "a key must be plain text"),
        ("model: !!timestamp foo\n", "p.yaml:1:8: "),
        ("model: !!bool foo\n", "p.yaml:1:8: "),
        ("model: m\nacme: false\n", "p.yaml:2:7: `acme` must be a mapping (got `false`)"),
        ("model: m\nACME: {}\n", "`ACME` is not a known key\n  fix: did you mean `acme`?"),
        ("model: !odd {source: m}\n", "p.yaml:1:8: `!odd` is not a kind of value"),
        ("model: {source: m, inputs: {x: {dtype: foo}}}\n", "p.yaml:1:40: `model.inputs.x.dtype`"),
        ("model: {source: m, inputs: {x: {shape: [-1, -7]}}}\n", "`model.inputs.x.shape[1]`"),
        ("model: m\nacme: {delay: 1e308d}\n", "`acme.delay` must be a duration"),
        ("model: m\nacme: {memory: 1e308TiB}\n", "`acme.memory` must be a size"),
        ("model: m\nacme: {memory: 1e400B}\n", "`acme.memory` must be a size"),
        ("[" * 200_000, "this is nested more than 50 deep"),
        ("{a: " * 100_000, "this is nested more than 50 deep"),
        ("- " * 200_000 + "a", "this is nested more than 50 deep"),
    ],
)
def test_a_mistake_names_place_key_and_way_out(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)


def test_a_home_that_nobody_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write the whole path"):
        _ = read(tmp_path, "model: ~nosuchuser/x\n").model


def test_paths_may_stand_in_a_mapping(tmp_path: Path) -> None:
    for given in ({"model": tmp_path / "m.onnx"}, {"model": {"source": tmp_path / "m.onnx"}}):
        assert settle(reader.read(given), {}).model.source == tmp_path / "m.onnx"
    with pytest.raises(ConfigError, match="a int is no pipeline configuration"):
        reader.read(5)  # type: ignore[arg-type]


def test_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADS", "4")
    monkeypatch.setenv("NAME", "x")
    text = "model: ${NAME}.onnx\nacme:\n  threads: ${THREADS}\n  names: ['${THREADS}', '$${NAME}', '${OTHER:-none}']\n"
    config = read(tmp_path, text)
    assert config.model.source.name == "x.onnx"
    assert config[Acme].threads == 4
    assert config[Acme].names == ["4", "${NAME}", "none"]


def test_overrides_go_over_the_file(tmp_path: Path) -> None:
    config = read(
        tmp_path, "model: a.onnx\nacme: {threads: 1}\n", "acme.threads=3", "acme.names=[p, q]", "device=cuda:1"
    )
    assert (config[Acme].threads, config[Acme].names, config.kernel.device) == (3, ["p", "q"], "cuda:1")


def test_an_override_turns_a_shorthand_into_the_mapping(tmp_path: Path) -> None:
    config = read(tmp_path, "model: a.onnx\n", "model.outputs=[y]")
    assert (config.model.source, config.model.outputs) == (tmp_path / "a.onnx", ["y"])


@pytest.mark.parametrize("override", ["acme.threads", "=3", "a..b=3"])
def test_what_is_no_override(tmp_path: Path, override: str) -> None:
    assert "is not an override" in refused(tmp_path, "model: a\n", override)


def test_a_mistake_in_an_override_is_blamed_on_it(tmp_path: Path) -> None:
    assert refused(tmp_path, "model: a\n", "acme.threads=x").startswith("--set acme.threads: `acme.threads` must be")


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = "model: m\nacme:\n  inner:\n    a: &a {size: 2, path: p}\n    b: {<<: *a, size: 3}\n"
    inner = read(tmp_path, text)[Acme].inner
    assert (inner["b"].size, inner["b"].path) == (3, tmp_path / "p")


def test_anchors_do_not_unfold_without_limit(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "unfolds into more than" in refused(tmp_path, "\n".join(lines))


def test_a_value_that_holds_itself(tmp_path: Path) -> None:
    assert "p.yaml" in refused(tmp_path, "model: m\nacme: &a\n  names: [*a]\n")


def test_files_that_are_no_pipeline(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such pipeline file\n  fix: the folder has other.yaml"):
        reader.read(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x81")
    with pytest.raises(ConfigError, match="can't be read"):
        reader.read(tmp_path / "binary.yaml")
    (tmp_path / "huge.yaml").write_bytes(b" " * (2 << 20))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        reader.read(tmp_path / "huge.yaml")


class Pair(Settings):
    """Two numbers in order."""

    low: int = 0
    high: int = 1

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low must not be above high")


def test_what_a_class_checks_for_itself_has_its_place(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("model: m\npair:\n  low: 3\n")
    with pytest.raises(ConfigError, match=r"p.yaml:3:3: `pair`: low must not be above high"):
        settle(reader.read(path), {"pair": Pair})


def test_what_an_override_brings_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("model: m\npair: {low: 0, high: 1}\n")
    with pytest.raises(ConfigError, match="--set pair:1:7: `pair.low` must be a whole number"):
        settle(reader.read(path, ["pair={low: x}"]), {"pair": Pair})


@pytest.mark.parametrize("model", ["", {"source": ""}])
def test_an_empty_path_is_no_path(model: object) -> None:
    with pytest.raises(ConfigError, match="must be a path|must not be empty"):
        _ = settle(reader.read({"model": model}), {}).model


def test_an_override_of_one_item_of_a_list_is_refused(tmp_path: Path) -> None:
    says = refused(tmp_path, "model: m\nacme: {names: [a]}\n", "acme.names.0=b")
    assert says.startswith("--set acme.names.0: `acme.names` is a list: its items can't be set one by one")
    says = refused(tmp_path, "model: m\n", "acme.names.0=b")
    assert says.startswith("--set acme.names.0: `acme.names` must be a list")


def test_an_escaped_dollar_stays_one_behind_an_anchor(tmp_path: Path) -> None:
    assert read(tmp_path, 'model: m\nacme: {names: [&a "$${HOME_OF}", *a]}\n')[Acme].names == ["${HOME_OF}"] * 2


def test_the_section_of_a_plugin_that_takes_no_part(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("model: m\nacme: {}\nother: {}\n")
    with pytest.raises(ConfigError, match="`other` is the section of a plugin that takes no part: it is disabled"):
        settle(reader.read(tmp_path / "p.yaml"), {"acme": Acme}, {"other": "it is disabled"})


def test_paths_in_what_comes_through_a_pipe_start_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours, theirs = os.pipe()
    os.write(theirs, b"model: m.onnx\n")
    os.close(theirs)
    assert settle(reader.read(f"/proc/self/fd/{ours}"), {}).model.source == tmp_path / "m.onnx"
    os.close(ours)
