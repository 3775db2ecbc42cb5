"""Photographs, texts and tensor files in; named classes and vectors out."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import deepseek
from deepseek.errors import ConfigError, InputError, InputNotFoundError
from deepseek.pipeline import Pipeline
from deepseek.plugin import Coding, Engine, Signature, TensorSpec, hookimpl
from deepseek.testing import EchoExecutor, fakes
from deepseek.testing.contract import PluginContract
from deepseek_codecs.classes import softmax
from deepseek_codecs.image import ImageCoder
from deepseek_codecs.settings import ImageSettings

IMAGE = {"pixels": {"dtype": "float32", "shape": [-1, 3, 8, 8]}}
RAINBOW = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def build(tensors: Any = fakes.DEFAULT, **config: Any) -> Pipeline:
    return deepseek.build({"model": fakes.model_file(tensors), **config}, plugins=[fakes])


def jpeg(pixels: Any = RAINBOW, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


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
        ({"scale": 0}, "inputs.image.scale"),
        ({"resize": 4, "crop": 8}, "inputs.image.crop"),
    ],
)
def test_settings_that_make_no_picture(tmp_path: Path, image: dict[str, Any], says: str) -> None:
    (tmp_path / "p.yaml").write_text(json.dumps({"model": fakes.model_file(IMAGE), "inputs": {"image": image}}))
    with pytest.raises(ConfigError, match=rf"p.yaml:1:\d+: `{says}` must"):
        deepseek.build(tmp_path / "p.yaml", plugins=[fakes])


def test_no_rows_have_no_classes() -> None:
    with build(outputs={"classes": {}}) as pipeline:
        assert pipeline.predict({"x": np.zeros((0, 4), "float32")}) == []


def test_damaged_and_strange_archives(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).standard_normal((50, 4)).astype("float32"))
    whole = (tmp_path / "a.npz").read_bytes()
    with build() as pipeline:
        for offset in range(0, len(whole), 11):
            spoilt = bytearray(whole)
            spoilt[offset] ^= 0xFF
            (tmp_path / "a.npz").write_bytes(spoilt)
            # Either it still reads, or the error is the input's.
            with contextlib.suppress(InputError):
                items(pipeline, tmp_path / "a.npz")


def test_text_that_begins_like_a_bitmap(tmp_path: Path) -> None:
    with build(IDS, inputs={"text": {"tokenizer": tokenizer(tmp_path)}}) as pipeline:
        assert len(list(pipeline.codec.read(None, io.BytesIO(b"BMW is a car maker\n")))) == 1


def test_every_form_of_a_picture_gives_the_same_tensor(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(jpeg())
    with build(IMAGE, inputs={"image": {"crop": 8}}) as pipeline:
        forms = [tmp_path / "a.png", str(tmp_path / "a.png"), jpeg(), RAINBOW, Image.fromarray(RAINBOW)]
        answers = [pipeline.predict(form)[0]["pixels"] for form in forms]
    assert all((answer == answers[0]).all() for answer in answers)


def items(pipeline: Pipeline, path: Path | None, data: bytes | None = None) -> list[tuple[str, Any]]:
    return [(label, tensors["x"].tolist()) for label, tensors in pipeline.codec.read(path, data and io.BytesIO(data))]


def test_tensor_files(tmp_path: Path) -> None:
    x = np.arange(8, dtype="float32").reshape(2, 4)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x)
    (tmp_path / "a.json").write_text(json.dumps({"x": x.tolist()}))
    (tmp_path / "b.json").write_text(json.dumps(x.tolist()))
    (tmp_path / "c.json").write_text(json.dumps([{"x": [0, 1, 2, 3]}, {"x": [4, 5, 6, 7]}]))
    with build() as pipeline:
        for name in ("a.npy", "a.npz", "a.json", "b.json"):
            assert items(pipeline, tmp_path / name) == [(str(tmp_path / name), x.tolist())]
        rows = items(pipeline, tmp_path / "c.json")
        assert rows == [(f"{tmp_path}/c.json[0]", [x[0].tolist()]), (f"{tmp_path}/c.json[1]", [x[1].tolist()])]
        for name in ("a.npy", "a.npz", "a.json"):
            assert items(pipeline, None, (tmp_path / name).read_bytes()) == [("<stdin>", x.tolist())]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", b"garbage", "a.npy can't be read"),
        ("a.npy", b"", "a.npy can't be read"),
        ("a.npz", b"PK\x03\x04", "a.npz can't be read"),
        ("a.json", b"{", "a.json is not JSON"),
        ("a.json", b"[" * 100_000, "a.json is not JSON"),
        ("a.json", b'{"x": [[1, 2], [3]]}', "the input `x`"),
        ("a.json", b'{"x": [["a", "b", "c", "d"]]}', "the input `x` holds <U1 values"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.txt", b"hello", "this pipeline takes no texts\n  fix: add the section `inputs.text`"),
        ("a.png", jpeg(), "this pipeline takes no pictures\n  fix: add the section `inputs.image`"),
        ("a.xyz", b"", "of no known type"),
    ],
)
def test_files_that_can_not_be_read(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with build() as pipeline, pytest.raises(InputError) as caught:
        items(pipeline, tmp_path / name)
    assert says in str(caught.value)


def test_pickled_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], object))
    with build() as pipeline:
        for name in ("a.npy", "a.npz"):
            with pytest.raises(InputError, match="never unpickled"):
                items(pipeline, tmp_path / name)


def test_files_that_are_absent_or_too_large(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 4), "float32"))
    with build(inputs={"max_file_size": "1KiB"}) as pipeline:
        with pytest.raises(InputError, match=r"larger than 1KiB\n  fix: raise `inputs.max_file_size`"):
            items(pipeline, tmp_path / "a.npy")
        with pytest.raises(InputNotFoundError, match="there is no file .*b.npy"):
            items(pipeline, tmp_path / "b.npy")


def test_classes_are_named_best_first(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\ndog\n")
    scores = np.log(np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], "float32"))
    with build(outputs={"classes": {"labels": str(tmp_path / "labels.txt"), "top_k": 2}}) as pipeline:
        first, second = pipeline.predict({"x": scores})
    assert [(c["label"], c["index"], round(c["score"], 3)) for c in first["x"]] == [("dog", 3, 0.4), ("cat", 2, 0.3)]
    assert second["x"][0]["label"] == "ant"


@pytest.mark.parametrize("count", [2, 5])
def test_too_few_labels_and_too_many(tmp_path: Path, count: int) -> None:
    (tmp_path / "labels.txt").write_text("ant\n" * count)
    with pytest.raises(ConfigError, match=f"names {count} classes, the model has 4"):
        build(outputs={"classes": {"labels": str(tmp_path / "labels.txt")}})


def test_labels_of_a_model_that_does_not_tell_its_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    with build(
        {"x": {"dtype": "float32", "shape": [-1, -1]}}, outputs={"classes": {"labels": f"{tmp_path}/labels.txt"}}
    ) as pipeline:
        assert pipeline.predict({"x": np.array([[0, 1]], "float32")})[0]["x"][0]["label"] == "bee"
        with pytest.raises(ConfigError, match="names 2 classes, the model has 4"):
            pipeline.predict({"x": np.zeros((1, 4), "float32")})


def test_an_output_must_be_named_where_there_are_several() -> None:
    two = {name: {"dtype": "float32", "shape": [-1, 4]} for name in "ab"}
    with pytest.raises(ConfigError, match="`outputs.classes.tensor` must name one of the model's: a, b"):
        build(two, outputs={"classes": {}})


def test_outputs_without_a_common_batch_are_one_answer() -> None:
    specs = {"rows": {"dtype": "float32", "shape": [-1, 2]}, "table": {"dtype": "float32", "shape": [5]}}
    with build(specs) as pipeline:
        tensors = {"rows": np.zeros((3, 2), "float32"), "table": np.zeros(5, "float32")}
        [answer] = pipeline.codec.decode(pipeline.run(tensors))
        assert answer["rows"].shape == (3, 2)


def test_pixels_as_they_are_can_not_be_normalised_too() -> None:
    pixels = {"pixels": {"dtype": "uint8", "shape": [-1, 3, 8, 8]}}
    with pytest.raises(
        ConfigError, match=r"gives pixels as they are \(`dtype: uint8`\): leave out scale, mean and std"
    ):
        build(pixels, inputs={"image": {"crop": 8, "dtype": "uint8", "mean": 127}})


def test_the_mean_of_padded_tokens_is_refused(tmp_path: Path) -> None:
    text = {"text": {"tokenizer": tokenizer(tmp_path), "pad_to": 8}}
    with pytest.raises(ConfigError, match="`outputs.embedding.pooling` would average the padding"):
        build(IDS, inputs=text, outputs={"embedding": {"tensor": "input_ids"}})


@pytest.mark.parametrize(
    ("dtype", "values", "right"),
    [
        ("float32", [1, 2], [1.0, 2.0]),
        ("int64", [1, 2], [1, 2]),
        ("uint8", [0, 255], [0, 255]),
        ("uint8", [0, 256], None),
        ("int64", [1.7, 2.9], None),
        ("int64", ["3", "4"], None),
        ("bool", [True, False], [True, False]),
        ("bool", [1, 2], None),
    ],
)
def test_numbers_are_never_bent(tmp_path: Path, dtype: str, values: list[Any], right: list[Any] | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"x": [values]}))
    with build({"x": {"dtype": dtype, "shape": [-1, 2]}}) as pipeline:
        if right is None:
            with pytest.raises(InputError, match=rf"the input `x` holds .* values\n  fix: the model takes x: {dtype}"):
                items(pipeline, tmp_path / "a.json")
        else:
            assert items(pipeline, tmp_path / "a.json") == [(f"{tmp_path}/a.json", [right])]


def test_archives_are_measured_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((10_000, 4), "float32"))
    with (
        build(inputs={"max_file_size": "100KiB"}) as pipeline,
        pytest.raises(
            InputError, match=r"holds 156.* when it is unpacked, more than 100KiB\n  fix: raise `inputs.max_file_size`"
        ),
    ):
        items(pipeline, tmp_path / "a.npz")


def test_a_stream_has_the_limit_of_a_file() -> None:
    with (
        build(inputs={"max_file_size": "1KiB"}) as pipeline,
        pytest.raises(InputError, match="<stdin> is larger than 1KiB"),
    ):
        items(pipeline, None, bytes(2000))


def test_softmax_does_not_overflow() -> None:
    assert softmax(np.array([[1000.0, 1000.0]])).tolist() == [[0.5, 0.5]]


def tokenizer(folder: Path) -> str:
    import tokenizers

    words = {word: index for index, word in enumerate(["[UNK]", "[PAD]", "a", "cat", "sat"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


IDS = {"input_ids": {"dtype": "int64", "shape": [-1, -1]}, "attention_mask": {"dtype": "int64", "shape": [-1, -1]}}


def test_texts_become_tokens(tmp_path: Path) -> None:
    with build(IDS, inputs={"text": {"tokenizer": tokenizer(tmp_path), "max_length": 3}}) as pipeline:
        answer = pipeline.predict("a cat sat purring")[0]
        assert (answer["input_ids"].tolist(), answer["attention_mask"].tolist()) == ([2, 3, 4], [1, 1, 1])
        (tmp_path / "lines.txt").write_text("a cat\n\nsat\n")
        read = list(pipeline.codec.read(tmp_path / "lines.txt", None))
        assert [(label[-5:], tensors["input_ids"].tolist()) for label, tensors in read] == [
            ("txt:1", [[2, 3]]),
            ("txt:3", [[4]]),
        ]
    with build(IDS, inputs={"text": {"tokenizer": tokenizer(tmp_path), "pad_to": 4}}) as pipeline:
        assert pipeline.predict("cat")[0]["attention_mask"].tolist() == [1, 0, 0, 0]


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="the tokenizer can't be read"):
        build(IDS, inputs={"text": {"tokenizer": str(tmp_path / "tokenizer.json")}})


class Vectors:
    """An engine whose output is three token vectors per row."""

    @staticmethod
    @hookimpl
    def execute() -> Engine:
        class Executor(EchoExecutor):
            def run(self, inputs: Any, options: Any) -> dict[str, Any]:
                return {"last_hidden_state": np.array([[[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]], "float32")}

        return Engine("vectors", frozenset({"fake"}), lambda model: Executor(model.signature))


def test_token_vectors_become_one_vector() -> None:
    def embed(**settings: Any) -> Any:
        config = {"model": fakes.model_file(), "engine": "vectors", "outputs": {"embedding": settings}}
        module: Any = Vectors
        with deepseek.build(config, plugins=[fakes, module]) as pipeline:
            return pipeline.predict(np.zeros((1, 4), "float32"))[0]["embedding"]

    np.testing.assert_allclose(embed(), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(embed(normalize=False), [1.0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(embed(pooling="cls"), [1.0, 0.0], rtol=1e-6)


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


def test_specs_without_a_batch_dimension_take_single_items() -> None:
    from deepseek_codecs.tensors import array

    assert array([1, 2], TensorSpec("x", "float32", (-1, 2))).shape == (1, 2)
    assert array([1, 2], TensorSpec("x", "float32", (2,))).shape == (2,)
    assert Signature().batched is False
