"""What tenants do not share: sequences, memory and rates; and what is counted of whom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from deepseek.plugin import ConfigError
from deepseek_serving import keys, rates
from deepseek_serving.errors import TooFastError, advice
from deepseek_serving.gatekeeper import Gatekeeper
from deepseek_serving.rates import Bucket, OwnTimes, SharedTimes, Times
from serving_pieces import Running, serving, write_models
from serving_puppets import works

FIELDS = {"name": "x", "shape": [1, 4], "datatype": "FP32"}


class Tenants:
    """A server with the keys of two administrators of different tenants."""

    def __init__(self, running: Running, secrets: dict[str, str]) -> None:
        self.running, self._secrets = running, secrets

    def post(self, tenant: str, path: str, **body: Any) -> httpx.Response:
        headers = {"X-API-Key": self._secrets[tenant]}
        return self.running.http.post(path, json=body, headers=headers)

    def infer(self, tenant: str, **more: Any) -> httpx.Response:
        return self.post(tenant, "/v2/models/echo/infer", inputs=[{**FIELDS, "data": [1, 1, 1, 1]}], **more)


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    write_models(tmp_path / "models", {"echo": ""})
    file = tmp_path / "keys.json"
    file.touch(0o644)
    file.write_text("[]")
    secrets = {name: keys.add(file, name, admin=True) for name in ("acme", "rival")}
    assert file.stat().st_mode & 0o077 == 0
    with serving(tmp_path / "models", keys=str(file), allow=["shared_memory"]) as running:
        yield Tenants(running, secrets)


def test_sequences(tenants: Tenants) -> None:
    assert tenants.infer("acme", parameters={"sequence_id": 5, "sequence_start": True}).status_code == 200
    assert tenants.infer("rival", parameters={"sequence_id": 5}).status_code == 400
    assert tenants.infer("acme", parameters={"sequence_id": 5, "sequence_end": True}).status_code == 200


def test_shared_memory(tenants: Tenants) -> None:
    memory = shared_memory.SharedMemory(create=True, size=64)
    try:
        region = {"key": "/" + memory.name, "offset": 0, "byte_size": 64}
        assert tenants.post("acme", "/v2/systemsharedmemory/region/mine/register", **region).status_code == 200
        place = {"shared_memory_region": "mine", "shared_memory_byte_size": 16}
        asked = {"inputs": [{**FIELDS, "parameters": place}]}
        assert tenants.post("acme", "/v2/models/echo/infer", **asked).status_code == 200
        refused = tenants.post("rival", "/v2/models/echo/infer", **asked)
        assert (refused.status_code, "no shared memory" in refused.json()["error"]) == (400, True)
        wish = [{"name": "y", "parameters": place}]
        assert tenants.infer("rival", outputs=wish).status_code == 400
        assert tenants.post("rival", "/v2/systemsharedmemory/unregister").status_code == 200
        assert tenants.post("acme", "/v2/models/echo/infer", **asked).status_code == 200
    finally:
        memory.close()
        memory.unlink()


def test_texts_count_together(coded_models: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret = keys.add(file, "acme", rate=0.01, burst=3.0)
    with serving(coded_models, keys=str(file), client={"headers": {"X-API-Key": secret}}) as running:

        def embed(count: int) -> int:
            body = {"model": "embed", "input": ["hello"] * count}
            return running.http.post("/v1/embeddings", json=body).status_code

        # More than may ever come at once is no matter of waiting, and takes nothing away.
        assert [embed(4), embed(2), embed(2), embed(1), embed(1)] == [400, 200, 429, 200, 429]


def test_what_fails_is_counted_by_cause_and_billed_to_nobody(tenants: Tenants) -> None:
    def fail(inputs: Any) -> Any:
        raise RuntimeError("no")

    for _ in range(3):
        assert tenants.infer("acme").status_code == 200
    assert tenants.infer("acme", parameters={"sequence_id": 9}).status_code == 400
    assert tenants.infer("acme", parameters={"priority": "high"}).status_code == 400
    works["echo.puppet"] = fail
    assert tenants.infer("acme").status_code == 500
    assert tenants.running.http.post("/v2/models/echo/infer", json={}).status_code == 401
    assert tenants.post("acme", "/v2/models/nobody/infer").status_code == 404
    page = tenants.running.http.get("/metrics", headers={"X-API-Key": tenants._secrets["acme"]}).text
    for line in [
        'deepseek_errors_total{cause="input",model="echo",version="1"} 2.0',
        'deepseek_errors_total{cause="execution",model="echo",version="1"} 1.0',
        'deepseek_error_answers_total{protocol="http",status="401"} 1.0',
        'deepseek_error_answers_total{protocol="http",status="404"} 1.0',
        'deepseek_queue_depth{model="echo",version="1"} 0.0',
        'deepseek_usage_requests_total{device="cpu",model="echo",tenant="acme",version="1"} 3.0',
    ]:
        assert line in page, page


def test_a_tenants_rate_is_that_of_all_processes_together(tmp_path: Path) -> None:
    secret = keys.add(tmp_path / "keys.json", "us", rate=0.001, burst=10)
    headers = [(b"x-api-key", secret.encode())]
    shared = SharedTimes.make()
    gatekeepers = [Gatekeeper(tmp_path / "keys.json", (), SharedTimes(os.dup(shared.handle))) for _ in range(4)]
    for gatekeeper in (*gatekeepers, gatekeepers[0]):
        assert gatekeeper.admit(headers, 2) == "us"
    for gatekeeper in gatekeepers:
        with pytest.raises(TooFastError, match=r"rate of 0.001 requests"):
            gatekeeper.admit(headers)


def test_a_tenant_whose_rate_is_raised_does_not_wait_for_what_the_old_one_owed() -> None:
    times = OwnTimes()
    assert Bucket(0.001, 10, times.of("us")).take(10) == 0
    assert 1000 >= Bucket(0.001, 10, times.of("us")).take() > 900
    assert Bucket(1000, 10, times.of("us")).take() <= 0.001


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("times", [OwnTimes(), SharedTimes.make()], ids=["own", "shared"])
def test_a_bucket_fills_at_the_new_rate_however_often_it_is_asked(
    times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(1000.0)
    monkeypatch.setattr(rates, "monotonic", clock)
    assert Bucket(1, 60, times.of("us")).take(60) == 0
    raised = Bucket(100, 100, times.of("us"))
    admitted = 0
    for _ in range(100):
        clock.now += 0.01
        admitted += raised.take() == 0
        admitted += raised.take() == 0
    # From the first look on.
    assert admitted == 99


@pytest.mark.parametrize("up", [1.0, 2e7, 4e7, 8e7, 1e9])
@pytest.mark.parametrize(("rate", "burst"), [(0.6, 1), (10, 1), (3, 3), (7, 49)])
def test_a_full_bucket_gives_its_burst_however_long_the_machine_is_up(
    up: float, rate: float, burst: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(up)
    monkeypatch.setattr(rates, "monotonic", clock)
    bucket = Bucket(rate, burst)
    for _ in range(1000):
        assert bucket.take(int(burst)) == 0
        assert bucket.take() == pytest.approx(1 / rate, abs=1e-6)
        clock.now += 1.1 * burst / rate


_TAKES = """
import sys
from deepseek_serving.rates import Bucket, SharedTimes
bucket = Bucket(0.001, 3000, SharedTimes(int(sys.argv[1])).of("us"))
sys.stdin.readline()
print(sum(bucket.take() == 0 for _ in range(3000)))
"""


def test_processes_that_take_at_once_admit_no_more_than_one_would() -> None:
    handle = SharedTimes.make().handle
    command = [sys.executable, "-c", _TAKES, str(handle)]
    takers = [
        subprocess.Popen(command, pass_fds=[handle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for taker in takers:
        assert taker.stdin
        taker.stdin.write("go\n")
        taker.stdin.flush()
    assert sum(int(taker.communicate()[0]) for taker in takers) == 3000


@pytest.mark.parametrize(
    "rights", [{"rate": -5}, {"rate": 1e-310}, {"rate": 1e308, "burst": 1e-300}, {"burst": -1}], ids=str
)
def test_a_file_of_keys_with_rates_that_cannot_be_is_refused(tmp_path: Path, rights: dict[str, float]) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([{"id": "a", "tenant": "us", "sha256": "0" * 64, **rights}]))
    with pytest.raises(ConfigError, match="file of keys can't be read"):
        Gatekeeper(file, ())


def test_who_waits_as_long_as_told_is_served() -> None:
    assert advice(TooFastError("slower", retry_after=1.2), 429) == {"retry-after": "2"}
    assert advice(TooFastError("slower", retry_after=1e300), 429) == {"retry-after": "86400"}
