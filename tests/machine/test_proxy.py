"""The link does what a test makes it do."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.machine.proxy import Proxy, Way


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(1000):
                self.server.heard.append(data)  # type: ignore[attr-defined]
                self.request.sendall(data)


@pytest.fixture
def heard() -> list[bytes]:
    return []


@pytest.fixture
def proxy(heard: list[bytes]) -> Iterator[Proxy]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        server.heard = heard  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with Proxy(server.server_address[1]) as made:
            yield made
        server.shutdown()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), 5.0) as connection:
        connection.sendall(b"first")
        assert connection.recv(100) == b"first"
        yield connection


@pytest.mark.parametrize(("ways", "arrives"), [((), False), (("there",), False), (("back",), True)])
def test_what_is_cut_arrives_once_the_link_is_mended(
    proxy: Proxy, client: socket.socket, heard: list[bytes], ways: tuple[Way, ...], arrives: bool
) -> None:
    proxy.cut(*ways)
    client.sendall(b"second")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(100)
    assert (b"second" in heard) is arrives
    proxy.heal()
    client.settimeout(5.0)
    assert client.recv(100) == b"second"


def test_a_delay_is_added_in_each_way(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.1)
    began = time.monotonic()
    client.sendall(b"slow")
    assert client.recv(100) == b"slow"
    assert time.monotonic() - began >= 0.2


def test_a_reset_breaks_connections_and_lets_new_ones_through(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    with socket.create_connection(("127.0.0.1", proxy.port), 5.0) as another:
        another.sendall(b"again")
        assert another.recv(100) == b"again"


def test_a_link_that_refuses_is_mended(proxy: Proxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), 5.0)
    proxy.heal()
    with socket.create_connection(("127.0.0.1", proxy.port), 5.0) as another:
        another.sendall(b"again")
        assert another.recv(100) == b"again"
