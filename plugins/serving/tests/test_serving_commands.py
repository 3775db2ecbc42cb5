"""The commands beside `serve`, run as a user runs them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving_pieces import Running, serving


def run(*arguments: str, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deepseek", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_keys_are_made_listed_and_removed(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")
    secret = run("keys", "add", file, "--tenant", "acme", "--rate", "10").stdout.strip()
    assert secret.startswith("dsk_")
    assert secret not in (tmp_path / "keys.json").read_text()
    line = run("keys", "list", file).stdout.split()
    assert line[1:] == ["acme", "10/s"]
    # The rate is the tenant's.
    assert "has the rate 10/s" in run("keys", "add", file, "--tenant", "acme", "--rate", "20", code=3).stderr
    run("keys", "add", file, "--tenant", "acme")
    last = run("keys", "list", file).stdout.splitlines()[-1].split()
    assert last[1:] == ["acme", "10/s"]
    run("keys", "remove", file, last[0])
    run("keys", "remove", file, line[0])
    assert run("keys", "list", file).stdout == ""
    assert "no key `x`" in run("keys", "remove", file, "x", code=3).stderr
    assert "no file of keys" in run("keys", "list", str(tmp_path / "none"), code=3).stderr


@pytest.fixture(scope="module")
def coded(coded_models: Path) -> Running:
    with serving(coded_models) as running:
        yield running


def test_infer_takes_pictures_texts_and_tensors(coded: Running, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (10, 200, 20)).save(tmp_path / "leaf.png")
    np.save(tmp_path / "ids.npy", np.array([[1, 2]]))
    assert "green" in run("infer", coded.url, "color", str(tmp_path / "leaf.png")).stdout
    assert "[6.0, 7.0, 8.0, 9.0]" in run("infer", coded.url, "embed", "hello world").stdout
    row = json.loads(run("infer", coded.url, "embed", str(tmp_path / "ids.npy"), "--json").stdout)
    assert row["rows"][0]["last_hidden_state"] == [[[4, 5, 6, 7], [8, 9, 10, 11]]]
    assert "no model `nobody`" in run("infer", coded.url, "nobody", "a", code=1).stderr
    assert "does not answer" in run("infer", "http://127.0.0.1:9", "a", "b", code=17).stderr
    assert "no server's URL" in run("infer", "localhost", "a", "b", code=1).stderr


def test_usage_as_table_csv_and_json(coded: Running) -> None:
    coded.http.post("/v2/models/embed/predict", content=b"hello")
    assert run("usage", coded.url).stdout.splitlines()[0].split()[:3] == ["tenant", "model", "version"]
    rows = list(csv.DictReader(io.StringIO(run("usage", coded.url, "--format", "csv").stdout)))
    told = json.loads(run("usage", coded.url, "--format", "json").stdout)["usage"]
    assert {row["model"]: int(row["requests"]) for row in rows} == {row["model"]: row["requests"] for row in told}
    assert all(row["compute_seconds"] >= 0 and row["device"] == "cpu" for row in told)


def test_a_key_is_shown_to_nobody_and_sent_to_its_server_alone(
    coded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    seen: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/steal")
            self.end_headers()

    monkeypatch.setenv("DEEPSEEK_API_KEY", "dsk_secret\n")
    run("usage", coded.url)
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert "status 302" in run("usage", f"http://127.0.0.1:{server.server_address[1]}", code=1).stderr
        server.shutdown()
    assert seen == ["Bearer dsk_secret"]
    monkeypatch.setenv("DEEPSEEK_API_KEY", "dsk_\nsecret")
    assert "secret" not in run("usage", coded.url, code=1).stderr


def test_bench_finds_inputs_of_any_model(coded: Running, shared: Running) -> None:
    assert "no errors" in run("bench", coded.url, "embed", "--clients", "1", "--seconds", "0.2").stdout
    assert "no errors" in run("bench", shared.url, "half", "--clients", "1", "--seconds", "0.2").stdout
    asked = ("bench", coded.url, "color", "--clients", "1", "--shape", "image=1,1")
    assert "the model takes image: float32[*, 3, 8, 8]" in run(*asked, code=1).stderr


@pytest.mark.slow
def test_bench_writes_results_and_a_plot(shared: Running, tmp_path: Path) -> None:
    where = ("bench", shared.url, "float", "--seconds", "0.5")
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    done = run(*where, "--clients", "4", "-o", str(out), "--plot", str(picture))
    assert "no errors" in done.stdout
    [result] = json.loads(out.read_text())["results"]
    assert result["requests"] > 10
    assert result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    run(*where, "--rate", "50", "--binary", "-o", str(out))
    [result] = json.loads(out.read_text())["results"]
    assert result["wanted"] == 50
    assert 10 <= result["requests"] <= 50
    ramp = run(*where, "--slo", "p99<0.0001ms", "-o", str(out))
    assert "highest rate that keeps" in ramp.stdout
    assert json.loads(out.read_text())["highest_rate"] == 0
    assert "exclude one another" in run(*where, "--rate", "1", "--clients", "1", code=2).stderr
    assert "is no goal" in run(*where, "--slo", "fast", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["infer", "URL", "embed", "hello " * 100], "embedding"),
        (["infer", "URL", "color", "TMP/broken.npy"], "no tensors that can be read"),
        (["infer", "http://localhost:notaport", "color", "a"], "no server's URL"),
        (["infer", "http://[::1", "color", "a"], "no server's URL"),
        (["infer", "URL", "color", "a", "--ca", "TMP/nowhere.pem"], "no file of an authority"),
        (["infer", "URL", "color", "a", "--ca", "TMP/broken.npy"], "no file of an authority"),
        (["infer", "URL", "embed", "TMP/mistyped.jpg"], "no file"),
        (["infer", "URL", "embed", "hello.npy"], "put a space at its end"),
        (["bench", "URL", "color", "--shape", "x=-1,16"], "no shape"),
        (["bench", "URL", "color", "--shape", "nothing=1,16"], "its inputs are: image"),
        (["bench", "URL", "color", "--plot", "p.xyz"], "plots are .png"),
        (["bench", "URL", "color", "-o", "TMP/nowhere/a.json"], "no folder"),
        (["bench", "URL", "color", "--constant"], "open loops"),
        (["bench", "URL", "color", "--slo", "p42<50ms"], "no goal"),
        (["bench", "URL", "color", "--slo", "p99<nan"], "no goal"),
        (["keys", "add", "TMP/keys.json", "--tenant", "a", "--rate", "nan"], "numbers"),
        (["keys", "add", "TMP/keys.json", "--tenant", "a", "--rate", "1e-9"], "numbers from 1e-06"),
        (["keys", "add", "TMP/keys.json", "--tenant", ""], "tenant's name"),
    ],
)
def test_mistakes_are_told_with_the_way_out(coded: Running, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY nonsense")
    filled = [item.replace("URL", coded.url).replace("TMP", str(tmp_path)) for item in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "deepseek", *filled], capture_output=True, text=True, timeout=120, check=False
    )
    assert words in done.stdout + done.stderr, done
    assert "report it" not in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == (words == "embedding")
    assert not (tmp_path / "keys.json").exists()
