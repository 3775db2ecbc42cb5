"""Photographs to tensors, with Pillow."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from deepseek.plugin import InputError
from deepseek_codecs.settings import ImageSettings

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class ImageCoder:
    """Decodes, resizes, crops, normalises and lays out one picture at a time."""

    def __init__(self, settings: ImageSettings) -> None:
        self._settings = settings
        mean, std = (np.asarray(values, np.float32) for values in (settings.mean, settings.std))
        # (p / scale - mean) / std, as one multiplication and one addition.
        self._factor = 1.0 / (settings.scale * std)
        self._offset = -mean / std

    def encode(self, picture: Path | bytes | Image.Image | np.ndarray[Any, Any], label: str = "the image") -> Any:
        """One picture as an array ``[1, C, H, W]`` or ``[1, H, W, C]``.

        Args:
            picture: a file, the bytes of one, a Pillow image, or pixels ``uint8[H, W, 3]``.
            label: how errors call it.

        Raises:
            InputError: not a picture, damaged, or larger than `max_pixels`.
        """
        settings = self._settings
        pixels = np.asarray(self._cut(self._open(picture, label)))
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

    def _open(self, picture: Path | bytes | Image.Image | np.ndarray[Any, Any], label: str) -> Image.Image:
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
                raise InputError(f"{label}: pixels must be uint8[height, width, 3], got {picture.dtype}{picture.shape}")
            picture = Image.fromarray(picture)
        try:
            with warnings.catch_warnings():
                # Our own limit replaces Pillow's warning.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = self._decoded(picture, label)
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
            raise InputError(f"{label} is not a picture, or a damaged one: {exc}", hint="JPEG, PNG, WebP, ...") from exc
        # Cameras store pictures as the sensor lay, with a note on which way is up.
        upright = ImageOps.exif_transpose(image)
        return upright.convert("L" if self._settings.color == "L" else "RGB")

    def _decoded(self, picture: Path | bytes | Image.Image, label: str) -> Image.Image:
        if isinstance(picture, Image.Image):
            return picture
        image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=_FORMATS)
        width, height = image.size
        if width * height > self._settings.max_pixels:
            hint = "scale it down, or raise `inputs.image.max_pixels`"
            raise InputError(f"{label} has {width} x {height} pixels, more than allowed", hint=hint)
        if self._settings.resize and image.format == "JPEG":
            # The JPEG decoder can scale by 1/2, 1/4, 1/8 for free; ask for twice what is needed, to keep quality.
            ratio = 2 * self._settings.resize / min(width, height)
            image.draft("RGB", (int(width * ratio), int(height * ratio)))
        return image

    def _cut(self, image: Image.Image) -> Image.Image:
        settings, how = self._settings, _RESAMPLING[self._settings.interpolation]
        if settings.resize:
            width, height = image.size
            ratio = settings.resize / min(width, height)
            image = image.resize((round(width * ratio), round(height * ratio)), how)
        if settings.crop is None:
            return image
        if not settings.resize:
            return image.resize((settings.crop, settings.crop), how)
        left, top = (image.width - settings.crop) // 2, (image.height - settings.crop) // 2
        return image.crop((left, top, left + settings.crop, top + settings.crop))
