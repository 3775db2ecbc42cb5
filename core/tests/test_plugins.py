"""Discovery and selection, on distributions that are written to disk for the test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest

from deepseek.errors import ConfigError, DeepSeekError, HookError, OutOfMemoryError, PluginError
from deepseek.plugins import Plugin, discover, from_module, select
from deepseek.registry import Registry
from deepseek.settings import PluginSettings, Selection

HEAD = "from deepseek.plugin import *\n"
Make = Callable[..., None]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Write distributions that `importlib.metadata` finds; the real ones are out of sight."""
    before = set(sys.modules)

    def write(name: str, code: str = "", *, api: str = "1.0", version: str = "1.0", dist: str = "") -> None:
        dist = dist or f"acme-{name}"
        info = tmp_path / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        keywords = f"Keywords: x,deepseek-plugin-api-{api}\n" if api else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n{keywords}")
        (info / "entry_points.txt").write_text(f"[deepseek]\n{name} = acme_{name}\n")
        (tmp_path / f"acme_{name}.py").write_text(HEAD + (code or "@hookimpl\ndef probe(): ...\n"))

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr("deepseek.plugins.distributions", lambda: distributions(path=[str(tmp_path)]))
    yield write
    for name in set(sys.modules) - before:
        if name.startswith("acme_"):
            del sys.modules[name]


def registry(version: str = "", **settings: list[str]) -> Registry:
    plugins = PluginSettings(**settings)  # type: ignore[arg-type]
    chosen = Selection(version=version, plugins=plugins)  # type: ignore[arg-type]
    return Registry(select(discover(), chosen), plugins.optional)


def states(found: Registry) -> dict[str, str]:
    return {plugin.name: plugin.state for plugin in found.plugins}


def refused(error: type[DeepSeekError] = PluginError, **settings: list[str]) -> str:
    with pytest.raises(error) as caught:
        registry(**settings)
    return str(caught.value)


def test_plugins_are_found_in_the_order_of_names(make: Make) -> None:
    make("zeta")
    make("alpha", version="2.1")
    assert [(plugin.name, str(plugin), plugin.api) for plugin in discover()] == [
        ("alpha", "acme-alpha 2.1", "1.0"),
        ("zeta", "acme-zeta 1.0", "1.0"),
    ]


def test_a_blocked_plugin_is_never_imported(make: Make) -> None:
    make("good", "@hookimpl\ndef sections(): return {}\n")
    make("bad", "raise SystemExit('imported')\n")
    found = registry(disable=["bad"])
    assert states(found) == {"bad": "blocked", "good": "active"}
    assert "acme_bad" not in sys.modules


def test_a_broken_plugin_stops_the_build_and_is_named(make: Make) -> None:
    make("bad", "import no_such_module\n", version="0.3")
    says = refused()
    assert (
        "acme-bad 0.3 (plugin `bad`) can't be imported: ModuleNotFoundError: No module named 'no_such_module'" in says
    )
    assert "plugins.disable" in says


def test_an_optional_broken_plugin_is_passed_over(make: Make) -> None:
    make("bad", "1 / 0\n")
    found = registry(optional=["bad"])
    assert states(found) == {"bad": "broken"}
    assert "ZeroDivisionError" in found.plugins[0].why


@pytest.mark.parametrize("api", ["2.0", "0.9", "1.1"])
def test_a_plugin_for_another_api_is_refused_before_it_is_imported(make: Make, api: str) -> None:
    make("other", "raise SystemExit('imported')\n", api=api)
    assert f"acme-other 1.0 is written for plugin API {api}, this is 1.0\n  fix: upgrade" in refused()
    assert states(registry(optional=["other"])) == {"other": "incompatible"}


