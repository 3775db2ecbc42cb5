"""What the tests of the codecs share: pipelines around an engine that gives its inputs back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import deepseek
from deepseek.pipeline import Pipeline
from deepseek.testing import fakes

IMAGE = {"pixels": {"dtype": "float32", "shape": [-1, 3, 8, 8]}}


RAINBOW = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


IDS = {"input_ids": {"dtype": "int64", "shape": [-1, -1]}, "attention_mask": {"dtype": "int64", "shape": [-1, -1]}}


def build(tensors: Any = fakes.DEFAULT, **config: Any) -> Pipeline:
    return deepseek.build({"model": fakes.model_file(tensors), **config}, plugins=[fakes])


def jpeg(pixels: Any = RAINBOW, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def items(pipeline: Pipeline, path: Path | None, data: bytes | None = None) -> list[tuple[str, Any]]:
    return [(label, tensors["x"].tolist()) for label, tensors in pipeline.codec.read(path, data and io.BytesIO(data))]


def tokenizer(folder: Path) -> str:
    import tokenizers

    words = {word: index for index, word in enumerate(["[UNK]", "[PAD]", "a", "cat", "sat"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")
