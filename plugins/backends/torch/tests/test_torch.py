"""PyTorch through the pipeline: every format, safety, dtypes and the conversion to ONNX."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deepseek
from deepseek.errors import (
    ConfigError,
    DeviceError,
    ExecutionError,
    MissingLibraryError,
    ModelError,
    PlanError,
    UnsafeModelError,
)
from deepseek.testing.contract import PluginContract

X = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
DECLARED = {"inputs": {"x": {"shape": [-1, 4]}}, "outputs": ["y"]}
FACTORY = """
import torch

def build(width=3):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, width))
"""


def network(width: int = 3) -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, width)).eval()


def wanted() -> Any:
    with torch.inference_mode():
        return network()(torch.from_numpy(X)).numpy()


def torchscript(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(network(), torch.zeros(1, 4)).save(str(folder / "m.pt"))
    return str(folder / "m.pt")


def exported(folder: Path) -> str:
    program = torch.export.export(network(), (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "m.pt2")
    return str(folder / "m.pt2")


def state_dict(folder: Path) -> str:
    torch.save({"state_dict": network().state_dict(), "epoch": 3}, folder / "m.pth")
    return str(folder / "m.pth")


def legacy_state_dict(folder: Path) -> str:
    torch.save(network().state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    return str(folder / "old.pth")


def safetensors(folder: Path) -> str:
    save_file(network().state_dict(), folder / "m.safetensors")
    return str(folder / "m.safetensors")


def config(folder: Path, write: Callable[[Path], str], **more: Any) -> dict[str, Any]:
    (folder / "factory.py").write_text(FACTORY)
    settings = {"factory": f"{folder}/factory.py:build", **more.pop("torch", {})}
    return {"model": {"source": write(folder), **DECLARED}, "torch": settings, **more}


class TestContract(PluginContract):
    plugin = "torch"
    bad_settings: ClassVar = [
        ({"torch": {"dtype": "float7"}}, "torch.dtype"),
        ({"torch": {"factory": "nothing"}}, "torch.factory"),
        ({"torch": {"factory": "json:no_such"}}, "torch.factory"),
        ({"torch": {"factory": "json:dumps", "factory_args": {"obj": 1}}}, "torch.factory"),
    ]

    def configuration(self, folder: Path) -> dict[str, Any]:
        # 16 MB of weights, so that a pipeline that is kept shows in the resident memory.
        wide = "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(4, 500000), torch.nn.Linear(500000, 3))\n"
        (folder / "wide.py").write_text(wide)
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(4, 500_000), torch.nn.Linear(500_000, 3))
        save_file(module.state_dict(), folder / "wide.safetensors")
        return {
            "model": {"source": f"{folder}/wide.safetensors", **DECLARED},
            "torch": {"factory": f"{folder}/wide.py:build"},
        }


@pytest.mark.parametrize("write", [torchscript, exported, state_dict, legacy_state_dict, safetensors])
def test_every_format_gives_the_modules_own_answer(tmp_path: Path, write: Callable[[Path], str]) -> None:
    with deepseek.build(config(tmp_path, write)) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=X)["y"], wanted(), rtol=1e-5)
        assert str(pipeline.signature.outputs[0]) == "y: float32[*, 3]"
        assert pipeline.signature.batched


def test_an_archive_tells_its_own_signature(tmp_path: Path) -> None:
    with deepseek.build({"model": exported(tmp_path)}) as pipeline:
        assert repr(pipeline) == "<Pipeline torch on cpu: (input: float32[*, 4]) -> (output: float32[*, 3])>"


@pytest.mark.parametrize(
    "array", [X, X[::-1], torch.from_numpy(X), np.lib.stride_tricks.as_strided(X, writeable=False)]
)
def test_any_array_is_taken(tmp_path: Path, array: Any) -> None:
    with deepseek.build(config(tmp_path, safetensors)) as pipeline:
        assert pipeline.run(x=array)["y"].shape == (3, 3)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-2), ("bfloat16", 5e-2)])
def test_half_precision_keeps_the_signature(tmp_path: Path, dtype: str, tolerance: float) -> None:
    with deepseek.build(config(tmp_path, safetensors, torch={"dtype": dtype})) as pipeline:
        answer = pipeline.run(x=X)["y"]
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, wanted(), atol=tolerance)
        assert np.abs(answer - wanted()).max() > 0


def test_channels_last_changes_nothing_but_memory(tmp_path: Path) -> None:
    code = "import torch\ndef build():\n    torch.manual_seed(0)\n    return torch.nn.Conv2d(3, 8, 3)\n"
    (tmp_path / "conv.py").write_text(code)
    torch.manual_seed(0)
    save_file(torch.nn.Conv2d(3, 8, 3).state_dict(), tmp_path / "conv.safetensors")
    image = np.random.default_rng(0).standard_normal((2, 3, 9, 9)).astype("float32")
    answers = []
    for channels_last in (False, True):
        settings = {"factory": f"{tmp_path}/conv.py:build", "channels_last": channels_last}
        with deepseek.build({"model": f"{tmp_path}/conv.safetensors", "torch": settings}) as pipeline:
            answers.append(pipeline.run({"input": image})["output"])
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)


def test_threads_are_set_on_each_calling_thread(tmp_path: Path) -> None:
    import threading

    seen: list[int] = []
    with deepseek.build(config(tmp_path, safetensors, torch={"threads": 1})) as pipeline:
        caller = threading.Thread(target=lambda: (pipeline.run(x=X), seen.append(torch.get_num_threads())))
        caller.start()
        caller.join()
    assert seen == [1]


def test_a_state_dict_without_its_code(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="it holds weights without code; name the callable .* under `torch.factory`"):
        deepseek.build({"model": safetensors(tmp_path)})


def test_weights_that_do_not_fit_the_code(tmp_path: Path) -> None:
    settings = {"factory_args": {"width": 5}}
    with pytest.raises(ModelError, match=r"the weights do not fit the module: .*size mismatch for 2.weight"):
        deepseek.build(config(tmp_path, safetensors, torch=settings))


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return (Path.touch, (self.proof,))


def whole_module(path: Path, proof: Path) -> None:
    torch.save(network(), path)


def evil_checkpoint(path: Path, proof: Path) -> None:
    torch.save({"weights": Evil(proof)}, path)


def evil_legacy_checkpoint(path: Path, proof: Path) -> None:
    torch.save({"weights": Evil(proof)}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(proof), protocol=2))


@pytest.mark.parametrize("write", [whole_module, evil_checkpoint, evil_legacy_checkpoint, plain_pickle])
def test_pickles_are_refused_with_the_way_out(tmp_path: Path, write: Callable[[Path, Path], None]) -> None:
    proof = tmp_path / "proof"
    write(tmp_path / "evil.pth", proof)
    given = config(tmp_path, safetensors)
    given["model"]["source"] = str(tmp_path / "evil.pth")
    with pytest.raises(UnsafeModelError, match=r"never unpickles\n  fix: save its weights alone"):
        deepseek.build(given)
    assert not proof.exists()


def rewrite(source: str, change: Callable[[str, bytes], bytes | None], **extra: bytes) -> None:
    """Change an archive entry by entry; None drops one."""
    with zipfile.ZipFile(source) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with warnings.catch_warnings(), zipfile.ZipFile(source, "w") as new:
        warnings.simplefilter("ignore")
        for name, data in entries.items():
            changed = change(name, data)
            if changed is not None:
                new.writestr(name, changed)
        for name, data in extra.items():
            new.writestr(name.replace("__", "/"), data)


def evil_sample_inputs(source: str, proof: Path) -> None:
    evil = source + ".evil"
    torch.save(((Evil(proof),), {}), evil)
    data = Path(evil).read_bytes()
    rewrite(source, lambda name, old: data if "sample_inputs" in name else old)


def evil_constant(source: str, proof: Path) -> None:
    config = {
        "config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    }
    text = json.dumps(config).encode()
    rewrite(source, lambda name, old: text if name.endswith("constants_config.json") else old,
            m__data__constants__opaque_obj_0=pickle.dumps(Evil(proof)))  # fmt: skip


def machine_code(source: str, proof: Path) -> None:
    rewrite(source, lambda name, old: old, **{"m__data__aotinductor__model__model.so": b"\x7fELF"})


def twice(source: str, proof: Path) -> None:
    rewrite(source, lambda name, old: old, m__archive_format=b"pt2")


def evil_size(source: str, proof: Path) -> None:
    evil = f"__import__('pathlib').Path({str(proof)!r}).touch()"

    def change(name: str, old: bytes) -> bytes:
        if "/models/" not in name:
            return old
        return re.sub(rb'"expr_str": "[^"]*"', b'"expr_str": ' + json.dumps(evil).encode(), old)

    rewrite(source, change)


def evil_guard(source: str, proof: Path) -> None:
    evil = json.dumps([f"__import__('pathlib').Path({str(proof)!r}).touch() is None"]).encode()
    rewrite(source, lambda name, old: old.replace(b'"guards_code": []', b'"guards_code": ' + evil))


def evil_name(source: str, proof: Path) -> None:
    evil = json.dumps(f"relu\n    __import__('pathlib').Path({str(proof)!r}).touch()").encode()
    rewrite(source, lambda name, old: old.replace(b'"name": "relu"', b'"name": ' + evil))


@pytest.mark.parametrize(
    "spoil", [evil_sample_inputs, evil_constant, evil_size, evil_guard, evil_name, machine_code, twice]
)
def test_an_archive_that_would_run_code_is_refused(tmp_path: Path, spoil: Callable[[str, Path], None]) -> None:
    source, proof = exported(tmp_path), tmp_path / "proof"
    spoil(source, proof)
    with pytest.raises(UnsafeModelError, match="the archive holds"):
        deepseek.build({"model": source})
    assert not proof.exists()


class Spy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("secret", False, 4, dtype=torch.uint8).sum()


class Scribe(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.ops.aten.save([x], "proof")
        return x


@pytest.mark.parametrize("module", [Spy, Scribe])
def test_a_script_that_reaches_files_is_refused(tmp_path: Path, module: type[torch.nn.Module]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module()).save(str(tmp_path / "spy.ts"))
    with pytest.raises(UnsafeModelError, match=r"its code \(.*\) calls `torch.(from_file|save)`, which reaches files"):
        deepseek.build({"model": f"{tmp_path}/spy.ts"})


@pytest.mark.parametrize("write", [torchscript, exported, state_dict, safetensors])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, write: Callable[[Path], str], keep: float) -> None:
    given = config(tmp_path, write)
    path = Path(given["model"]["source"])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ModelError) as caught:
        deepseek.build(given)
    assert path.name in str(caught.value)


def test_a_damaged_directory_of_an_archive(tmp_path: Path) -> None:
    path = Path(exported(tmp_path))
    data = path.read_bytes()
    start = data.rindex(b"PK\x05\x06")
    for offset in range(start - 400, start, 7):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :])
        # Either it still loads, or the error is the model's.
        with contextlib.suppress(ModelError):
            deepseek.build({"model": str(path)}).close()


INPLACE = (
    "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 3))\n"
)
LSTM = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.LSTM(4, 3, batch_first=True)
        self.constant = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.rnn(x), self.constant

def build():
    return Net()
"""


