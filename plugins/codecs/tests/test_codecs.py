"""The contract, and what becomes of the codec as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import deepseek
from deepseek.plugin import Coding, hookimpl
from deepseek.testing import fakes
from deepseek.testing.contract import PluginContract


class TestContract(PluginContract):
    plugin = "codecs"
    bad_settings: ClassVar = [
        ({"inputs": {"image": {"resize": 0}}}, "inputs.image.resize"),
        ({"inputs": {"image": {"layout": "CHWN"}}}, "inputs.image.layout"),
        ({"inputs": {"image": {"tensor": "y"}}}, "inputs.image.tensor"),
        ({"outputs": {"classes": {"top_k": 0}}}, "outputs.classes.top_k"),
        ({"outputs": {"classes": {"labels": "no_such.txt"}}}, "label file"),
        ({"inputs": {"text": {"tokenizer": "no_such.json"}}}, "no tokenizer"),
    ]


def test_another_codec_can_take_its_place() -> None:
    class Upper:
        suffixes = frozenset({".up"})

        def read(self, path: Path | None, data: bytes | None) -> Any: ...

        def encode(self, value: object) -> Any:
            return {"x": np.full((1, 4), len(str(value)), "float32")}

        def decode(self, outputs: Any) -> list[dict[str, Any]]:
            return [{"length": int(outputs["x"][0, 0])}]

    class Mine:
        @staticmethod
        @hookimpl(tryfirst=True)
        def codec() -> Coding:
            return Coding("upper", lambda signature: Upper())  # type: ignore[arg-type,return-value]

    module: Any = Mine
    with deepseek.build({"model": fakes.model_file()}, plugins=[fakes, module]) as pipeline:
        assert pipeline.predict("four") == [{"length": 4}]
