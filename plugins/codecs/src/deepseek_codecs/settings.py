"""The sections `inputs` and `outputs`: what people give, and what they get."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from deepseek.plugin import Settings, Size


class ImageSettings(Settings):
    """How a photograph becomes a tensor: decode, resize, crop, normalise, lay out."""

    tensor: Annotated[str, Meta(description="The model's input; omitted: its only one.")] = ""
    resize: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Scale the shorter side to this many pixels.")
    ] = None
    crop: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Cut this square out of the middle; without `resize`, squeeze into it."),
    ] = None
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic", "lanczos"], Meta(description="How pixels are resampled.")
    ] = "bicubic"
    color: Annotated[Literal["RGB", "BGR", "L"], Meta(description="Order of the channels; L is grey.")] = "RGB"
    scale: Annotated[float, Meta(gt=0, description="Divide the pixels (0 to 255) by this first.")] = 1.0
    mean: Annotated[float | list[float], Meta(description="Subtract, one number or one per channel.")] = 0.0
    std: Annotated[float | list[float], Meta(description="Then divide, one number or one per channel.")] = 1.0
    layout: Annotated[Literal["NCHW", "NHWC"], Meta(description="Order of the tensor's dimensions.")] = "NCHW"
    dtype: Annotated[Literal["float32", "float16", "uint8"], Meta(description="Element type of the tensor.")] = (
        "float32"
    )
    max_pixels: Annotated[
        int, Meta(ge=1, le=178_956_970, description="Refuse larger pictures before they are unpacked (bombs).")
    ] = 50_000_000


class TextSettings(Settings):
    """How a text becomes token ids, with the tokenizer of a Hugging Face model."""

    tokenizer: Annotated[
        Path | None, Meta(description="A `tokenizer.json`; omitted: the one in the model's folder.")
    ] = None
    max_length: Annotated[int, Meta(ge=1, description="Cut longer texts to this many tokens.")] = 512
    pad_to: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Pad every text to this many tokens; omitted: no padding.")
    ] = None


class InputsSettings(Settings):
    """What goes in beside plain tensors."""

    image: Annotated[ImageSettings | None, Meta(description="Photographs are legal inputs.")] = None
    text: Annotated[TextSettings | None, Meta(description="Texts are legal inputs.")] = None
    max_file_size: Annotated[Size, Meta(description="Refuse larger input files.")] = Size(256 << 20)


class ClassesSettings(Settings):
    """How scores become class names."""

    tensor: Annotated[str, Meta(description="The model's output; omitted: its only one.")] = ""
    labels: Annotated[
        Path | None, Meta(description="Text file with one name per line, in the order of the classes.")
    ] = None
    top_k: Annotated[int, Meta(ge=1, description="How many classes to name.")] = 5
    softmax: Annotated[bool, Meta(description="Turn logits into probabilities first.")] = True


class EmbeddingSettings(Settings):
    """How token vectors become one vector per text."""

    tensor: Annotated[str, Meta(description="The output with one vector per token.")] = "last_hidden_state"
    pooling: Annotated[Literal["mean", "cls"], Meta(description="Mean over all tokens, or the first token's.")] = "mean"
    normalize: Annotated[bool, Meta(description="Scale to length 1.")] = True


class OutputsSettings(Settings):
    """What comes out; without a setting, the tensors themselves."""

    classes: Annotated[ClassesSettings | None, Meta(description="Name the most likely classes.")] = None
    embedding: Annotated[EmbeddingSettings | None, Meta(description="One vector per text.")] = None