def built(folder: Path, code: str, **model: Any) -> Any:
    (folder / "net.py").write_text(code)
    scope: dict[str, Any] = {}
    exec(code, scope)
    save_file(scope["build"]().state_dict(), folder / "net.safetensors")
    return deepseek.build(
        {"model": {"source": f"{folder}/net.safetensors", **model}, "torch": {"factory": f"{folder}/net.py:build"}}
    )


@pytest.mark.parametrize("declared", [{}, {"inputs": {"input": {"shape": [-1, 4]}}}])
def test_a_module_that_works_in_place_leaves_the_callers_array_alone(tmp_path: Path, declared: dict[str, Any]) -> None:
    with built(tmp_path, INPLACE, **declared) as pipeline:
        mine = -np.ones((2, 4), "float32")
        first = pipeline.run({"input": mine})["output"]
        assert (mine == -1).all()
        assert (pipeline.run({"input": mine})["output"] == first).all()


def test_nested_outputs_all_come_out_and_are_the_callers_own(tmp_path: Path) -> None:
    with built(tmp_path, LSTM, inputs={"x": {"shape": [-1, -1, 4]}}) as pipeline:
        x = np.ones((2, 5, 4), "float32")
        answer = pipeline.run(x=x)
        assert {name: value.shape for name, value in answer.items()} == {
            "output_0": (2, 5, 3), "output_1": (1, 2, 3), "output_2": (1, 2, 3), "output_3": (3,),
        }  # fmt: skip
        answer["output_3"][...] = 99
        assert pipeline.run(x=x)["output_3"].tolist() == [1, 1, 1]


