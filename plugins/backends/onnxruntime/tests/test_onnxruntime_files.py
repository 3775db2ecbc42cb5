"""What is read beside a model, and what is kept there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

import deepseek
from deepseek.errors import DeviceError, ModelError, OutputError, UnsafeModelError
from onnx_models import WEIGHTS, external, matmul


def test_the_optimized_model_is_kept_and_used_again(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "fast.onnx"
    config = {"model": matmul(tmp_path), "onnxruntime": {"optimized_model": str(kept)}}
    x = np.ones((1, 4), "float32")
    with deepseek.build(config) as pipeline:
        wanted = pipeline.run(x=x)["y"]
    first = kept.stat().st_mtime_ns
    assert json.loads((tmp_path / "kept/fast.onnx.json").read_text())["onnxruntime"] == onnxruntime.__version__
    (tmp_path / "notes.txt").write_text("written beside the model, and nothing to do with it")
    with deepseek.build(config) as pipeline:
        assert (pipeline.run(x=x)["y"] == wanted).all()
    assert kept.stat().st_mtime_ns == first
    matmul(tmp_path, numpy_helper.from_array(WEIGHTS * 2, "w"))
    with deepseek.build(config) as pipeline:
        assert (pipeline.run(x=x)["y"] != wanted).any()
    assert sorted(os.listdir(tmp_path / "kept")) == ["fast.onnx", "fast.onnx.json"]


def test_the_kept_model_is_made_anew_when_external_weights_change(tmp_path: Path) -> None:
    WEIGHTS.tofile(tmp_path / "w.bin")
    config = {
        "model": matmul(tmp_path, external("w.bin")),
        "onnxruntime": {"optimized_model": str(tmp_path / "fast.onnx")},
    }
    x = np.ones((1, 4), "float32")
    with deepseek.build(config) as pipeline:
        assert np.allclose(pipeline.run(x=x)["y"], np.tanh(WEIGHTS.sum(0)))
    (WEIGHTS / 2).tofile(tmp_path / "w.bin")
    with deepseek.build(config) as pipeline:
        assert np.allclose(pipeline.run(x=x)["y"], np.tanh(WEIGHTS.sum(0) / 2))


@pytest.mark.parametrize("name", ["fast.onnx", "labels.onnx"])
def test_the_kept_model_overwrites_nothing_of_others(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    (tmp_path / "labels.onnx.json").write_text('["a", "b"]')
    config = {"model": matmul(tmp_path), "onnxruntime": {"optimized_model": str(tmp_path / name)}}
    with pytest.raises(OutputError, match="there is a file already that is no optimized model"):
        deepseek.build(config)
    assert (tmp_path / name).read_text() == "precious"
    assert (tmp_path / "labels.onnx.json").read_text() == '["a", "b"]'


def test_the_kept_model_never_overwrites_the_model(tmp_path: Path) -> None:
    path = matmul(tmp_path)
    before = Path(path).read_bytes()
    with pytest.raises(OutputError, match="would overwrite the model"):
        deepseek.build({"model": path, "onnxruntime": {"optimized_model": path}})
    assert Path(path).read_bytes() == before


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    WEIGHTS.tofile(tmp_path / "w.bin")
    path = matmul(tmp_path, external("w.bin"))
    with deepseek.build({"model": path}) as pipeline:
        assert np.allclose(pipeline.run(x=np.ones((1, 4), "float32"))["y"], np.tanh(WEIGHTS.sum(0)))


@pytest.mark.parametrize("how", ["up", "absolute", "link"])
def test_external_data_elsewhere_is_refused(tmp_path: Path, how: str) -> None:
    (tmp_path / "in").mkdir()
    secret = tmp_path / "secret.bin"
    WEIGHTS.tofile(secret)
    (tmp_path / "in/link.bin").symlink_to(secret)
    path = matmul(tmp_path / "in", external({"up": "../secret.bin", "absolute": str(secret), "link": "link.bin"}[how]))
    with pytest.raises(UnsafeModelError, match="external data lies outside the model's folder"):
        deepseek.build({"model": path})


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x07\x12"])
def test_a_corrupt_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad.onnx: ONNX Runtime can't open this model: .*"):
        deepseek.build({"model": str(path)})


@pytest.mark.parametrize("content", [b"", b"half of it"])
def test_half_of_a_kept_model_is_written_anew(tmp_path: Path, content: bytes) -> None:
    kept = tmp_path / "fast.onnx"
    config = {"model": matmul(tmp_path), "onnxruntime": {"optimized_model": str(kept)}}
    deepseek.build(config).close()
    whole = kept.read_bytes()
    kept.write_bytes(content)
    with deepseek.build(config) as pipeline:
        assert pipeline.run(x=np.ones((1, 4), "float32"))["y"].shape == (1, 3)
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("name", ["fast.ort", "folder.onnx"])
def test_where_no_optimized_model_can_be_kept(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OutputError, match=rf"{name}: the optimized model is a file ending in .onnx"):
        deepseek.build({"model": matmul(tmp_path), "onnxruntime": {"optimized_model": f"{tmp_path}/{name}"}})
    assert capfd.readouterr().out == ""


def test_external_data_that_is_missing(tmp_path: Path) -> None:
    path = matmul(tmp_path, external("w.bin"))
    with pytest.raises(ModelError, match=r"a file of its external data is missing: .*w.bin\n  fix: put it back"):
        deepseek.build({"model": path})


@pytest.mark.parametrize(("spoilt", "error"), [(False, DeviceError), (True, ModelError)])
def test_a_card_that_does_not_start_is_told_from_a_model_that_can_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: bool, error: type[Exception]
) -> None:
    """Played: this machine has no card. What ONNX Runtime raises is from a run on one."""
    session = onnxruntime.InferenceSession

    def on_a_card(path: str, *arguments: Any, providers: Any, **options: Any) -> Any:
        if providers != ["CPUExecutionProvider"]:
            raise RuntimeError("CUDA failure 101: invalid device ordinal ; GPU=0 ; expr=cudaSetDevice(device_id)")
        return session(path, *arguments, providers=providers, **options)

    monkeypatch.setattr("onnxruntime.InferenceSession", on_a_card)
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    path = Path(matmul(tmp_path))
    if spoilt:
        path.write_bytes(b"garbage")
    with pytest.raises(error, match="invalid device ordinal"):
        deepseek.build({"model": str(path), "device": "cuda:7"})
