"""The sections `server` (the process) and `serving` (how one pipeline is served)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from deepseek.plugin import Duration, Settings, Size, read_settings

Port = Annotated[int, Meta(ge=0, le=65535)]


class HttpSettings(Settings):
    """HTTP/1.1."""

    port: Annotated[Port, Meta(description="Where to listen; 0: any free port, which is printed.")] = 8000
    compress: Annotated[
        bool, Meta(description="JSON answers of 1 to 128 KiB are compressed for clients that accept it.")
    ] = True


class GrpcSettings(Settings):
    """gRPC."""

    port: Annotated[Port, Meta(description="Where to listen; 0: any free port, which is printed.")] = 8001
    carrier: Annotated[
        Literal["native", "grpcio"],
        Meta(description="What speaks HTTP/2: the server itself, or the official library, which is slower."),
    ] = "native"


class LimitSettings(Settings):
    """What a client may ask of the server at most."""

    body: Annotated[Size, Meta(description="Bytes of a request, unpacked.")] = Size(64 << 20)
    json: Annotated[
        Size,
        Meta(description="Bytes of JSON in a request: while they are read nothing else is. More go as binary tensors."),
    ] = Size(16 << 20)
    memory: Annotated[Size, Meta(description="Bytes of all requests that are being read or answered.")] = Size(1 << 30)
    head: Annotated[Size, Meta(description="Bytes of a request's line and headers.")] = Size(64 << 10)
    connections: Annotated[int, Meta(ge=1, description="Open connections; beyond, they are refused.")] = 4096
    read_timeout: Annotated[
        Duration, Meta(description="A request must be complete this long after its first byte.")
    ] = Duration(30.0)
    idle_timeout: Annotated[Duration, Meta(description="A connection without a request is closed after this.")] = (
        Duration(75.0)
    )


class TlsSettings(Settings):
    """Encryption, for both protocols."""

    certificate: Annotated[Path, Meta(description="The server's certificate chain, PEM.")]
    key: Annotated[Path, Meta(description="Its private key, PEM.")]
    client_ca: Annotated[
        Path | None, Meta(description="Clients must show a certificate of this authority (mutual TLS).")
    ] = None


class TracingSettings(Settings):
    """Traces for OpenTelemetry."""

    endpoint: Annotated[str, Meta(pattern="^https?://.+", description="Where spans go, OTLP over HTTP.")] = (
        "http://localhost:4318/v1/traces"
    )
    rate: Annotated[
        int, Meta(ge=1, description="One of so many requests is traced; those whose caller traces them always are.")
    ] = 1
    service: Annotated[str, Meta(description="The service's name in the traces.")] = "deepseek"


class VersionSettings(Settings):
    """Which versions of a model are served; one of the three, the highest alone where nothing is said."""

    latest: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="The N highest; nothing said: 1.")] = None
    all: Annotated[bool, Meta(description="All that are there.")] = False
    specific: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(description="These.")] = []

    def __post_init__(self) -> None:
        if sum(map(bool, (self.latest, self.all, self.specific))) > 1:
            raise ValueError("`latest`, `all` and `specific` exclude one another")

    def pick(self, found: list[int]) -> list[int]:
        """The versions to serve, ascending."""
        if self.all:
            return sorted(found)
        if self.specific:
            return sorted(set(found) & set(self.specific))
        return sorted(found)[-(self.latest or 1) :]


class ServerSettings(Settings):
    """The server process. In the pipeline's file, or for a folder of pipelines in its `server.yaml`."""

    host: Annotated[str, Meta(description="The address to listen on; `0.0.0.0`: every one.")] = "127.0.0.1"
    hosts: Annotated[
        list[str],
        Meta(description="Names that the server is asked by, when it listens for this machine alone (a proxy's)."),
    ] = []
    workers: Annotated[
        int, Meta(ge=1, le=256, description="Processes that share the port; each loads every model.")
    ] = 1
    http: Annotated[HttpSettings, Meta(description="HTTP.")] = HttpSettings()
    grpc: Annotated[GrpcSettings | None, Meta(description="gRPC; null: none.")] = GrpcSettings()
    limits: Annotated[LimitSettings, Meta(description="What a client may ask for.")] = LimitSettings()
    tls: Annotated[TlsSettings | None, Meta(description="Encryption; omitted: none.")] = None
    keys: Annotated[
        Path | None, Meta(description="File of API keys (`deepseek keys`); omitted: whoever can connect may ask.")
    ] = None
    allow: Annotated[
        list[Literal["load", "settings", "shared_memory"]],
        Meta(description="Administrative calls that the network may make; with keys, those of administrators alone."),
    ] = []
    versions: Annotated[VersionSettings, Meta(description="Which versions of every model are served.")] = (
        VersionSettings()
    )
    models: Annotated[dict[str, VersionSettings], Meta(description="The same for single models, by their names.")] = {}
    watch: Annotated[
        Duration, Meta(description="Look for changes in the folder this often, and load them; 0: never.")
    ] = Duration(0.0)
    stall: Annotated[
        Duration,
        Meta(
            description="A model that has requests and answers none for so long is not ready, and is loaded anew;"
            " 0: never."
        ),
    ] = Duration(60.0)
    loading: Annotated[
        Duration, Meta(description="A model whose loading and warm-up take longer is given up; 0: none.")
    ] = Duration(600.0)
    inline: Annotated[
        Duration,
        Meta(
            description="Models that take no longer are executed on the event loop, without a hop to another"
            " thread; 0: none."
        ),
    ] = Duration(50e-6)
    drain: Annotated[
        Duration, Meta(description="When asked to end: how long requests in flight may take to finish.")
    ] = Duration(30.0)
    tracing: Annotated[TracingSettings | None, Meta(description="Traces; omitted: none.")] = None
    access_log: Annotated[bool, Meta(description="One line of JSON on standard error for each request.")] = False


class ServingSettings(Settings):
    """How this pipeline is served."""

    timeout: Annotated[
        Duration, Meta(description="Deadline of requests that state none; 0: they wait as long as it takes.")
    ] = Duration(0.0)
    warmup: Annotated[int, Meta(ge=0, description="Runs before the model is ready.")] = 3
    warmup_shapes: Annotated[
        dict[str, list[Annotated[int, Meta(ge=0)]]],
        Meta(description="Shapes of the inputs of these runs; omitted: 1 where a size is open."),
    ] = {}


def to_plain(settings: ServerSettings) -> Any:
    """Settings as a message to another process has them: numbers, texts, lists and mappings."""

    def plain(value: object) -> object:
        if isinstance(value, Duration):
            return f"{float(value)!r}s"
        return int(value) if isinstance(value, Size) else str(value)

    return msgspec.to_builtins(settings, enc_hook=plain)


def from_plain(plain: Any) -> ServerSettings:
    """The settings that `to_plain` was given."""
    return read_settings({"server": plain}, "server", ServerSettings)