def test_too_few_names_for_the_outputs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"`model.outputs` names 2 outputs \(a, b\)\n  fix: it gives 4"):
        built(tmp_path, LSTM, inputs={"x": {"shape": [-1, -1, 4]}}, outputs=["a", "b"])


def test_two_pipelines_keep_their_own_threads(tmp_path: Path) -> None:
    one = deepseek.build(config(tmp_path, safetensors, torch={"threads": 1}))
    two = deepseek.build(config(tmp_path, safetensors, torch={"threads": 2}))
    with one, two:
        seen = []
        for pipeline in (one, two, one):
            pipeline.run(x=X)
            seen.append(torch.get_num_threads())
    assert seen == [1, 2, 1]


def test_cuda_without_a_card(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    with pytest.raises(DeviceError, match=r"no device `cuda:0` on this machine\n  fix: found: cpu"):
        deepseek.build(config(tmp_path, safetensors, device="cuda:0"))


def test_an_operator_that_fails_is_an_execution_error(tmp_path: Path) -> None:
    given = config(tmp_path, torchscript)
    given["model"] = {"source": given["model"]["source"]}
    with deepseek.build(given) as pipeline:
        with pytest.raises(ExecutionError, match="PyTorch failed: .*mat1 and mat2"):
            pipeline.run({"input": X[:, :2]})
        assert pipeline.run({"input": X})["output"].shape == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("write", [exported, safetensors])
def test_another_engine_gets_the_model_as_onnx(tmp_path: Path, write: Callable[[Path], str]) -> None:
    with deepseek.build(config(tmp_path, write, engine="onnxruntime")) as pipeline:
        np.testing.assert_allclose(pipeline.run(x=X)["y"], wanted(), rtol=1e-4)
        assert "largest error on random input" in pipeline.steps[2].note


def test_a_conversion_needs_shapes(tmp_path: Path) -> None:
    given = config(tmp_path, safetensors, engine="onnxruntime")
    given["model"] = {"source": given["model"]["source"]}
    with pytest.raises(
        ConfigError, match=r"converting to ONNX needs the shape of the input `input`.*\n  fix: model: \{inputs"
    ):
        deepseek.build(given)


def test_scripted_modules_can_not_be_converted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="PyTorch can't export this model to ONNX"):
        deepseek.build(config(tmp_path, torchscript, engine="onnxruntime"))


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
        asked = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": types}
        right, answer = own.run(asked), other.run(asked)
        np.testing.assert_allclose(answer["last_hidden_state"], right["last_hidden_state"], atol=1e-4)


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


def test_explain_does_not_import_torch(tmp_path: Path) -> None:
    import subprocess

    given = json.dumps(config(tmp_path, safetensors))
    code = f"import sys, json, deepseek; deepseek.explain(json.loads({given!r})); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_its_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config(tmp_path, safetensors)
    monkeypatch.setattr("deepseek.plugin.find_spec", lambda name: None if name == "torch" else find_spec(name))
    with pytest.raises(
        MissingLibraryError, match=r"its library `torch` is not installed: pip install 'deepseek-torch\[cpu\]'"
    ):
        deepseek.build({**given, "engine": "torch"})
