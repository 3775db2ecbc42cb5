"""A server in a thread of this process, and a plugin whose models do what a test says."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2 as httpx
import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper

from deepseek.plugin import (
    ANY,
    Config,
    Engine,
    Executor,
    Loader,
    Model,
    Policy,
    Request,
    Settings,
    Share,
    Signature,
    Source,
    Tensors,
    TensorSpec,
    hookimpl,
)
from deepseek_serving.folder import Tree
from deepseek_serving.process import run_on_loop
from deepseek_serving.server import Server
from deepseek_serving.settings import ServerSettings

#: What a puppet's executor does, by the model file's name; tests put functions here.
works: dict[str, Callable[[Tensors], Mapping[str, Any]]] = {}


class PuppetSettings(Settings):
    chunks: int = 0
    shape: tuple[int, ...] = (ANY, 4)
    dtype: str = "float32"
    output: str = ""
    concurrency: int = 1


class PuppetExecutor:
    def __init__(self, path: Path, settings: PuppetSettings) -> None:
        self._name = path.name
        self.concurrency = settings.concurrency
        spec = TensorSpec("x", settings.dtype, tuple(settings.shape))
        self.signature = Signature(
            (spec,), (TensorSpec("y", settings.output or settings.dtype, tuple(settings.shape)),)
        )
        # A mistake in a file is an error of the build.
        if path.read_text() == "broken":
            raise RuntimeError("the puppet is broken")
        self._gift = path.read_text()

    def run(self, inputs: Tensors, shares: Sequence[Share]) -> dict[str, Any]:
        work = works.get(self._name)
        if work is not None and shares:
            return dict(work(inputs))
        if self._gift.startswith("add "):
            return {"y": inputs["x"] + np.float32(self._gift[4:])}
        return {"y": inputs["x"]}

    def close(self) -> None:
        pass


class Chunks:
    """A scheduler of a model that answers in parts: the smallest generator."""

    def __init__(self, executor: Executor, count: int) -> None:
        self._executor, self._count = executor, count

    def run(self, inputs: Tensors, share: Share) -> dict[str, Any]:
        return self._executor.run(inputs, (share,))

    def submit(self, request: Request) -> None:
        threading.Thread(target=self._answer, args=(request,), daemon=True).start()

    def _answer(self, request: Request) -> None:
        if not request.sink.start():
            return
        try:
            for step in range(1, self._count + 1):
                outputs = self.run(request.inputs, request.share)
                chunk = {name: value * step for name, value in outputs.items()}
                if not request.sink.put(chunk, last=step == self._count):
                    return
        except Exception as exc:
            request.sink.fail(exc)

    def close(self) -> None:
        pass


def puppet() -> ModuleType:
    """The plugin: loads files ending in ``.puppet``."""
    module = ModuleType("puppet")

    @hookimpl
    def sections() -> dict[str, type[Settings]]:
        return {"puppet": PuppetSettings}

    @hookimpl
    def load(source: Source) -> Loader | None:
        if source.path.suffix != ".puppet":
            return None
        return Loader("puppet", "puppet", lambda: Model("puppet", source.path, Signature()))

    @hookimpl
    def execute(config: Config) -> Engine:
        settings = config[PuppetSettings]
        return Engine("puppet", frozenset({"puppet"}), lambda model: PuppetExecutor(model.native, settings))

    @hookimpl
    def schedule(config: Config) -> Policy | None:
        chunks = config[PuppetSettings].chunks
        return Policy("chunks", lambda executors: Chunks(executors[0], chunks)) if chunks else None

    module.__dict__.update(sections=sections, load=load, execute=execute, schedule=schedule)
    return module


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


class Blocked:
    """A puppet that waits in its executor until it is let go."""

    def __init__(self, name: str) -> None:
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.runs: list[float] = []
        works[name] = self.work

    def work(self, inputs: Any) -> Any:
        self.runs.append(float(inputs["x"][0, 0]))
        self.entered.release()
        assert self.go.wait(60)
        return {"y": inputs["x"]}


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
def serving(folder: Path, client: Mapping[str, Any] | None = None, **settings: Any) -> Iterator[Running]:
    """Serve a folder of models until the block ends."""
    import msgspec

    given = {"http": {"port": 0}, "grpc": {"port": 0}, **settings}
    from deepseek.plugin import read_settings

    parsed = read_settings({"server": given}, "server", ServerSettings)
    assert isinstance(msgspec.to_builtins(parsed.host), str)
    started: Future[Running] = Future()
    ended = threading.Thread(
        target=run_on_loop, args=(_serve(parsed, folder, started, dict(client or {})),), daemon=True
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


async def _serve(settings: ServerSettings, folder: Path, started: Future[Running], client: dict[str, Any]) -> None:
    server = Server(settings, Tree(folder, settings), plugins=[puppet()])
    try:
        await server.start()
        running = Running(server, asyncio.get_running_loop(), **client)
        started.set_result(running)
        await running.stop.wait()
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
