"""Large answers over TLS as over plain connections: they count as long as they wait, and are whole for who reads."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from kernel_pieces import until
from serving_pieces import Running, body, held, serving, write_models
from serving_puppets import Blocked, works

MIB = 1 << 20
#: Of the answers, in bytes.
SIZE = 16 * MIB
ASKED = body([1, 4], [1.0] * 4)[:-1] + b', "parameters": {"binary_data_output": true}}'
HEAD = b"POST /v2/models/big/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
Connect = Callable[[], socket.socket]


@pytest.fixture(params=["plain", "tls"])
def answering(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[..., Any]:  # fmt: skip
    """A server whose model `big` gives 16 MiB, and what connects to it; nothing waits for a client in its kernel."""
    ca, settings = trustme.CA(), {}
    if request.param == "tls":
        own = ca.issue_cert("127.0.0.1")
        own.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
        own.private_key_pem.write_to_path(tmp_path / "server.key")
        settings = {"tls": {"certificate": str(tmp_path / "server.pem"), "key": str(tmp_path / "server.key")}}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    write_models(tmp_path / "models", {"big": ""})
    works["big.puppet"] = lambda inputs: {"y": np.zeros((1, SIZE // 4), np.float32)}

    @contextmanager
    def answering(**more: Any) -> Iterator[tuple[Running, Connect]]:
        with serving(tmp_path / "models", {"verify": context}, **settings, **more) as running:

            def connect() -> socket.socket:
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.settimeout(30)
                client.connect(("127.0.0.1", running.server.http_port))
                return context.wrap_socket(client, server_hostname="127.0.0.1") if settings else client

            yield running, connect

    return answering


def ask(client: socket.socket) -> None:
    client.sendall(HEAD % len(ASKED) + ASKED)


def read(client: socket.socket, most: int = 1 << 40) -> int:
    """Bytes that come: until so many, or all of an answer, or the end of the connection."""
    length = 0
    try:
        while length < min(most, SIZE + 100) and (block := client.recv(MIB)):
            length += len(block)
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return length


def test_answers_that_are_not_read_count(answering: Any) -> None:
    with answering(limits={"memory": "40MiB"}) as (running, connect):
        clients = [connect() for _ in range(6)]
        for client in clients:
            ask(client)
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert 16 * MIB <= held(running) <= 40 * MIB
        # Those that were too many are ended; who reads has his answer.
        assert sum(read(client) > SIZE for client in clients) == 2
        until(lambda: held(running) == 0)
        for client in clients:
            client.close()


def test_who_reads_steadily_is_not_cut_off(answering: Any) -> None:
    with answering(limits={"idle_timeout": "100ms"}) as (running, connect), connect() as client:
        ask(client)
        came = 0
        for _ in range(4):
            came += read(client, MIB)
            looks = running.server.front.looks
            while running.server.front.looks == looks:
                pass
        assert came + read(client) > SIZE


def test_the_end_of_the_server_cuts_no_answer(answering: Any) -> None:
    with answering() as (running, connect), connect() as client:
        ask(client)
        came = read(client, MIB)
        running.end()
        until(lambda: running.server.front.draining)
        assert came + read(client) > SIZE


def test_nor_one_that_comes_while_it_ends(answering: Any) -> None:
    with answering() as (running, connect), connect() as client:
        model = Blocked("big.puppet")
        work = works["big.puppet"]
        works["big.puppet"] = lambda inputs: {**work(inputs), "y": np.zeros((1, SIZE // 4), np.float32)}
        ask(client)
        model.entered.acquire()
        running.end()
        until(lambda: running.server.front.draining)
        model.go.set()
        assert read(client) > SIZE


def test_who_reads_nothing_holds_up_neither_the_end_nor_its_connection(answering: Any) -> None:
    # Little enough for the system to take all of it, and much for its buffer.
    works["big.puppet"] = lambda inputs: {"y": np.zeros((1, 5 << 17), np.float32)}
    with answering(drain="120s") as (running, connect), contextlib.ExitStack() as stack:
        for _ in range(4):
            ask(stack.enter_context(connect()))
        counted = running.server.repository.find("big").statistics
        until(lambda: running.on_loop(lambda: counted.counts().success.count) == 4)
        if running.server.settings.tls:
            until(lambda: running.on_loop(lambda: running.server.front.waiting) == 0)
            running.end()
            # `serving` waits for the end, and not for so long as the drain may take.
            until(lambda: running.loop.is_closed())