def test_a_plugin_must_state_its_api(make: Make) -> None:
    make("silent", api="")
    assert 'add the keyword "deepseek-plugin-api-1.0"' in refused()
    make("odd", api="one")
    assert "that is not MAJOR.MINOR" in refused(disable=["silent"])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "@hookimpl\ndef lod(source): ...\n",
            "acme-bad 1.0 implements `lod`, which is not a hook\n  fix: did you mean `load`?",
        ),
        (
            "@hookimpl\ndef load(sauce): ...\n",
            "the hook `load` has no argument `sauce`\n  fix: its arguments are: source, device, config",
        ),
        ("@hookimpl\ndef load(source=None): ...\n", "gives its argument `source` a default"),
        ("@hookimpl(wrapper=True)\ndef execute(): return (yield)\n", "hook wrapper, which is not supported"),
    ],
)
def test_a_malformed_hook_is_refused(make: Make, code: str, says: str) -> None:
    make("bad", code)
    assert says in refused()


def test_two_owners_of_one_section_are_both_named(make: Make) -> None:
    code = "class S(Settings): pass\n@hookimpl\ndef sections(): return {'shared': S}\n"
    make("one", code)
    make("two", code)
    with pytest.raises(PluginError, match=r"`shared` is claimed by acme-one 1.0 and acme-two 1.0\n  fix: disable one"):
        registry().sections()
    assert list(registry(disable=["two"]).sections()) == ["shared", "fifo"]


def test_the_kernels_own_keys_can_not_be_claimed(make: Make) -> None:
    make("bad", "class S(Settings): pass\n@hookimpl\ndef sections(): return {'engine': S}\n")
    with pytest.raises(PluginError, match="acme-bad 1.0 claims the section `engine`, which is the kernel's own"):
        registry().sections()


def test_a_plugin_that_exits_does_not_end_the_program(make: Make) -> None:
    make("bad", "raise SystemExit(0)\n")
    assert "can't be imported: SystemExit" in refused()


def test_two_plugins_of_one_name_are_both_named(make: Make) -> None:
    make("one")
    make("one", dist="other-one", version="3")
    says = "two plugins are named `one`: acme-one 1.0 and other-one 3\n  fix: uninstall one: pip uninstall acme-one or"
    assert says in refused()
    assert [plugin.state for plugin in registry(optional=["one"]).plugins] == ["broken", "broken"]
    assert [plugin.state for plugin in registry(disable=["one"]).plugins] == ["blocked", "blocked"]


def test_of_two_plugins_of_one_name_ours_is_not_the_one_to_uninstall(make: Make) -> None:
    make("torch", dist="deepseek-torch")
    make("torch", dist="strange-torch")
    assert refused().endswith("fix: uninstall one: pip uninstall strange-torch")


@pytest.mark.parametrize("line", ["acme = !!bad", "acme =", "acme = module:attribute"])
def test_entry_points_that_can_not_be_read_are_named_and_take_nobody_along(
    make: Make, tmp_path: Path, line: str
) -> None:
    make("bad")
    make("good")
    (tmp_path / "acme_bad-1.0.dist-info/entry_points.txt").write_text(f"[deepseek]\n{line}\n")
    assert "the entry points of acme-bad 1.0 can't be read" in refused()
    assert states(registry(optional=["acme-bad"])) == {"acme-bad": "broken", "good": "active"}
    assert states(registry(disable=["acme-bad"])) == {"acme-bad": "blocked", "good": "active"}


