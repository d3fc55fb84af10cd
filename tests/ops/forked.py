"""Processes of an application that are forked, stopped and killed, and say what they serve."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import ROOT
from tests.support.waiting import SOON_SECONDS

#: Seconds without a report after which a host counts as silent.
SILENT_SECONDS = 1.0


@dataclass
class Process:
    """One process of the application.

    :ivar host_id: the id under which its host is known to the others
    :ivar last: what it served when it was asked last, which a stopped one keeps serving
    """

    pid: int
    host: str
    host_id: str
    release: str
    stream: Any
    connection: socket.socket
    is_stopped: bool = False
    children: list[int] = field(default_factory=list)
    last: list[Any] = field(default_factory=list)

    def ask(self, what: str, **arguments: object) -> Any:
        """Return the answer to a question."""
        self.stream.write(json.dumps({"ask": what, **arguments}) + "\n")
        self.stream.flush()
        try:
            answer = self.stream.readline()
        except TimeoutError:
            pytest.fail(f"pid {self.pid} does not answer {what}")
        assert answer, f"pid {self.pid} died"
        return json.loads(answer)

    def serves(self) -> list[Any]:
        """Return the stamp and the size that it serves, and whether it refuses a value."""
        if not self.is_stopped:
            self.last = self.ask("serves")
        return self.last


class Zygote:
    """The program that forks processes, each of which answers on a socket of its own."""

    def __init__(self, directory: Path) -> None:
        self.lock = threading.Lock()
        self.paths = (directory / str(number) for number in itertools.count())
        self.program = subprocess.Popen(
            [sys.executable, "-m", "tests.apps.zygote", str(SILENT_SECONDS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(
        self,
        host: str,
        release: str,
        directory: Path,
        config: dict[str, Any],
        unblock: Callable[[], None],
    ) -> Process:
        """Start a process, and return it once it is reported."""
        wanted = {"release": release, "directory": str(directory), "config": config}
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(SOON_SECONDS / 3)
            with self.lock:
                path = str(next(self.paths))
                server.bind(path)
                server.listen()
                self.program.stdin.write(json.dumps({**wanted, "socket": path}) + "\n")
                self.program.stdin.flush()
                pid = int(self.program.stdout.readline())
            try:
                connection, _ = server.accept()
            except TimeoutError:
                unblock()  # a stopped process may hold a lock that the new one needs
                connection, _ = server.accept()
        connection.settimeout(SOON_SECONDS)
        stream = connection.makefile("rw")
        host_id = stream.readline().strip()
        return Process(pid, host, host_id, release, stream, connection)

    def close(self) -> None:
        """End the program."""
        self.program.terminate()
        self.program.wait(SOON_SECONDS)
        for pipe in (self.program.stdin, self.program.stdout):
            assert pipe is not None
            pipe.close()
