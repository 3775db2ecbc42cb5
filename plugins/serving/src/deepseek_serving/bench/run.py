"""Which loads are put on a server, one after another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np

from deepseek.plugin import DeepSeekError, InputError
from deepseek_serving.bench import load
from deepseek_serving.bench.load import Sample, Target
from deepseek_serving.bench.result import NAMES, Result, evaluate
from deepseek_serving.oip import datatypes
from deepseek_serving.process import run_on_loop

if TYPE_CHECKING:
    from deepseek_serving.cli.asking import Client

#: Headers that a client writes itself.
_ITS_OWN = ("Host", "Content-Length", "Authorization")


class Goal(msgspec.Struct, frozen=True):
    """What a server must keep: a percentile below so many milliseconds (``p99<50ms``), and hardly an error."""

    percentile: str
    milliseconds: float

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Raises DeepSeekError."""
        name, _, limit = text.replace(" ", "").partition("<")
        try:
            goal = cls(name, float(limit.removesuffix("ms")))
            if name not in NAMES or not 0 < goal.milliseconds < float("inf"):
                raise ValueError(text)
        except ValueError as exc:
            raise DeepSeekError(f"`{text}` is no goal", hint=f"write p99<50ms; there are {', '.join(NAMES)}") from exc
        return goal

    def met(self, result: Result) -> bool:
        """Whether a load was carried: in time, counted from when requests were due, with hardly an error."""
        failed = sum(result.errors.values())
        in_time = result.latency_ms.get(self.percentile, float("inf")) <= self.milliseconds
        return in_time and failed <= 0.001 * result.requests


def target(client: Client, model: str, shapes: dict[str, list[int]], *, binary: bool) -> Target:
    """A request of random numbers for a model, whose inputs the server is asked for. Raises DeepSeekError."""
    path = f"/v2/models/{quote(model, safe='')}"
    inputs = client.json(path, field="inputs")["inputs"]
    # Which JSON does not have.
    binary = binary or any(spec["datatype"] in ("FP16", "BF16") for spec in inputs)
    for name in shapes.keys() - {spec["name"] for spec in inputs}:
        has = ", ".join(spec["name"] for spec in inputs)
        raise InputError(f"the model has no input `{name}`", hint=f"its inputs are: {has}")
    chance = np.random.default_rng(0)
    tensors, raws = [], []
    for spec in inputs:
        shape = shapes.get(spec["name"]) or [1 if size < 0 else size for size in spec["shape"]]
        array = _random(chance, spec["datatype"], shape)
        tensor = {"name": spec["name"], "shape": shape, "datatype": spec["datatype"]}
        if binary:
            raws.append(bytes(datatypes.to_bytes(array, spec["datatype"])))
            tensor["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            tensor["data"] = datatypes.to_list(array, spec["datatype"])
        tensors.append(tensor)
    body: dict[str, Any] = {"inputs": tensors}
    if binary:
        body["parameters"] = {"binary_data_output": True}
    top = json.dumps(body, separators=(",", ":")).encode()
    parts = urlsplit(client.url)
    headers = {
        "Host": parts.netloc, "Content-Length": str(len(top) + sum(map(len, raws))),
        "Content-Type": "application/octet-stream" if binary else "application/json",
        **({"Inference-Header-Content-Length": str(len(top))} if binary else {}),
        **({"Authorization": f"Bearer {client.key}"} if client.key else {}),
    }  # fmt: skip
    content = top + b"".join(raws)
    # Once before the load: what is wrong with it the server says.
    client.ask(path + "/infer", content, **{name: value for name, value in headers.items() if name not in _ITS_OWN})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST {path}/infer HTTP/1.1\r\n{lines}\r\n".encode() + content
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Target(parts.hostname or "", port, request, client.tls if parts.scheme == "https" else None)


def _random(chance: np.random.Generator, datatype: str, shape: list[int]) -> datatypes.Tensor:
    if datatype == "BYTES":
        return np.full(shape, "a text", object)
    dtype = datatypes.dtype_of(datatype)
    if dtype.kind == "b":
        return chance.random(shape) < 0.5
    if dtype.kind in "iu":
        # They are likely to be indices, of tables however small.
        return chance.integers(0, 2, shape).astype(dtype)
    return chance.random(shape).astype(dtype)


def measure(load_name: str, wanted: float, seconds: float, work: Callable[[], Any]) -> Result:
    """Put a load on the server, and evaluate it."""
    samples: list[Sample] = []
    before = time.process_time()

    async def run() -> None:
        samples.extend(await work())

    run_on_loop(run())
    return evaluate(load_name, samples, seconds, wanted, time.process_time() - before)


def closed(target: Target, clients: int, seconds: float) -> Result:
    """A closed loop."""
    return measure(f"closed, {clients} clients", 0.0, seconds, lambda: load.closed_loop(target, clients, seconds))


def opened(target: Target, rate: float, seconds: float, *, poisson: bool) -> Result:
    """An open loop."""
    name = f"{'Poisson' if poisson else 'constant'}, {rate:g}/s"
    return measure(name, rate, seconds, lambda: load.open_loop(target, rate, seconds, poisson=poisson))


def ramp(target: Target, goal: Goal, seconds: float, *, poisson: bool) -> Iterator[Result]:
    """Open loops at growing rates, then between the last that met the goal and the first that did not."""
    rate, low, high = 50.0, 0.0, 0.0
    while not high and rate < 1e6:
        result = opened(target, rate, seconds, poisson=poisson)
        yield result
        low, high, rate = (rate, 0.0, rate * 2) if goal.met(result) else (low, rate, rate)
    while high - low > 0.05 * high and high > 1:
        rate = (low + high) / 2
        result = opened(target, rate, seconds, poisson=poisson)
        yield result
        low, high = (rate, high) if goal.met(result) else (low, rate)


def best(results: list[Result], goal: Goal) -> float:
    """The highest rate that met the goal, as it was answered and not as it was meant; 0.0: none did."""
    return max([min(result.wanted, result.rate) for result in results if goal.met(result)], default=0.0)