def test_what_is_no_exception_is_caught_too(make: Make) -> None:
    make("bad", "class Panic(BaseException): pass\nraise Panic('rust')\n")
    assert "acme-bad 1.0 (plugin `bad`) can't be imported: Panic: rust" in refused()
    make("worse", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        registry(disable=["bad"])


def test_a_plugin_without_hooks_is_refused(make: Make) -> None:
    make("empty", "probe = lambda config: []\n")
    assert "acme-empty 1.0 implements no hook\n  fix: mark functions" in refused()
    with pytest.raises(PluginError, match=r"plugins=\[...\] takes modules with hooks, not the text `'acme'`"):
        from_module("acme")  # type: ignore[arg-type]


def test_the_kernel_s_own_name_is_taken(make: Make) -> None:
    make("fifo")
    assert "the plugin `fifo` has the name of the kernel's own scheduler" in refused()
    assert states(registry(disable=["fifo"])) == {"fifo": "blocked"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Engine('e', None, print)", "TypeError: Engine.accepts is None"),
        ("Engine('e', 'fake', print)", "TypeError: Engine.accepts is 'fake'"),
        ("Engine('e', frozenset({1}), print)", r"TypeError: Engine.accepts is frozenset\(\{1\}\)"),
        ("Engine('e', frozenset(), None)", "TypeError: Engine.open is None"),
        ("Engine('e', frozenset(), print, library_bytes='1')", "TypeError: Engine.library_bytes is '1'"),
        ("Wrapper(None, print)", "TypeError: Wrapper.name is None"),
    ],
)
def test_a_record_with_a_field_of_the_wrong_type_is_blamed_at_once(make: Make, answer: str, says: str) -> None:
    make("bad", f"@hookimpl\ndef execute(): return {answer}\n")
    with pytest.raises(HookError, match=f"acme-bad 1.0 raised in its hook `execute`: {says}"):
        registry().ask("execute")


def test_a_plugin_that_raises_in_a_hook_is_blamed(make: Make) -> None:
    make("bad", "@hookimpl\ndef probe(config): return config.nothing\n")
    with pytest.raises(HookError, match="acme-bad 1.0 raised in its hook `probe`: AttributeError") as caught:
        registry().ask("probe", config=None)
    assert isinstance(caught.value.__cause__, AttributeError)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("config.nothing", "acme-bad 1.0 raised in its hook `probe`: AttributeError"),
        ("[1]", "acme-bad 1.0 answered its hook `probe` with a int"),
    ],
)
def test_an_optional_plugin_that_fails_in_a_hook_is_passed_over(make: Make, fault: str, says: str) -> None:
    make("bad", f"@hookimpl\ndef probe(config): return {fault}\n@hookimpl\ndef observe(config): return 1\n")
    make("good", "@hookimpl\ndef probe(config): return [Device('good', '', 0, 0)]\n")
    found = registry(optional=["bad"])
    assert [answer.plugin for answer in found.ask("probe", config=None)] == ["good"]
    assert states(found) == {"bad": "broken", "good": "active"}
    assert found.plugins[0].why.startswith(says)
    assert found.ask("observe", config=None) == []


def test_an_optional_plugin_s_own_refusal_still_counts(make: Make) -> None:
    make("strict", "@hookimpl\ndef probe(config): raise ConfigError('no such card')\n")
    with pytest.raises(ConfigError, match="no such card"):
        registry(optional=["strict"]).ask("probe", config=None)


@pytest.mark.parametrize(
    ("hook", "answer", "says"),
    [
        ("load", "[Loader('l', 'f', print)]", "with a list\n  fix: it takes Loader or Decline; None is no answer"),
        ("execute", "[Engine('e', frozenset(), print)]", "with a list\n  fix: it takes Engine or Wrapper or Decline"),
        ("probe", "[Device('a', '', 0, 0), 1]", "with a int\n  fix: it takes Device, or a list of them"),
        ("sections", "[1]", "with a list\n  fix: it takes dict"),
        ("observe", "1", r"with a int\n  fix: it takes an object with the methods batch\(batch\) and close\(\)"),
        (
            "optimize",
            "Pass('p', Stage.CONVERT, frozenset({'a'}), print)",
            "the pass `p`, which converts to nothing\n  fix: it takes the format that it `yields`",
        ),
    ],
)
def test_an_answer_of_the_wrong_kind_is_refused(make: Make, hook: str, answer: str, says: str) -> None:
    make("bad", f"@hookimpl\ndef {hook}(): return {answer}\n")
    with pytest.raises(HookError, match=f"acme-bad 1.0 answered its hook `{hook}` .*{says}"):
        registry().ask(hook)


