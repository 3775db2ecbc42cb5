"""Keys, tenants, rates, encryption, shared memory: who may do what."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import trustme
from tritonclient.utils import InferenceServerException

from deepseek.plugin import DeepSeekError
from deepseek_serving import keys
from serving_pieces import Running, serving, triton_client, write_models

ROW = np.ones((1, 4), np.float32)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(running: Running, key: str | None, path: str = "/v2/models/echo/infer", **more: Any) -> httpx.Response:
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}
    return running.http.post(path, json=body, headers=bearer(key) if key else {}, **more)


class Locked:
    """A server with keys."""

    def __init__(self, running: Running, file: Path, **secrets: str) -> None:
        self.running, self.file, self.secrets = running, file, secrets


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Locked]:
    write_models(tmp_path / "models", {"echo": ""})
    file = tmp_path / "keys.json"
    secrets = {
        "acme": keys.add(file, "acme"), "slow": keys.add(file, "slow", rate=0.001, burst=2.0),
        "admin": keys.add(file, "ops", admin=True),
    }  # fmt: skip
    with serving(tmp_path / "models", keys=str(file), allow=["load"]) as running:
        yield Locked(running, file, **secrets)


def test_keys_open_and_are_kept_as_hashes(locked: Locked) -> None:
    running = locked.running
    assert ask(running, None).status_code == 401
    assert ask(running, "dsk_wrong").status_code == 401
    assert ask(running, locked.secrets["acme"]).status_code == 200
    by_header = running.http.get("/v2/models/echo", headers={"X-API-Key": locked.secrets["acme"]})
    assert by_header.status_code == 200
    assert running.http.get("/v2/models/echo").status_code == 401
    assert running.http.get("/metrics").status_code == 401
    # Health is for probes, the page asks for the key itself.
    assert running.http.get("/v2/health/ready").status_code == 200
    assert running.http.get("/").status_code == 200
    content = locked.file.read_text()
    assert not any(secret in content for secret in locked.secrets.values())
    assert locked.file.stat().st_mode & 0o077 == 0


def test_a_tenant_over_its_rate_is_told_to_wait(locked: Locked) -> None:
    statuses = [ask(locked.running, locked.secrets["slow"]) for _ in range(3)]
    assert [answer.status_code for answer in statuses] == [200, 200, 429]
    assert int(statuses[2].headers["retry-after"]) >= 1
    assert ask(locked.running, locked.secrets["acme"]).status_code == 200
    tensor = triton_grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(ROW)
    with triton_client(triton_grpc, locked.running.grpc) as client:
        with pytest.raises(InferenceServerException, match="over its rate"):
            client.infer("echo", [tensor], headers={"authorization": f"Bearer {locked.secrets['slow']}"})
        with pytest.raises(InferenceServerException, match="API key is needed"):
            client.infer("echo", [tensor])
        client.infer("echo", [tensor], headers={"authorization": f"Bearer {locked.secrets['acme']}"})


def test_administration_needs_an_administrators_key(locked: Locked) -> None:
    path = "/v2/repository/models/echo/load"
    assert locked.running.http.post(path, headers=bearer(locked.secrets["acme"])).status_code == 403
    assert locked.running.http.post(path, headers=bearer(locked.secrets["admin"])).status_code == 200


def test_usage_is_counted_by_tenant_and_shown_to_it_alone(locked: Locked) -> None:
    for _ in range(3):
        ask(locked.running, locked.secrets["acme"])
    ask(locked.running, locked.secrets["admin"])

    def used(key: str) -> dict[str, int]:
        rows = locked.running.http.get("/usage", headers=bearer(locked.secrets[key])).json()["usage"]
        return {row["tenant"]: row["rows"] for row in rows}

    assert used("acme") == {"acme": 3}
    assert used("admin") == {"acme": 3, "ops": 1}


def test_keys_are_read_again_when_their_file_changes(locked: Locked) -> None:
    name = json.loads(locked.file.read_text())[0]["id"]
    keys.remove(locked.file, name)
    while ask(locked.running, locked.secrets["acme"]).status_code != 401:
        pass
    for broken in ("{", '[{"id": "a", "tenant": "b", "sha256": "none"}]'):
        locked.file.write_text(broken)
        with pytest.raises(DeepSeekError):
            keys.read(locked.file)
        locked.running.on_loop(locked.running.server.gatekeeper.refresh)
        assert ask(locked.running, locked.secrets["admin"]).status_code == 200


def test_pages_of_other_hosts_can_not_make_a_browser_change_the_server(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, allow=["load"]) as running:
        path = "/v2/repository/models/echo/load"
        assert running.http.post(path, headers={"Origin": "http://evil.example"}).status_code == 403
        assert running.http.post(path, headers={"Origin": running.url}).status_code == 200
        # A name that somebody made lead here.
        assert running.http.get("/state", headers={"Host": "evil.example:8000"}).status_code == 403
        assert running.http.get("/state", headers={"Host": "localhost:8000"}).status_code == 200
        row = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}
        infer = running.http.post("/v2/models/echo/infer", json=row, headers={"Origin": "http://evil.example"})
        assert infer.status_code == 403


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def encrypted(tmp_path: Path, ca: trustme.CA, request: pytest.FixtureRequest) -> Iterator[Running]:
    certificate = ca.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = ca.issue_cert("client@example.org")
    own.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    own.private_key_pem.write_to_path(tmp_path / "client.key")
    own.cert_chain_pems[0].write_to_path(tmp_path / "client.crt")
    tls = {"certificate": str(tmp_path / "server.pem"), "key": str(tmp_path / "server.key")}
    # The carrier of gRPC, with clients that have to show who they are.
    mutual = getattr(request, "param", "")
    if mutual:
        tls["client_ca"] = str(tmp_path / "ca.pem")
    write_models(tmp_path / "models", {"echo": ""})
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "client.pem")
    with serving(
        tmp_path / "models", {"verify": context}, tls=tls, grpc={"port": 0, "carrier": mutual or "native"}
    ) as running:
        yield running


@pytest.mark.parametrize("encrypted", ["", "native"], indirect=True)
def test_both_protocols_speak_tls(encrypted: Running, tmp_path: Path) -> None:
    assert encrypted.url.startswith("https://")
    assert encrypted.infer("echo", ROW).json()["outputs"][0]["data"] == [1.0] * 4
    big = np.ones((20000, 4), np.float32)
    assert encrypted.infer("echo", big).status_code == 200
    tensor = triton_grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(ROW)
    files = {"root_certificates": "ca.pem", "private_key": "client.key", "certificate_chain": "client.crt"}
    paths = {name: str(tmp_path / file) for name, file in files.items()}
    with triton_client(triton_grpc, encrypted.grpc, ssl=True, **paths) as client:
        np.testing.assert_array_equal(client.infer("echo", [tensor]).as_numpy("y"), ROW)


@pytest.mark.parametrize("encrypted", ["native"], indirect=True)
def test_a_client_without_a_certificate_is_refused(encrypted: Running, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with httpx.Client(verify=context) as client, pytest.raises(httpx.TransportError):
        client.get(f"{encrypted.url}/v2")


@pytest.mark.parametrize("encrypted", ["native", "grpcio"], indirect=True)
def test_a_client_without_a_certificate_of_ours_is_refused_over_grpc(encrypted: Running, tmp_path: Path) -> None:
    stranger = trustme.CA().issue_cert("stranger@example.org")
    stranger.private_key_pem.write_to_path(tmp_path / "stranger.key")
    stranger.cert_chain_pems[0].write_to_path(tmp_path / "stranger.crt")
    root = {"root_certificates": str(tmp_path / "ca.pem")}
    for name, known in (("client", True), ("stranger", False), ("", False)):
        own = {"private_key": str(tmp_path / f"{name}.key"), "certificate_chain": str(tmp_path / f"{name}.crt")}
        with triton_client(triton_grpc, encrypted.grpc, ssl=True, **root, **(own if name else {})) as client:
            if known:
                assert client.is_server_live()
                continue
            with pytest.raises(InferenceServerException) as caught:
                client.is_server_live()
            assert caught.value.status() == "StatusCode.UNAVAILABLE"


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Running]:
    write_models(tmp_path, {"echo": ""})
    with serving(tmp_path, allow=["shared_memory"]) as running:
        yield running


@pytest.fixture
def block() -> Iterator[shared_memory.SharedMemory]:
    memory = shared_memory.SharedMemory(create=True, size=4096)
    yield memory
    memory.close()
    memory.unlink()


@pytest.mark.parametrize("module", [triton_http, triton_grpc], ids=["http", "grpc"])
def test_tensors_in_shared_memory(sharing: Running, block: shared_memory.SharedMemory, module: Any) -> None:
    np.ndarray((1, 4), np.float32, block.buf)[:] = [[1, 2, 3, 4]]
    address = sharing.address if module is triton_http else sharing.grpc
    with triton_client(module, address) as client:
        client.register_system_shared_memory("region", "/" + block.name, 4096)
        tensor, wanted = module.InferInput("x", [1, 4], "FP32"), module.InferRequestedOutput("y")
        tensor.set_shared_memory("region", 16)
        wanted.set_shared_memory("region", 16, offset=1024)
        client.infer("echo", [tensor], outputs=[wanted])
        written = np.ndarray((1, 4), np.float32, block.buf, 1024).tolist()
        assert written == [[1, 2, 3, 4]]
        tensor.set_shared_memory("region", 16, offset=4090)
        with pytest.raises(InferenceServerException, match="has 4096 bytes"):
            client.infer("echo", [tensor])
        with pytest.raises(InferenceServerException, match="registered already"):
            client.register_system_shared_memory("region", "/" + block.name, 4096)
        client.unregister_system_shared_memory("region")
        status = client.get_system_shared_memory_status()
        assert len(status if module is triton_http else status.regions) == 0


@pytest.mark.parametrize("key", ["/../etc/passwd", "/etc/passwd", "..", "", "a/b", "/nowhere"])
def test_shared_memory_does_not_lead_elsewhere(sharing: Running, key: str) -> None:
    answer = sharing.http.post(
        "/v2/systemsharedmemory/region/a/register", json={"key": key, "offset": 0, "byte_size": 8}
    )
    assert answer.status_code == 400


def test_pages_of_a_proxys_name_may_ask(tmp_path: Path) -> None:
    write_models(tmp_path, {"echo": ""})
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    with serving(tmp_path, hosts=["ai.example"]) as running:
        for origin, status in (("https://ai.example", 200), ("https://other.example", 403)):
            asked = running.http.post("/v2/models/echo/infer", json=body, headers={"Origin": origin})
            assert asked.status_code == status


def test_keys_that_are_added_at_once_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: keys.add(file, f"tenant {number}"), range(40)))
    assert len(keys.read(file)) == 40
