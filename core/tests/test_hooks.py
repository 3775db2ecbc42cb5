"""Asking plugins: what their hooks may answer, in which order, and what becomes of those that fail."""

from __future__ import annotations

import pytest

from deepseek.errors import ConfigError, HookError, OutOfMemoryError, PluginError
from plugin_pieces import Make, registry, states


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
        ("{3: S}", "claims the section `3`, which is no name"),
        ("{'a.b c': S}", "claims the section `a.b c`, which is no name"),
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


def test_an_optional_plugin_whose_section_is_taken_is_passed_over(make: Make) -> None:
    section = "class S(Settings): pass\n@hookimpl\ndef sections(): return {'shared': S}\n"
    make("one", section)
    make("two", section)
    found = registry(optional=["two"])
    assert list(found.sections()) == ["shared", "fifo"]
    assert states(found) == {"one": "active", "two": "broken"}
    assert "`shared` is claimed by acme-one 1.0 and acme-two 1.0" in found.plugins[1].why
