"""The requests of the soak: good ones over HTTP and gRPC, malformed and cancelled ones, and what became of each."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from soak_pieces import MALFORMED, MODELS, ROWS, post

from deepseek_serving.grpc import schema

#: Requests under way at once; a stall of the machine makes an open loop reach any limit.
CONNECTIONS = 2000
#: Seconds after which a connection is not used again; the server's are 75.
_IDLE = 30.0
_CALL = f"/{schema.SERVICE}/ModelInfer"
Status = grpc.StatusCode


class Soak:
    """The load, and what became of it."""

    def __init__(self, folder: Path, url: str, address: str) -> None:
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)
        self.channel = grpc.aio.insecure_channel(address)
        self.call = self.channel.unary_unary(
            _CALL, schema.ModelInferRequest.SerializeToString, schema.ModelInferResponse.FromString
        )
        self.chance = random.Random(1)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.sent = self.done = 0
        #: Connections, and since when they are free.
        self.free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = deque()
        self.rows = np.random.default_rng(3).standard_normal((ROWS, 256), dtype=np.float32)
        self.want = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx").run(None, {"x": self.rows})[0]
            for name in MODELS
        }

    async def request(self) -> None:
        """One request of the mix."""
        self.sent += 1
        draw, row = self.chance.random(), self.chance.randrange(ROWS)
        # One in a hundred is for the model that comes and goes.
        model = "guest" if self.chance.random() < 0.05 else self.chance.choice(MODELS[:2])
        name = f"{self.sent}"
        over_grpc = self.chance.random() < 0.3
        try:
            if draw < 0.01:
                await (self.malformed_call() if over_grpc else self.malformed())
            elif draw < 0.06:
                await (self.cancelled_call if over_grpc else self.cancelled)(model, row, name)
            else:
                await (self.proper_call if over_grpc else self.proper)(model, row, name)
        except (OSError, asyncio.IncompleteReadError) as exc:
            self.seen["broken"] += 1
            self.wrong.append(f"{type(exc).__name__}: {exc}")
        self.done += 1

    def body(self, model: str, row: int, name: str) -> bytes:
        """JSON or binary, as it falls."""
        x = self.rows[row]
        tensor = {"name": "x", "shape": [1, 256], "datatype": "FP32"}
        timeout = {"timeout": 500_000}
        if self.chance.random() < 0.5:
            content = json.dumps(
                {"id": name, "parameters": timeout, "inputs": [{**tensor, "data": x.tolist()}]}
            ).encode()
            head = ""
        else:
            sized = {**tensor, "parameters": {"binary_data_size": x.nbytes}}
            top = json.dumps({"id": name, "parameters": timeout, "inputs": [sized]}).encode()
            content, head = top + x.tobytes(), f"Inference-Header-Content-Length: {len(top)}\r\n"
        return post(f"/v2/models/{model}/infer", content, head)

    async def connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that is free, and not for so long that the server may be ending it just now; or a new one."""
        while self.free and time.monotonic() - self.free[0][2] > _IDLE:
            self.free.popleft()[1].close()
        while self.free:
            reader, writer, _ = self.free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.host, self.port)

    async def answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection may be used again."""
        top = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(top.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(top[9:12]), await reader.readexactly(length), b"connection: close" not in top

    async def proper(self, model: str, row: int, name: str) -> None:
        """A good request: answered with what the bare engine answers, or refused with the right status."""
        reader, writer = await self.connection()
        writer.write(self.body(model, row, name))
        status, body, again = await self.answer(reader)
        self.free.append((reader, writer, time.monotonic())) if again else writer.close()
        self.seen[f"{'guest' if model == 'guest' else 'good'} {status}"] += 1
        if status == 200:
            told = json.loads(body)
            self.compare(model, row, name, told["id"], np.array(told["outputs"][0]["data"], np.float32))
        elif status not in ((404, 503) if model == "guest" else (503,)):
            self.wrong.append(f"{status} for a good request: {body[:100]!r}")

    def compare(self, model: str, row: int, name: str, told: str, got: np.ndarray[Any, Any]) -> None:
        """Whether an answer is that of its request, and the bare engine's."""
        if told != name or not np.allclose(got, self.want[model][row], rtol=1e-4, atol=1e-4):
            self.wrong.append(f"request {name} got the answer of {told}, or a wrong one")

    def message(self, model: str, row: int, name: str) -> Any:
        """A good request of gRPC."""
        request = schema.ModelInferRequest(model_name=model, id=name, raw_input_contents=[self.rows[row].tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 256])
        request.parameters["timeout"].int64_param = 500_000
        return request

    async def proper_call(self, model: str, row: int, name: str) -> None:
        """A good request over gRPC."""
        status = Status.OK
        try:
            answer = await self.call(self.message(model, row, name))
        except grpc.aio.AioRpcError as error:
            status = error.code()
            allowed = [Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, *([Status.NOT_FOUND] * (model == "guest"))]
            if status not in allowed:
                self.wrong.append(f"{status.name} for a good call: {error.details()}")
        else:
            self.compare(model, row, name, answer.id, np.frombuffer(answer.raw_output_contents[0], np.float32))
        self.seen[f"{'guest' if model == 'guest' else 'good'} {status.name}"] += 1

    async def malformed_call(self) -> None:
        """One over gRPC that can't be served."""
        short = self.message("one", 0, "")
        short.raw_input_contents[0] = b"short"
        kinds = {
            b"\xff\xff\xff": Status.INVALID_ARGUMENT,
            self.message("nobody", 0, "").SerializeToString(): Status.NOT_FOUND,
            short.SerializeToString(): Status.INVALID_ARGUMENT,
        }
        content, wanted = self.chance.choice(list(kinds.items()))
        try:
            await self.channel.unary_unary(_CALL)(content)
            status = Status.OK
        except grpc.aio.AioRpcError as error:
            status = error.code()
        self.seen[f"malformed {status.name}"] += 1
        if status is not wanted:
            self.wrong.append(f"{status.name} instead of {wanted.name} for {content[:60]!r}")

    async def cancelled_call(self, model: str, row: int, name: str) -> None:
        """A good request over gRPC that is taken back."""
        call = self.call(self.message(model, row, name))
        await asyncio.sleep(self.chance.random() * 0.01)
        call.cancel()
        self.seen["cancelled over gRPC"] += 1

    async def malformed(self) -> None:
        """One that can't be served; the status says so."""
        content, wanted = self.chance.choice(MALFORMED)
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(content)
        status, _, _ = await self.answer(reader)
        writer.close()
        self.seen[f"malformed {status}"] += 1
        if status != wanted:
            self.wrong.append(f"{status} instead of {wanted} for {content[:60]!r}")

    async def cancelled(self, model: str, row: int, name: str) -> None:
        """A good request whose client goes away."""
        _, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(self.body(model, row, name))
        await asyncio.sleep(self.chance.random() * 0.01)
        writer.close()
        self.seen["cancelled"] += 1

    async def capacity(self, seconds: float) -> float:
        """Good requests per second that 16 clients get answered."""
        end, before = time.monotonic() + seconds, self.seen["good 200"] + self.seen["good OK"]

        async def client() -> None:
            while time.monotonic() < end:
                over_grpc = self.chance.random() < 0.3
                ask = self.proper_call if over_grpc else self.proper
                await ask(self.chance.choice(MODELS[:2]), self.chance.randrange(ROWS), "0")

        await asyncio.gather(*(client() for _ in range(16)))
        return (self.seen["good 200"] + self.seen["good OK"] - before) / seconds

    async def crowd(self) -> None:
        """As many connections as ever, each of which asks once: what they leave in memory belongs to the warm-up."""

        async def client(turn: int) -> None:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            writer.write(self.body(MODELS[0], turn % ROWS, "0"))
            await self.answer(reader)
            came.append(writer)
            if len(came) == CONNECTIONS:
                everybody.set()
            await everybody.wait()
            writer.close()

        came: list[asyncio.StreamWriter] = []
        everybody = asyncio.Event()
        await asyncio.gather(*(client(turn) for turn in range(CONNECTIONS)))

    async def load(self, rate: float, seconds: float) -> None:
        """An open loop: requests come whether or not earlier ones are answered, as far as this client carries them."""
        start, tasks, places = time.monotonic(), set(), asyncio.Semaphore(CONNECTIONS)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            places.release()

        at = 0.0
        while at < seconds and time.monotonic() - start < seconds:
            at += self.chance.expovariate(rate)
            wait = start + at - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if places.locked():
                self.seen["held back"] += 1
            await places.acquire()
            task = asyncio.ensure_future(self.request())
            tasks.add(task)
            task.add_done_callback(ended)
        await asyncio.wait(tasks, timeout=30)

    async def come_and_go(self) -> None:
        """Load and unload the guest, and load another anew, again and again."""
        for turn in range(1 << 30):
            verb, model = (("unload", "guest"), ("load", "guest"), ("load", "one"))[turn % 3]
            reader, writer = await asyncio.open_connection(self.host, self.port)
            writer.write(post(f"/v2/repository/models/{model}/{verb}", b""))
            status, body, _ = await self.answer(reader)
            writer.close()
            self.seen[f"{verb} {status}"] += 1
            if status != 200:
                self.wrong.append(f"{verb} {model}: {status} {body[:100]!r}")
            await asyncio.sleep(1.0)
