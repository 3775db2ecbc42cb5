"""Photographs become tensors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import deepseek
from codecs_pieces import IMAGE, RAINBOW, build, jpeg
from deepseek.errors import ConfigError, InputError
from deepseek.testing import fakes
from deepseek_codecs.image import ImageCoder
from deepseek_codecs.settings import ImageSettings


def test_the_road_of_a_picture_is_the_papers(tmp_path: Path) -> None:
    """Resize the shorter side, cut the middle, (p - mean) / std, channels first: against Pillow and NumPy by hand."""
    settings = ImageSettings(resize=10, crop=8, mean=127, std=[1.0, 2.0, 4.0])
    small = Image.fromarray(RAINBOW).resize((17, 10), Image.Resampling.BICUBIC).crop((4, 1, 12, 9))
    by_hand = (np.asarray(small, np.float32) - 127) / np.array([1, 2, 4], np.float32)
    np.testing.assert_allclose(
        ImageCoder(settings).encode(jpeg()), by_hand.transpose(2, 0, 1)[None], rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "shape", "dtype"),
    [
        ({"crop": 8}, (1, 3, 8, 8), "float32"),
        ({"crop": 8, "layout": "NHWC", "dtype": "uint8"}, (1, 8, 8, 3), "uint8"),
        ({"crop": 8, "color": "L"}, (1, 1, 8, 8), "float32"),
        ({"dtype": "float16"}, (1, 3, 12, 20), "float16"),
        ({"resize": 6}, (1, 3, 6, 10), "float32"),
    ],
)
def test_layouts_and_dtypes(settings: dict[str, Any], shape: tuple[int, ...], dtype: str) -> None:
    tensor = ImageCoder(ImageSettings(**settings)).encode(jpeg())
    assert (tensor.shape, tensor.dtype) == (shape, dtype)
    assert tensor.flags.c_contiguous


def test_bgr_is_rgb_backwards() -> None:
    rgb, bgr = (ImageCoder(ImageSettings(color=color)).encode(jpeg()) for color in ("RGB", "BGR"))  # type: ignore[arg-type]
    assert (rgb[:, ::-1] == bgr).all()


def test_a_picture_is_turned_upright() -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    turned = ImageCoder(ImageSettings()).encode(jpeg(kind="JPEG", exif=tag))
    assert turned.shape == (1, 3, 20, 12)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "1", "CMYK", "I;16"])
def test_every_colour_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    image = Image.new("I;16", (20, 12)) if mode == "I;16" else Image.fromarray(RAINBOW).convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    image.save(path)
    assert ImageCoder(ImageSettings(crop=8)).encode(path).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("content", [b"", b"garbage", jpeg()[:60], b"\xff\xd8\xff\xe0garbage"])
def test_what_is_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with (
        build(IMAGE, inputs={"image": {"crop": 8}}) as pipeline,
        pytest.raises(InputError, match=r"a.jpg is not a picture"),
    ):
        pipeline.predict(tmp_path / "a.jpg")


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(InputError, match=r"has 20 x 12 pixels, more than allowed\n  fix: .*inputs.image.max_pixels"):
        ImageCoder(ImageSettings(max_pixels=200)).encode(jpeg())


def test_a_thin_picture_is_not_blown_up() -> None:
    thin = np.zeros((6000, 1, 3), np.uint8)
    with pytest.raises(InputError, match="of 1 x 6000 pixels would become 256 x 1536000"):
        ImageCoder(ImageSettings(resize=256, crop=224)).encode(jpeg(thin))


def test_sixteen_bits_of_grey_are_scaled() -> None:
    grey = np.linspace(0, 255, 240).reshape(12, 20).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(file, "PNG")
    assert np.abs(ImageCoder(ImageSettings()).encode(file.getvalue())[0, 0] - grey).max() <= 1


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((9, 9, 1), np.uint8), np.zeros((9, 9, 5), np.uint8), np.zeros((0, 0, 3), np.uint8), None, object(), [1]],
)
def test_what_is_no_picture_in_memory(pixels: Any) -> None:
    with build(IMAGE, inputs={"image": {"crop": 8}}) as pipeline, pytest.raises(InputError):
        pipeline.predict(pixels)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({"mean": [1, 2]}, "inputs.image.mean"),
        ({"std": 0}, "inputs.image.std"),
        ({"std": [1, 1, float("nan")]}, "inputs.image.std"),
        ({"mean": float("inf")}, "inputs.image.mean"),
        ({"crop": 20_000}, "inputs.image.crop"),
        ({"scale": 0}, "inputs.image.scale"),
        ({"resize": 4, "crop": 8}, "inputs.image.crop"),
    ],
)
def test_settings_that_make_no_picture(tmp_path: Path, image: dict[str, Any], says: str) -> None:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"inputs": {"image": image}, "model": fakes.model_file(IMAGE)}))
    with pytest.raises(ConfigError, match=rf"p.yaml:3:\d+: `{says}` must"):
        deepseek.build(tmp_path / "p.yaml", plugins=[fakes])


def test_every_form_of_a_picture_gives_the_same_tensor(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(jpeg())
    with build(IMAGE, inputs={"image": {"crop": 8}}) as pipeline:
        forms = [tmp_path / "a.png", str(tmp_path / "a.png"), jpeg(), RAINBOW, Image.fromarray(RAINBOW)]
        answers = [pipeline.predict(form)[0]["pixels"] for form in forms]
    assert all((answer == answers[0]).all() for answer in answers)


def test_pixels_as_they_are_can_not_be_normalised_too() -> None:
    pixels = {"pixels": {"dtype": "uint8", "shape": [-1, 3, 8, 8]}}
    with pytest.raises(
        ConfigError, match=r"gives pixels as they are \(`dtype: uint8`\): leave out scale, mean and std"
    ):
        build(pixels, inputs={"image": {"crop": 8, "dtype": "uint8", "mean": 127}})


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("offset", range(2, 120, 7))
def test_a_damaged_head_is_the_inputs_fault_or_none(offset: int) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    spoilt = bytearray(jpeg(kind="JPEG", exif=tag))
    spoilt[offset : offset + 4] = b"\xff\x7f\xff\x7f"
    shape, says = (), ""
    try:
        shape = ImageCoder(ImageSettings(crop=8)).encode(bytes(spoilt), "a.jpg").shape
    except InputError as error:
        says = str(error)
    assert shape == (1, 3, 8, 8) or says.startswith("a.jpg ")
    assert "BytesIO" not in says


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_note_on_the_orientation_that_can_not_be_read_is_none() -> None:
    whole = jpeg(kind="JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert ImageCoder(ImageSettings()).encode(whole).shape == (1, 3, 12, 20)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.linspace(0, 1, 240, dtype="float32").reshape(12, 20), "floating-point"),
        (np.full((12, 20), 1 << 20, "int32"), "32 bits"),
    ],
)
def test_pixels_that_eight_bits_do_not_hold_are_refused(pixels: Any, says: str) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    with pytest.raises(InputError, match=f"the image has pixels .*{says}.*\n  fix: save it with 8 or 16 bits"):
        ImageCoder(ImageSettings()).encode(file.getvalue())


def test_pixels_of_another_library() -> None:
    class Foreign:
        """What supports DLPack and is no NumPy array."""

        def __dlpack__(self, **options: Any) -> Any:
            return RAINBOW.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return RAINBOW.__dlpack_device__()

    coder = ImageCoder(ImageSettings(crop=8))
    assert (coder.encode(Foreign()) == coder.encode(RAINBOW)).all()
