"""Discovery and selection, on distributions that are written to disk for the test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deepseek.errors import PluginError
from deepseek.plugins import Plugin, discover, from_module
from plugin_pieces import Make, refused, registry, states


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
