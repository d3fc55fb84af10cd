"""A network between the test and a server, on which everything takes its time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["distant", "silent_name_server"]


@contextlib.contextmanager
def distant(port: int, round_trip_seconds: float) -> Iterator[int]:
    """Give a port behind which *port* of 127.0.0.1 is so far away, connections included."""
    end = threading.Event()
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def start(*arguments: socket.socket) -> None:
        target = carry if len(arguments) > 1 else connect
        threads.append(threading.Thread(target=target, args=arguments))
        threads[-1].start()

    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                end.wait(round_trip_seconds / 2)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def connect(near: socket.socket) -> None:
        # The kernel has accepted it at once; a server that far away would have taken this long.
        end.wait(round_trip_seconds)
        with contextlib.suppress(OSError):
            far = socket.create_connection(("127.0.0.1", port))
            sockets.append(far)
            start(near, far)
            start(far, near)

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                sockets.append(server.accept()[0])
                start(sockets[-1])

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server.getsockname()[1]
        finally:
            end.set()
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            while threads:
                for one in sockets:
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
                threads.pop(0).join()
            for one in sockets:
                one.close()


@contextlib.contextmanager
def silent_name_server(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """Have nothing answer who *name* is, until the end."""
    end = threading.Event()
    resolve = socket.getaddrinfo

    def wait_for_an_answer(host: str, *arguments: Any, **options: Any) -> Any:
        if host == name:
            end.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", wait_for_an_answer)
        try:
            yield
        finally:
            end.set()