def test_one_answer_or_a_list_of_them(make: Make) -> None:
    make("one", "@hookimpl\ndef probe(): return Device('one', '', 0, 0)\n")
    make("two", "@hookimpl\ndef probe(): return [Device('two', '', 0, 0), Device('three', '', 0, 0)]\n")
    assert [(item.plugin, item.value.name) for item in registry().ask("probe")] == [
        ("one", "one"), ("two", "two"), ("two", "three"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("{'acme': int}", "gives the section `acme` a <class 'int'>, which is no subclass of Settings"),
        ("{'acme': Settings()}", "which is no subclass of Settings"),
        ("{'a': S, 'b': S}", r"gives the section `b` a class that another section has already \(S\)"),
    ],
)
def test_a_section_of_the_wrong_kind_is_refused(make: Make, answer: str, says: str) -> None:
    make("bad", f"class S(Settings): pass\n@hookimpl\ndef sections(): return {answer}\n")
    with pytest.raises(PluginError, match=says):
        registry().sections()


def test_memory_that_runs_out_in_a_hook(make: Make) -> None:
    make("bad", "@hookimpl\ndef probe(): raise MemoryError\n")
    with pytest.raises(OutOfMemoryError, match="acme-bad 1.0 ran out of memory in its hook `probe`"):
        registry().ask("probe")


def test_answers_come_in_the_order_of_names_first_and_last_apart(make: Make) -> None:
    for name, mark in (("a", ""), ("b", "(trylast=True)"), ("c", "(tryfirst=True)"), ("d", "")):
        make(name, f"@hookimpl{mark}\ndef probe(config): return [Device('{name}', '', 0, 0)]\n")
    assert [answer.plugin for answer in registry().ask("probe", config=None)] == ["c", "a", "d", "b"]


def test_a_version_selects_its_set(make: Make) -> None:
    for name in ("codecs", "onnxruntime", "tensorflow", "torch", "extra"):
        make(name, dist=f"deepseek-{name}")
    found = registry("v1")
    assert states(found) == {
        "codecs": "active",
        "onnxruntime": "active",
        "tensorflow": "active",
        "torch": "active",
        "extra": "blocked",
    }
    assert found.plugins[1].why == "not part of v1; add it to plugins.enable"
    assert states(registry("v1", enable=["extra"]))["extra"] == "active"


def test_a_version_that_is_not_installed_or_not_written_says_so(make: Make) -> None:
    make("codecs", dist="deepseek-codecs")
    with pytest.raises(PluginError, match=r"v1 needs deepseek-onnxruntime.*\n  fix: pip install 'deepseek\[v1\]'"):
        registry("v1")
    assert states(registry("v1", disable=["onnxruntime", "tensorflow", "torch"])) == {"codecs": "active"}
    with pytest.raises(PluginError, match=r"v2 is not complete yet: batching.* not written"):
        registry("v2")


@pytest.mark.parametrize("key", ["enable", "disable", "optional"])
def test_a_plugin_that_is_not_installed_can_not_be_named(make: Make, key: str) -> None:
    make("acme")
    assert f"`plugins.{key}` names `acem`" in refused(**{key: ["acem"]})
    assert "did you mean `acme`?" in refused(**{key: ["acem"]})


def test_str_of_a_plugin_is_what_errors_say() -> None:
    assert str(Plugin("torch", "deepseek-torch", "1.0", "deepseek_torch.hooks")) == "deepseek-torch 1.0"


def test_an_optional_plugin_whose_section_is_taken_is_passed_over(make: Make) -> None:
    section = "class S(Settings): pass\n@hookimpl\ndef sections(): return {'shared': S}\n"
    make("one", section)
    make("two", section)
    found = registry(optional=["two"])
    assert list(found.sections()) == ["shared", "fifo"]
    assert states(found) == {"one": "active", "two": "broken"}
    assert "`shared` is claimed by acme-one 1.0 and acme-two 1.0" in found.plugins[1].why
