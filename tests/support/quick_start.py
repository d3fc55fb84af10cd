"""Programs that start in milliseconds, forked from a Python that has loaded the libraries."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support.soak import is_soak

__all__ = ["Finished", "Forked", "Process", "run", "start"]

#: A pid, or an exit status.
_NUMBER = struct.Struct("i")
_OPTIONS = frozenset({"-c", "-m"})


class Forked:
    """A program that was forked: what tests use of a `subprocess.Popen`."""

    def __init__(self, request: Mapping[str, Any], files: Sequence[int]) -> None:
        """Start it, with *files* as its standard ones."""
        self.args: Sequence[str] = request["command"]
        self.returncode: int | None = None
        self._told, telling = os.pipe()
        try:
            message = json.dumps(request).encode()
            socket.send_fds(_loaded_python(), [message], [*files, telling])
        finally:
            os.close(telling)
        self.pid = self._number()

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once there is one.

        :raises subprocess.TimeoutExpired: there is none after *timeout* seconds
        """
        status = self._look(None if timeout is None else timeout * 1000)
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, milliseconds: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._told, select.POLLIN)
            if poll.poll(milliseconds):
                self.returncode = os.waitstatus_to_exitcode(self._number())
                os.close(self._told)
        return self.returncode

    def _number(self) -> int:
        received = os.read(self._told, _NUMBER.size)
        assert received, "the Python that starts programs has ended"
        return int(_NUMBER.unpack(received)[0])


Process = subprocess.Popen[bytes] | Forked


def start(  # noqa: PLR0913  # as many as a process has
    command: Sequence[str],
    *,
    stdin: int | IO[Any],
    stdout: int | IO[Any],
    stderr: int | IO[Any] | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    user: str | None = None,
    new_session: bool = False,
    quick: bool = True,
) -> Process:
    """Start a program: a `python ...` by a fork, anything else as ever.

    All are started as ever in a soak, and in a benchmark, which is outside pytest.
    What differs in one that was forked: libraries are there before it imports them, its hashes are
    those of all others, ``/proc/PID/cmdline`` does not name it, and it has not the namespaces and
    limits of the thread that starts it, but those that the tests began with.

    :param stderr: that of the tests if it is None
    :param user: who runs it, who runs the tests if it is None
    :param quick: False for a program of which such things are tested
    """
    request = _request(command, environment, directory) if quick and user is None else None
    if request is None:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=directory,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            start_new_session=new_session,
        )
    request["new_session"] = new_session
    files = [stdin, stdout, 2 if stderr is None else stderr]
    return Forked(request, [file if isinstance(file, int) else file.fileno() for file in files])


@dataclass(frozen=True)
class Finished:
    """A program that has ended."""

    status: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        """What it has printed, as JSON."""
        return json.loads(self.output)


def run(  # noqa: PLR0913  # as much as a command has
    command: Sequence[str],
    *,
    seconds: float,
    typed: str = "",
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    quick: bool = True,
) -> Finished:
    """Run a program to its end, as :func:`start` does, *typed* on its standard input.

    :raises subprocess.TimeoutExpired: it has not ended after *seconds*, and was killed
    """
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        stdin.write(typed.encode())
        stdin.seek(0)
        process = start(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            environment=environment,
            directory=directory,
            quick=quick,
        )
        try:
            status = process.wait(seconds)
        finally:
            process.kill()
            process.wait()
        stdout.seek(0)
        stderr.seek(0)
        return Finished(status, stdout.read().decode(), stderr.read().decode())


def _request(
    command: Sequence[str], environment: Mapping[str, str] | None, directory: Path | None
) -> dict[str, Any] | None:
    """Return what to ask for, or None where a fork would not be true to the command."""
    environment = dict(os.environ if environment is None else environment)
    in_tests = (
        "PYTEST_VERSION" in os.environ and not is_soak()
    )  # nor are there forks in a benchmark
    is_plain = command[0] == sys.executable and _of_python(environment) == _of_python()
    if not (in_tests and is_plain):
        return None
    rest = list(command[1:])
    warnings = []
    while rest[0] == "-W":
        warnings.append(rest[1])
        del rest[:2]
    kind = rest.pop(0) if rest[0] in _OPTIONS else ""
    if rest[0].startswith("-"):
        return None
    directory = Path.cwd() if directory is None else directory
    first_path = {"-c": "", "-m": str(directory), "": str(Path(rest[0]).parent)}[kind]
    return {
        "command": list(command),
        "environment": environment,
        "directory": str(directory),
        "warnings": warnings,
        "kind": kind,
        "what": rest[0],
        "arguments": ["-c" if kind == "-c" else rest[0], *rest[1:]],
        "first_path": first_path,
    }


def _of_python(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that Python itself reads at its start, but for the path."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("PYTHON") and name != "PYTHONPATH"
    }


@functools.cache
def _loaded_python() -> socket.socket:
    """Start it, once in each process of the tests, and return where it is asked."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with its:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("loaded_python.py"))],
            stdin=its.fileno(),
            env=environment,
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
