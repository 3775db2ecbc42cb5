"""A server in a thread of this process, and folders of models for it."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper

from deepseek_serving.folder import Tree
from deepseek_serving.process import run_on_loop
from deepseek_serving.server import Server
from deepseek_serving.settings import ServerSettings
from serving_puppets import puppet


class Running:
    """A server that runs, seen from outside.

    Attributes:
        url: of HTTP, without a slash at its end.
        grpc: ``host:port`` of gRPC.
        server: the object, which lives on `loop`.
        http: a client.
    """

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, **client: Any) -> None:
        scheme = "https" if server.settings.tls else "http"
        self.server, self.loop = server, loop
        self.stop = asyncio.Event()
        self.address = f"127.0.0.1:{server.http_port}"
        self.url = f"{scheme}://{self.address}"
        self.grpc = f"127.0.0.1:{server.grpc_port}"
        self.http = httpx.Client(base_url=self.url, timeout=30, **client)

    def end(self) -> None:
        """Ask the server to end, as SIGTERM does."""
        with suppress(RuntimeError):
            # Unless it has ended.
            self.loop.call_soon_threadsafe(self.stop.set)

    def on_loop(self, work: Callable[[], Any]) -> Any:
        """Call a function, or await a coroutine's, on the server's loop."""

        async def call() -> Any:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(30)

    def infer(self, model: str, x: Any, **more: Any) -> httpx.Response:
        """Ask a model whose input is ``x`` of FP32, over JSON."""
        array = np.asarray(x, np.float32)
        body = {
            "inputs": [{"name": "x", "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}]
        }
        return self.http.post(f"/v2/models/{model}/infer", json={**body, **more})


def later(running: Running, value: float, **more: Any) -> Future[Any]:
    """Ask the model `slow` from another thread."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(running.infer, "slow", [[value] * 4], **more)
    pool.shutdown(wait=False)
    return future


def held(running: Running) -> int:
    """Bytes of bodies and answers that count."""
    memory = running.server.memory
    found: int = running.on_loop(lambda: memory.take(0) or memory.held)
    return found


def write_models(folder: Path, models: Mapping[str, Any]) -> None:
    """Pipelines of puppets (by their settings) and of ONNX identities (by their shape), as a folder of models."""
    for name, what in models.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if isinstance(what, str):
            (place / f"{name.replace('/', '-')}.puppet").write_text(what)
            pipeline: dict[str, Any] = {"model": f"{name.replace('/', '-')}.puppet"}
        elif "onnx" in what:
            identity(place / "model.onnx", **what["onnx"])
            pipeline = {"model": "model.onnx", **{key: value for key, value in what.items() if key != "onnx"}}
        else:
            (place / f"{name.replace('/', '-')}.puppet").write_text("")
            pipeline = {"model": f"{name.replace('/', '-')}.puppet", **what}
        (place / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))


def identity(path: Path, datatype: str = "FLOAT", shape: Sequence[Any] = ("batch", 16)) -> None:
    """An ONNX model that gives its input back."""
    kind = getattr(TensorProto, datatype)
    x, y = (helper.make_tensor_value_info(name, kind, list(shape)) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@contextmanager
def serving(
    folder: Path, client: Mapping[str, Any] | None = None, *, early: bool = False, **settings: Any
) -> Iterator[Running]:  # fmt: skip
    """Serve a folder of models until the block ends, which begins when they are loaded, or (`early`) when it listens."""
    import msgspec

    given = {"http": {"port": 0}, "grpc": {"port": 0}, **settings}
    from deepseek.plugin import read_settings

    parsed = read_settings({"server": given}, "server", ServerSettings)
    assert isinstance(msgspec.to_builtins(parsed.host), str)
    started: Future[Running] = Future()
    ended = threading.Thread(
        target=run_on_loop, args=(_serve(parsed, folder, started, dict(client or {}), early),), daemon=True
    )
    ended.start()
    running = started.result(60)
    try:
        yield running
    finally:
        running.http.close()
        running.end()
        ended.join(60)
        assert not ended.is_alive()


async def _serve(
    settings: ServerSettings, folder: Path, started: Future[Running], client: dict[str, Any], early: bool
) -> None:
    server = Server(settings, Tree(folder, settings), plugins=[puppet()])

    def begin() -> None:
        started.set_result(Running(server, asyncio.get_running_loop(), **client))

    try:
        await server.start(live=begin if early else None)
        if not early:
            begin()
        await started.result().stop.wait()
    except BaseException as exc:
        if not started.done():
            started.set_exception(exc)
        raise
    finally:
        await server.stop()


@contextmanager
def triton_client(module: Any, address: str, **more: Any) -> Iterator[Any]:
    """One of Triton's clients. The HTTP one must end on the thread that made it, not wherever garbage is collected."""
    client = module.InferenceServerClient(address, **more)
    try:
        yield client
    finally:
        client.close()
        del client
        gc.collect()


def body(shape: Sequence[int], data: Any, datatype: str = "FP32", name: str = "x", **more: Any) -> bytes:
    """The JSON of a request with one input."""
    return json.dumps(
        {"inputs": [{"name": name, "shape": list(shape), "datatype": datatype, "data": data, **more}]}
    ).encode()
