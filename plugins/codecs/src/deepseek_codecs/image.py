"""Photographs to tensors, with Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deepseek.plugin import ConfigError, InputError
from deepseek_codecs.settings import ImageSettings

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


_KNOWN = f"known: {', '.join(_FORMATS)}"
_LIMIT = "scale it down, or raise `inputs.image.max_pixels`"


class ImageCoder:
    """Decodes, resizes, crops, normalises and lays out one picture at a time."""

    def __init__(self, settings: ImageSettings) -> None:
        self._settings = settings
        if settings.resize and settings.crop and settings.crop > settings.resize:
            raise ConfigError("`inputs.image.crop` must not be larger than `inputs.image.resize`")
        if settings.dtype == "uint8" and (settings.scale, settings.mean, settings.std) != (1.0, 0.0, 1.0):
            raise ConfigError("`inputs.image` gives pixels as they are (`dtype: uint8`): leave out scale, mean and std")
        if settings.crop and settings.crop**2 > settings.max_pixels:
            raise ConfigError("`inputs.image.crop` must not make more pixels than `inputs.image.max_pixels`")
        if not np.isfinite(settings.scale):
            raise ConfigError("`inputs.image.scale` must be a finite number")
        mean, std = (self._per_channel(name) for name in ("mean", "std"))
        # (p / scale - mean) / std, as one multiplication and one addition.
        self._factor = 1.0 / (settings.scale * std)
        self._offset = -mean / std

    def _per_channel(self, name: str) -> np.ndarray[Any, Any]:
        values = np.atleast_1d(np.asarray(getattr(self._settings, name), np.float32))
        channels = 1 if self._settings.color == "L" else 3
        finite = np.isfinite(values).all() and (name != "std" or values.all())
        if values.size not in (1, channels) or not finite:
            what = f"`inputs.image.{name}` must be one finite number or {channels}"
            raise ConfigError(what + (", none of them 0" * (name == "std")))
        return values

    def encode(self, picture: Any, label: str = "the image") -> Any:
        """One picture as an array ``[1, C, H, W]`` or ``[1, H, W, C]``.

        Args:
            picture: a file, the bytes of one, a Pillow image, or pixels ``uint8[H, W, 3]``.
            label: how errors call it.

        Raises:
            InputError: not a picture, damaged, or larger than `max_pixels`.
        """
        settings = self._settings
        pixels = np.asarray(self._cut(self._open(picture, label), label))
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if settings.color == "BGR":
            pixels = pixels[:, :, ::-1]
        tensor = pixels if settings.dtype == "uint8" else self._normalised(pixels)
        if settings.layout == "NCHW":
            tensor = tensor.transpose(2, 0, 1)
        return np.ascontiguousarray(tensor)[None]

    def _normalised(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.asarray(pixels * self._factor + self._offset, self._settings.dtype)

    def _open(self, picture: Any, label: str) -> Image.Image:
        if hasattr(picture, "__dlpack__"):
            picture = _from_pixels(picture, label)
        if not isinstance(picture, Path | bytes | Image.Image):
            hint = "give a path, the bytes of a file, a Pillow image, or pixels"
            raise InputError(f"{label} is a {type(picture).__name__}, which is no picture", hint=hint)
        try:
            image = self._decoded(picture, label)
            image.load()
            return self._converted(_upright(image), label)
        except (InputError, MemoryError):
            raise
        except UnidentifiedImageError as exc:
            raise InputError(f"{label} is not a picture, or a damaged one", hint=_KNOWN) from exc
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
            raise InputError(f"{label} has more pixels than allowed: {exc}", hint=_LIMIT) from exc
        # Damaged pictures make Pillow's decoders raise errors of every kind.
        except Exception as exc:
            raise InputError(f"{label} is not a picture, or a damaged one: {exc}", hint=_KNOWN) from exc

    def _converted(self, image: Image.Image, label: str) -> Image.Image:
        """Pixels of 8 bits in the colours that are wanted."""
        if image.mode.startswith("I"):
            # 16 bits of grey: convert() would cut them off at 255.
            values = np.asarray(image, np.int64)
            if values.size and (values.min() < 0 or values.max() > 65535):
                raise InputError(f"{label} has pixels of 32 bits", hint="save it with 8 or 16 bits per channel")
            image = Image.fromarray((values // 257).astype(np.uint8))
        if image.mode == "F":
            what = f"{label} has pixels that are floating-point numbers, of which black and white are not known"
            raise InputError(what, hint="save it with 8 or 16 bits per channel")
        return image.convert("L" if self._settings.color == "L" else "RGB")

    def _decoded(self, picture: Path | bytes | Image.Image, label: str) -> Image.Image:
        if isinstance(picture, Image.Image):
            return picture
        image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=_FORMATS)
        width, height = image.size
        if width * height > self._settings.max_pixels:
            raise InputError(f"{label} has {width} x {height} pixels, more than allowed", hint=_LIMIT)
        if self._settings.resize and image.format == "JPEG":
            # The JPEG decoder can scale by 1/2, 1/4, 1/8 for free; ask for twice what is needed, to keep quality.
            ratio = 2 * self._settings.resize / min(width, height)
            image.draft("RGB", (int(width * ratio), int(height * ratio)))
        return image

    def _cut(self, image: Image.Image, label: str) -> Image.Image:
        settings, how = self._settings, _RESAMPLING[self._settings.interpolation]
        if settings.resize:
            width, height = image.size
            ratio = settings.resize / min(width, height)
            size = (round(width * ratio), round(height * ratio))
            # A thin picture may be small and its enlargement huge.
            if size[0] * size[1] > settings.max_pixels:
                raise InputError(
                    f"{label} of {width} x {height} pixels would become {size[0]} x {size[1]}", hint=_LIMIT
                )
            image = image.resize(size, how)
        if settings.crop is None:
            return image
        if not settings.resize:
            return image.resize((settings.crop, settings.crop), how)
        left, top = (image.width - settings.crop) // 2, (image.height - settings.crop) // 2
        return image.crop((left, top, left + settings.crop, top + settings.crop))


def _upright(image: Image.Image) -> Image.Image:
    """Cameras store pictures as the sensor lay, with a note on which way is up."""
    try:
        return ImageOps.exif_transpose(image)
    # A note that can't be read is none: the picture is shown as it lies, as every viewer does.
    except Exception:
        return image


def _from_pixels(array: Any, label: str) -> Image.Image:
    try:
        pixels = array if isinstance(array, np.ndarray) else np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError) as exc:
        raise InputError(f"{label}: the pixels can't be read: {exc}", hint="give pixels in main memory") from exc
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not pixels.size or not (grey or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise InputError(f"{label}: pixels must be uint8[height, width, 3], got {pixels.dtype}{list(pixels.shape)}")
    return Image.fromarray(pixels)
