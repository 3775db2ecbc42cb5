"""A plugin's settings with something of every kind, and pipeline files for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from msgspec import Meta

from deepseek import reader
from deepseek.config import Config, settle
from deepseek.errors import ConfigError
from deepseek.settings import Settings
from deepseek.units import Duration, Percent, Size


class Inner(Settings):
    size: Annotated[int, Meta(ge=1)] = 1
    path: Path | None = None


class Acme(Settings):
    delay: Duration = Duration(0)
    memory: Size = Size(0)
    loss: Percent = Percent(0)
    mode: Literal["fast", "small"] = "fast"
    threads: Annotated[int, Meta(ge=0)] = 0
    inner: dict[str, Inner] = {}
    names: list[str] = []


def read(folder: Path, text: str, *overrides: str) -> Config:
    (folder / "p.yaml").write_text(text)
    return settle(reader.read(folder / "p.yaml", overrides), {"acme": Acme})


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "")
