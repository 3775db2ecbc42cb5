"""Texts become tokens."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from codecs_pieces import IDS, build, tokenizer
from deepseek.errors import ConfigError, InputError


def test_texts_become_tokens(tmp_path: Path) -> None:
    with build(IDS, inputs={"text": {"tokenizer": tokenizer(tmp_path), "max_length": 3}}) as pipeline:
        answer = pipeline.predict("a cat sat purring")[0]
        assert (answer["input_ids"].tolist(), answer["attention_mask"].tolist()) == ([2, 3, 4], [1, 1, 1])
        (tmp_path / "lines.txt").write_text("a cat\n\nsat\n")
        read = list(pipeline.codec.read(tmp_path / "lines.txt", None))
        assert [(label[-5:], tensors["input_ids"].tolist()) for label, tensors in read] == [
            ("txt:1", [[2, 3]]),
            ("txt:3", [[4]]),
        ]
    with build(IDS, inputs={"text": {"tokenizer": tokenizer(tmp_path), "pad_to": 4}}) as pipeline:
        assert pipeline.predict("cat")[0]["attention_mask"].tolist() == [1, 0, 0, 0]
        # The same from the ids of its tokens.
        for text, ids in (("a cat", [2, 3]), ("sat", [4])):
            made, same = pipeline.codec.encode(ids), pipeline.codec.encode(text)
            assert {name: tensor.tolist() for name, tensor in made.items()} == {
                name: tensor.tolist() for name, tensor in same.items()
            }
        for wrong in ([], [2] * 513, [-1], [99]):
            with pytest.raises(InputError):
                pipeline.codec.encode(wrong)


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="the tokenizer can't be read"):
        build(IDS, inputs={"text": {"tokenizer": str(tmp_path / "tokenizer.json")}})


def test_text_that_begins_like_a_bitmap(tmp_path: Path) -> None:
    with build(IDS, inputs={"text": {"tokenizer": tokenizer(tmp_path)}}) as pipeline:
        assert len(list(pipeline.codec.read(None, io.BytesIO(b"BMW is a car maker\n")))) == 1


@pytest.mark.parametrize("text", ["BM\n", "PK is a name\n", "RIFF raff\n", "[draft] a cat\n", "{a} cat\n"])
def test_texts_that_begin_like_something_else(tmp_path: Path, text: str) -> None:
    with build(IDS, inputs={"text": {"tokenizer": tokenizer(tmp_path)}}) as pipeline:
        [(label, tensors)] = pipeline.codec.read(None, io.BytesIO(text.encode()))
    assert (label, set(tensors)) == ("<stdin>:1", set(IDS))


def test_a_line_ends_where_editors_end_it(tmp_path: Path) -> None:
    with build(IDS, inputs={"text": {"tokenizer": tokenizer(tmp_path)}}) as pipeline:
        content = "\ufeffa cat\r\nsat\u2028a\fcat\n".encode()
        read = [tensors["input_ids"].tolist() for _, tensors in pipeline.codec.read(None, io.BytesIO(content))]
    assert read == [[[2, 3]], [[4, 2, 3]]]


def test_what_is_no_unicode(tmp_path: Path) -> None:
    with (
        build(IDS, inputs={"text": {"tokenizer": tokenizer(tmp_path)}}) as pipeline,
        pytest.raises(InputError, match="the text is no Unicode"),
    ):
        pipeline.predict("\ud800")
