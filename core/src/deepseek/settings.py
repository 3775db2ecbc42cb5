"""Settings: frozen value objects, one class for each section of a pipeline file, and the kernel's own."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from deepseek.types import TensorSpec


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section's settings: frozen, keyword-only, unknown keys refused.

    A field's description (``Annotated[int, Meta(description=...)]``) shows in the JSON Schema and in the
    configuration reference; `Meta(ge=..., le=..., pattern=...)` adds a limit.

    Example:
        >>> class AcmeSettings(Settings):
        ...     threads: Annotated[int, Meta(ge=0, description="Threads; 0: one per core.")] = 0
        >>> AcmeSettings(threads=2)
        AcmeSettings(threads=2)
    """


Dtype = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128", "str",
]  # fmt: skip


class TensorSettings(Settings):
    """A tensor as the pipeline declares it."""

    dtype: Annotated[Dtype, Meta(description="Element type by its NumPy name; `str` for text.")] = "float32"
    shape: Annotated[
        list[Annotated[int, Meta(ge=-1, le=1 << 40)]] | None,
        Meta(description="One size per dimension, -1 where it varies; omitted: not known."),
    ] = None

    def spec(self, name: str) -> TensorSpec:
        """The record that the kernel works with."""
        return TensorSpec(name, self.dtype, None if self.shape is None else tuple(self.shape))


class ModelSettings(Settings):
    """Where the model is, and what it does not say of itself.

    Example:
        >>> ModelSettings(source=Path("model.onnx")).inputs
        {}
    """

    source: Annotated[Path, Meta(description="File or folder of the model, relative to this file.")]
    inputs: Annotated[
        dict[str, TensorSettings],
        Meta(description="Inputs in the model's order, for formats that do not carry names and shapes."),
    ] = {}
    outputs: Annotated[
        list[str],
        Meta(description="The outputs, in order: names for them, or of the model's own those wanted."),
    ] = []


class PluginSettings(Settings):
    """Which plugins take part."""

    enable: Annotated[list[str], Meta(description="Plugins to use beside those of `version`.")] = []
    disable: Annotated[list[str], Meta(description="Plugins that must not even be imported.")] = []
    optional: Annotated[list[str], Meta(description="Plugins whose failures are reported and passed over.")] = []


class Selection(Settings):
    """What decides which plugins take part, and so which sections there are."""

    version: Annotated[
        Literal["", "v1", "v2", "v3", "v4", "v5", "v6"],
        Meta(description="The curated plugin set; empty: every installed plugin."),
    ] = ""
    plugins: Annotated[PluginSettings, Meta(description="Additions to and removals from that set.")] = PluginSettings()


class KernelSettings(Selection, frozen=True, kw_only=True):
    """What every pipeline can say, whatever is installed."""

    model: Annotated[
        ModelSettings | Annotated[str, Meta(min_length=1)], Meta(description="The model: its path, or a mapping.")
    ]
    engine: Annotated[
        str, Meta(description="The engine that executes; empty: the first that takes the model's format.")
    ] = ""
    device: Annotated[str, Meta(description="Where to run.", examples=["cpu", "cuda:0"])] = "cpu"
