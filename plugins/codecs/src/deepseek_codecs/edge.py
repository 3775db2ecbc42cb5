"""The codec of a pipeline: which coder takes what, put together from the settings."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from deepseek.plugin import ANY, Config, ConfigError, InputError, InputNotFoundError, Signature, Source, TensorSpec
from deepseek_codecs import tensors
from deepseek_codecs.settings import InputsSettings, OutputsSettings

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

#: First bytes of the files that standard input may carry.
_MAGIC = (
    (b"\x93NUMPY", ".npy"), (b"PK\x03\x04", ".npz"), (b"PK\x05\x06", ".npz"), (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"II*\x00", ".tiff"), (b"MM\x00*", ".tiff"),
)  # fmt: skip


class EdgeCodec:
    """Implements `deepseek.plugin.Codec` for pictures, texts and tensors."""

    suffixes = IMAGE_SUFFIXES | tensors.SUFFIXES | {".txt"}

    def __init__(self, signature: Signature, source: Source, config: Config) -> None:
        inputs, outputs = config[InputsSettings], config[OutputsSettings]
        self._config = config
        self._signature = signature
        self._limit = inputs.max_file_size
        self._image = self._text = self._classes = None
        self._embedding = outputs.embedding
        if inputs.image:
            from deepseek_codecs.image import ImageCoder

            with self._placed("inputs.image"):
                self._image = ImageCoder(inputs.image)
                self._image_name = _only("inputs.image.tensor", inputs.image.tensor, signature.inputs)
        if inputs.text:
            from deepseek_codecs.text import TextCoder

            with self._placed("inputs.text"):
                self._text = TextCoder(inputs.text, source.path, signature)
        if outputs.classes:
            from deepseek_codecs.classes import ClassDecoder

            with self._placed("outputs.classes"):
                self._class_name = _only("outputs.classes.tensor", outputs.classes.tensor, signature.outputs)
                self._classes = ClassDecoder(outputs.classes, _width(self._class_name, signature))
        if inputs.text and inputs.text.pad_to and self._embedding and self._embedding.pooling == "mean":
            problem = "would average the padding of `inputs.text.pad_to` too"
            raise config.error("outputs.embedding.pooling", problem, hint="take `cls`, or leave `pad_to` out")

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Names of the classes of outputs that hold scores, by the outputs' names; servers give them to clients."""
        return {self._class_name: self._classes.labels} if self._classes is not None else {}

    @contextmanager
    def _placed(self, section: str) -> Iterator[None]:
        """Give the file, line and column of a section to the errors of its coder, which does not know them."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(error.what, where=self._config.where(section), hint=error.hint) from error

    def read(self, path: Path | None, stream: BinaryIO | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See `deepseek.plugin.Codec.read`."""
        label = str(path) if path else "<stdin>"
        content = self._file(path, label) if path else self._limited(stream, label) if stream else b""
        suffix = path.suffix.lower() if path else _sniff(content, self._text is not None)
        if suffix in IMAGE_SUFFIXES:
            yield label, self._encode_image(content, label)
        elif suffix in tensors.SUFFIXES:
            yield from tensors.read(content, suffix, self._signature, label, self._limit)
        elif suffix == ".txt":
            yield from self._read_text(content, label)
        else:
            raise InputError(f"{label} is of no known type", hint=f"known: {', '.join(sorted(self.suffixes))}")

    def encode(self, value: object) -> Mapping[str, Any]:
        """See `deepseek.plugin.Codec.encode`: a path, a picture's or a text's bytes, a text, tokens, pixels, arrays."""
        if isinstance(value, Path) or (isinstance(value, str) and self._is_path(value)):
            items = list(self.read(Path(value), None))
            if len(items) != 1:
                raise InputError(f"{value} holds {len(items)} items; predict() takes one")
            return items[0][1]
        if isinstance(value, str):
            return self._encode_text(value)
        if isinstance(value, bytes):
            return self._encode_bytes(value)
        if isinstance(value, Mapping):
            return tensors.named(value, self._signature)
        if self._text and isinstance(value, list) and value and all(type(item) is int for item in value):
            return self._text.encode_tokens(value)
        if self._image and (not hasattr(value, "__dlpack__") or _is_pixels(value)):
            return {self._image_name: self._image.encode(value)}
        return tensors.by_name(value, self._signature)

    def decode(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `deepseek.plugin.Codec.decode`."""
        columns: dict[str, Any] = dict(outputs)
        rows = _rows(self._signature, outputs)
        if self._classes:
            name = self._class_name or next(iter(outputs))
            with self._placed("outputs.classes"):
                named = self._classes.decode(outputs[name])
                columns[name] = named[0] if rows is None and len(named) == 1 else named
        if self._embedding:
            from deepseek_codecs.classes import pool

            if self._embedding.tensor not in outputs:
                problem = f"must name one of: {', '.join(outputs)}"
                raise self._config.error("outputs.embedding.tensor", problem)
            columns = {"embedding": pool(self._embedding, outputs[self._embedding.tensor])}
        if rows is None:
            return [columns]
        return [{name: value[row] for name, value in columns.items()} for row in range(rows)]

    def _is_path(self, text: str) -> bool:
        """A text is a path when the pipeline takes no texts, or when it ends like a file and there is one."""
        return not self._text or (Path(text).suffix.lower() in self.suffixes and Path(text).is_file())

    def _file(self, path: Path, label: str) -> bytes:
        if "\0" in str(path):
            raise InputError("a path can't hold a null character")
        try:
            with path.open("rb") as file:
                return self._limited(file, label)
        except FileNotFoundError:
            raise InputNotFoundError(f"there is no file {label}") from None
        except OSError as exc:
            raise InputError(f"{label} can't be read: {exc.strerror}") from exc

    def _limited(self, stream: BinaryIO, label: str) -> bytes:
        """Everything, block by block: one read of the limit would take as much memory, for however small a file."""
        content = bytearray()
        while block := stream.read(1 << 20):
            content += block
            if len(content) > self._limit:
                raise InputError(f"{label} is larger than {self._limit}", hint="raise `inputs.max_file_size`")
        return bytes(content)

    def _encode_image(self, picture: bytes, label: str) -> dict[str, Any]:
        if self._image is None:
            raise InputError(f"{label}: this pipeline takes no pictures", hint="add the section `inputs.image`")
        return {self._image_name: self._image.encode(picture, label)}

    def _encode_bytes(self, content: bytes) -> dict[str, Any]:
        """What came over a network, and is never a path: a picture, or a text in UTF-8."""
        if self._text is None and self._image is None:
            hint = "send tensors, or add the section `inputs.image` or `inputs.text`"
            raise InputError("this pipeline takes neither pictures nor texts", hint=hint)
        if self._text is None or _sniff(content, takes_texts=True) in IMAGE_SUFFIXES:
            return self._encode_image(content, "the image")
        try:
            return self._encode_text(content.decode("utf-8"))
        except UnicodeDecodeError as exc:
            raise InputError(f"the text is not UTF-8: {exc}", hint="encode it as UTF-8") from exc

    def _encode_text(self, text: str) -> dict[str, Any]:
        if self._text is None:
            raise InputError("this pipeline takes no texts", hint="add the section `inputs.text`")
        return self._text.encode(text)

    def _read_text(self, content: bytes, label: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        try:
            lines = tensors.lines(content)
        except UnicodeDecodeError as exc:
            raise InputError(f"{label} is not UTF-8 text: {exc}", hint="save it as UTF-8") from exc
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{label}:{number}", self._encode_text(line)


def _only(key: str, name: str, specs: Sequence[TensorSpec]) -> str:
    """The tensor of that name, or the only one; empty when the model does not tell. Raises ConfigError."""
    names = [spec.name for spec in specs]
    if name in names or not names:
        return name
    if name or len(names) != 1:
        raise ConfigError(f"`{key}` must name one of the model's: {', '.join(names)}")
    return names[0]


def _width(name: str, signature: Signature) -> int | None:
    """The size of an output's last dimension, when the model tells."""
    shapes = [spec.shape for spec in signature.outputs if spec.name == name and spec.shape]
    return shapes[0][-1] if shapes and shapes[0][-1] != ANY else None


def _rows(signature: Signature, outputs: Mapping[str, Any]) -> int | None:
    """How many rows the outputs have, one for each item; None where dimension 0 is no batch."""
    shapes = [spec.shape for spec in (*signature.inputs, *signature.outputs) if spec.shape is not None]
    if len({shape[:1] for shape in shapes}) > 1:
        return None
    # A size that is fixed, and the only one, is the length of a vector.
    if any(len(shape) == 1 and shape[0] != ANY for shape in shapes):
        return None
    sizes = {np.shape(value)[:1] for value in outputs.values()}
    return int(next(iter(sizes))[0]) if len(sizes) == 1 and sizes != {()} else None


def _sniff(content: bytes, takes_texts: bool) -> str:
    content = content.removeprefix(codecs.BOM_UTF8)
    for magic, suffix in _MAGIC:
        if content.startswith(magic):
            return suffix
    # A bitmap's header has four reserved zeros; a text that begins with BM has not.
    if content.startswith(b"BM") and content[6:10] == bytes(4):
        return ".bmp"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return ".webp"
    # A text may begin with a bracket, too.
    looks = content.lstrip()[:1] in (b"{", b"[")
    return ".json" if looks and (not takes_texts or tensors.is_json(content)) else ".txt"


def _is_pixels(value: Any) -> bool:
    return str(value.dtype).endswith("uint8") and len(value.shape) in (2, 3)
