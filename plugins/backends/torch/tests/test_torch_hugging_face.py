"""Hugging Face folders: their own answers, and none of their code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import deepseek
from deepseek.errors import InputError, ModelError, UnsafeModelError


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(settings).eval().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


IDS = np.array([[2, 7, 9, 3], [2, 5, 3, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


def test_a_hugging_face_folder(bert: Path) -> None:
    import transformers

    with torch.inference_mode():
        model = transformers.BertModel.from_pretrained(bert).eval()
        right = model(input_ids=torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK)).last_hidden_state.numpy()
    with deepseek.build({"model": str(bert)}) as pipeline:
        answer = pipeline.run(input_ids=IDS, attention_mask=MASK)
        np.testing.assert_allclose(answer["last_hidden_state"], right, atol=1e-5)
        assert {spec.name for spec in pipeline.signature.outputs} == {"last_hidden_state", "pooler_output"}
        assert str(pipeline.signature.outputs[0]) == "last_hidden_state: float32[*, *, 16]"


@pytest.mark.slow
def test_a_hugging_face_folder_as_onnx(bert: Path) -> None:
    types = np.zeros_like(IDS)
    with (
        deepseek.build({"model": str(bert)}) as own,
        deepseek.build({"model": str(bert), "engine": "onnxruntime"}) as other,
    ):
        assert "largest error on random input" in next(step.note for step in other.steps if "check" in step.name)
        asked = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": types}
        right, answer = own.run(asked), other.run(asked)
        np.testing.assert_allclose(answer["last_hidden_state"], right["last_hidden_state"], atol=1e-4)


@pytest.mark.parametrize("spoil", ["missing", "foreign", "shape"])
def test_weights_that_are_not_all_there_are_never_made_up(bert: Path, spoil: str) -> None:
    weights = load_file(bert / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    if spoil == "missing":
        del weights[name]
    elif spoil == "shape":
        weights[name] = torch.ones(3, 3)
    else:
        weights = {"foo": torch.ones(1)}
    save_file(weights, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"\d+ of its weights are missing or of another shape: .*\n  fix: save the whole"
    ):
        deepseek.build({"model": str(bert)})
    if spoil != "shape":
        with deepseek.build({"model": str(bert), "torch": {"strict": False}}) as pipeline:
            assert pipeline.run(input_ids=IDS)["last_hidden_state"].shape == (2, 4, 16)


def test_code_in_a_hugging_face_folder_is_never_run(bert: Path) -> None:
    proof = bert / "proof"
    (bert / "modeling.py").write_text(f"open({str(proof)!r}, 'w')\nclass M: pass\n")
    settings = json.loads((bert / "config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "modeling.M", "AutoModel": "modeling.M"}
    (bert / "config.json").write_text(json.dumps(settings))
    with deepseek.build({"model": str(bert)}) as pipeline:
        assert pipeline.run(input_ids=IDS)["last_hidden_state"].shape == (2, 4, 16)
    assert not proof.exists()


def test_an_architecture_that_is_none_of_transformers_own_is_refused(bert: Path) -> None:
    proof = bert / "proof"
    (bert / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    settings = json.loads((bert / "config.json").read_text())
    for name in ("AutoModelForImageClassification", "BertTokenizer", "NoSuchModel"):
        settings |= {"architectures": [name], "auto_map": {name: "evil.Evil"}}
        (bert / "config.json").write_text(json.dumps(settings))
        with pytest.raises(ModelError, match=f"its architecture `{name}` is no model class of transformers"):
            deepseek.build({"model": str(bert)})
    assert not proof.exists()


def test_kernels_from_elsewhere_are_refused(bert: Path) -> None:
    settings = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**settings, "_attn_implementation": "evil/kernel"}))
    with pytest.raises(ModelError, match="asks for the kernel `evil/kernel` from elsewhere"):
        deepseek.build({"model": str(bert)})


def test_weights_outside_the_folder_are_refused(bert: Path, tmp_path: Path) -> None:
    (bert / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "../model.safetensors"}}
    (bert / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeModelError, match=r"it names weights outside the folder \(../model.safetensors\)"):
        deepseek.build({"model": str(bert)})


def test_a_hugging_face_folder_with_a_pickle_is_refused(bert: Path) -> None:
    (bert / "model.safetensors").unlink()
    torch.save({}, bert / "pytorch_model.bin")
    with pytest.raises(ModelError, match="PyTorch can't read it"):
        deepseek.build({"model": str(bert)})


def test_weights_that_the_configuration_names_elsewhere_are_refused(bert: Path) -> None:
    settings = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**settings, "transformers_weights": "../model.safetensors"}))
    with pytest.raises(ModelError, match="its configuration names weights elsewhere"):
        deepseek.build({"model": str(bert)})


def test_lists_of_weights_in_deeper_folders_are_looked_at_too(bert: Path) -> None:
    (bert / "deeper").mkdir()
    (bert / "deeper/x.index.json").write_text(json.dumps({"weight_map": {"a": "/elsewhere/model.safetensors"}}))
    with pytest.raises(UnsafeModelError, match="it names weights outside the folder"):
        deepseek.build({"model": str(bert)})


def test_a_decoder_wants_to_be_told_with_what_it_begins(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0)).eval()
    model.save_pretrained(tmp_path / "t5")
    first = np.zeros((2, 1), "int64")
    with torch.inference_mode():
        right = model(input_ids=torch.from_numpy(IDS), decoder_input_ids=torch.from_numpy(first)).logits.numpy()
    with deepseek.build({"model": str(tmp_path / "t5")}) as pipeline:
        np.testing.assert_allclose(pipeline.run(input_ids=IDS, decoder_input_ids=first)["logits"], right, atol=1e-5)
        with pytest.raises(InputError, match="the input `decoder_input_ids` is missing"):
            pipeline.run(input_ids=IDS)
