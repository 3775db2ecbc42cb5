"""The main job: photographs go in, named classes come out, through three engines that agree."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek

pytestmark = pytest.mark.slow

#: photograph -> a word of the class that a person would accept
SENSIBLE = {"chelsea": "cat", "coffee": "espresso", "china": "palace", "flower": "daisy", "rocket": "missile"}
PIPELINES = ("classify.yaml", "classify-onnxruntime.yaml", "classify-tensorflow.yaml")
Deepseek = Callable[..., "subprocess.CompletedProcess[str]"]


def logits(examples: Path, name: str, **settings: Any) -> np.ndarray:
    with deepseek.build(examples / name, **settings) as pipeline:
        photos = sorted((examples / "models/photos").iterdir())
        return np.concatenate([pipeline.run(pipeline.codec.encode(photo))["logits"] for photo in photos])


@pytest.mark.parametrize("name", PIPELINES)
def test_photographs_get_sensible_names(examples: Path, name: str) -> None:
    with deepseek.build(examples / name) as pipeline:
        for photo, word in SENSIBLE.items():
            [path] = (examples / "models/photos").glob(f"{photo}.*")
            [answer] = pipeline.predict(path)
            assert word in answer["logits"][0]["label"]
            assert len(answer["logits"]) == 3


def test_the_three_engines_agree(examples: Path) -> None:
    first, *others = (logits(examples, name) for name in PIPELINES)
    for other in others:
        assert np.abs(other - first).max() < 1e-3


@pytest.mark.parametrize("name", ["classify.yaml", "classify-tensorflow.yaml"])
def test_both_conversions_keep_the_answers(examples: Path, name: str) -> None:
    converted = logits(examples, name, overrides=["engine=onnxruntime"])
    assert np.abs(converted - logits(examples, name)).max() < 1e-3


def test_a_batch_of_photographs(examples: Path) -> None:
    with deepseek.build(examples / "classify-onnxruntime.yaml") as pipeline:
        photos = sorted((examples / "models/photos").iterdir())
        batch = np.concatenate([pipeline.codec.encode(photo)["image"] for photo in photos])
        together = pipeline.run(image=batch)["logits"]
        np.testing.assert_allclose(together, logits(examples, "classify-onnxruntime.yaml"), atol=1e-3)


def test_await(examples: Path) -> None:
    async def ask(pipeline: deepseek.Pipeline, image: Any) -> Any:
        return await asyncio.gather(*(pipeline.arun(image=image) for _ in range(4)))

    with deepseek.build(examples / "classify-onnxruntime.yaml") as pipeline:
        image = pipeline.codec.encode(examples / "models/photos/chelsea.png")["image"]
        answers = asyncio.run(ask(pipeline, image))
    assert {int(answer["logits"].argmax()) for answer in answers} == {int(answers[0]["logits"].argmax())}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_command(examples: Path, deepseek_: Deepseek, name: str) -> None:
    done = deepseek_("run", examples / name, examples / "models/photos", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["input"]).stem for row in rows] == sorted(SENSIBLE)
    assert all(SENSIBLE[Path(row["input"]).stem] in row["logits"][0]["label"] for row in rows)
    assert done.stderr == ""


def test_explain_is_what_run_does(examples: Path, deepseek_: Deepseek) -> None:
    plan = json.loads(deepseek_("explain", examples / "classify.yaml", "--set", "engine=onnxruntime", "--json").stdout)
    assert plan["load"] == {"plugin": "torch", "name": "state dict", "format": "torch"}
    assert [(item["name"], item["takes"], item["gives"]) for item in plan["passes"]] == [
        ("torch-to-onnx", "torch", "onnx")
    ]
    assert plan["execute"]["providers"] == ["CPUExecutionProvider"]
    assert plan["codec"]["classes"] == "top 3"
    assert plan["memory_bytes"] > plan["model"]["bytes"] > 10_000_000
