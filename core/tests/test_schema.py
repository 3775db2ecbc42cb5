"""What an editor says of a pipeline file, and what the kernel does: the same."""

from __future__ import annotations

import jsonschema
import pytest

from config_pieces import Acme
from deepseek import reader
from deepseek.config import settle
from deepseek.errors import ConfigError
from deepseek.schema import json_schema


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"version": "v1", "plugins": None, "acme": None},
        {"acme": {"mode": "small", "delay": "2ms", "memory": "16GiB"}},
        {"acme": {"mode": "${MODE:-fast}", "delay": "${DELAY}", "inner": {"a": {"size": "${SIZE}", "path": "p"}}}},
    ],
)
def test_an_editor_accepts_what_the_kernel_accepts(said: dict[str, object]) -> None:
    jsonschema.validate({"model": "m", **said}, json_schema({"acme": Acme}))


@pytest.mark.parametrize(
    "said",
    [
        {"model": ""},
        {"version": "v9"},
        {"unknown": 1},
        {"acme": {"mode": "slow"}},
        {"acme": {"delay": "2 parsecs"}},
        {"acme": {"memory": -5}},
        {"acme": {"memory": 1.5}},
        {"acme": {"inner": {"a": {"size": 0, "path": "p"}}}},
        {"model": {"source": "m", "inputs": {"x": {"shape": [-5]}}}},
        {"model": {"source": "m", "inputs": {"x": {"dtype": "float33"}}}},
    ],
)
def test_an_editor_and_the_kernel_refuse_the_same(said: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"model": "m", **said}, json_schema({"acme": Acme}))
    with pytest.raises(ConfigError):
        settle(reader.read({"model": "m", **said}), {"acme": Acme})


def test_an_editor_completes_every_section() -> None:
    schema = json_schema({"acme": Acme})
    assert list(schema["properties"])[-1] == "acme"
    assert schema["required"] == ["model"]
    acme = schema["properties"]["acme"]["properties"]
    assert "2ms" in acme["delay"]["examples"]
    assert acme["memory"]["default"] == "0B"
    assert {"enum": ["fast", "small"]} in acme["mode"]["anyOf"]
