"""A real uWSGI, from an ini file as it stands or from options that a test writes down."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.support.availability import require
from tests.support.http import Response, request
from tests.support.places import ROOT
from tests.support.processes import START_SECONDS, STOP_SECONDS, LocalServer, free_ports, is_alive
from tests.support.soak import is_soak
from tests.support.waiting import wait_until

#: "spawned uWSGI mule 1 (pid: 4711)". The stats know workers and spoolers, but no mules.
MULE_LINE = re.compile(r"spawned uWSGI mule (\d+) \(pid: (\d+)\)")

#: An ini's options: a list gives one line for each value, None leaves a default out.
Options = Mapping[str, "str | int | bool | Path | Sequence[str | int | Path] | None"]


@functools.cache
def uwsgi_command(python: str = sys.executable) -> tuple[str, ...]:
    """Return how to start uWSGI: `$UWSGI` if it is set, else the one of this environment.

    :param python: which Python it embeds
    """
    beside_us = Path(sys.executable).parent
    candidates = [Path(os.environ.get("UWSGI", beside_us / "uwsgi")), beside_us / "pyuwsgi"]
    binary = next((path for path in candidates if path.exists()), None)
    require(binary, "uWSGI (pip install pyuwsgi)")
    assert binary is not None
    with binary.open("rb") as file:
        is_script = file.read(2) == b"#!"
    # pyuwsgi, a Python script, cannot find what to start at a reload; see the Makefile.
    if is_script:
        return python, str(binary), "--binary-path", python
    # One of the system's knows nothing of the environment.
    is_beside_us = binary.parent == beside_us
    return (str(binary), *(() if is_beside_us else ("--virtualenv", str(Path(python).parents[1]))))


class UwsgiServer(LocalServer):
    """A uWSGI instance, at one socket or several."""

    name: ClassVar[str] = "uwsgi"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(
        self,
        config: Path | Options | Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        ports: int = 1,
        ready_path: str | None = "/",
    ) -> None:
        """Choose what to start; nothing runs yet.

        :param config: an ini file of `uwsgi_configs/`, which binds `WAFFLE_DEMO_ADDRESS`; or
            options, or lines, of an ini file to be written. They get `master = true` unless they
            set it, the repository on the Python path, and the sockets
        :param environment: added to the environment of this process
        :param arguments: added to the command line
        :param ports: how many sockets; `port` is the first of `ports`
        :param ready_path: what has to answer, with a status below 500, before `start` returns;
            ``None``: it is enough that the socket takes connections
        """
        super().__init__()
        self.ports = [self.port, *free_ports(ports - 1)]
        self.environment = dict(environment or {})
        self.ready_path = ready_path
        #: That of the environment in which the app runs.
        self.python = Path(sys.executable)
        #: Where Python finds the app.
        self.python_path = ROOT
        #: Whether it may be a fork, as :func:`quick_start.start` describes: not where gevent
        #: patches the standard library before the app imports other libraries.
        self.quick = "gevent" not in str(config)
        self._arguments = list(arguments)
        self._config = config
        self._stats_path = self.directory / "stats.sock"
        self._fifo_path = self.directory / "master.fifo"

    # Start and end

    def command(self) -> list[str]:
        """Return the command that runs the instance in the foreground."""
        watching = ("--stats", str(self._stats_path), "--master-fifo", str(self._fifo_path))
        return [
            *uwsgi_command(str(self.python)),
            "--ini",
            str(self._ini_path()),
            *watching,
            *self._arguments,
        ]

    def whole_environment(self) -> dict[str, str]:
        """Return the environment of the process."""
        # What a developer has exported for the demo must not reach the tests.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("WAFFLE_")}
        return {
            **inherited,
            "PYTHONPATH": str(self.python_path),
            "VIRTUAL_ENV": str(self.python.parents[1]),
            "WAFFLE_DEMO_ADDRESS": f"127.0.0.1:{self.port}",
            **self.environment,
        }

    def close(self) -> None:
        """End the instance and remove its directory.

        It is killed, since at an orderly end each process takes Python apart piece by piece; that
        takes as long as its start. Only so, however, does it write down what it has covered.
        """
        if is_soak() or "COVERAGE_RUN" in os.environ:
            self.stop()
        super().close()

    def __exit__(self, *failure: object) -> None:
        if failure[0] is not None:
            print(self.log())  # noqa: T201  pytest shows it with the failure
        super().__exit__(*failure)

    # Ask

    def get(self, path: str = "/", *, port: int | None = None, **options: Any) -> Response:
        """Send a GET; *options* are those of `request`."""
        return request("GET", path, port=port or self.port, **options)

    def post(self, path: str, json: object = None, **options: Any) -> Response:
        """Send a POST, with *json* as its body or `form=`; *options* are those of `request`."""
        return request("POST", path, port=options.pop("port", self.port), json=json, **options)

    def stats(self) -> dict[str, Any]:
        """Return the master's statistics."""
        received = bytearray()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(str(self._stats_path))
            while part := connection.recv(65536):
                received += part
        stats: dict[str, Any] = json.loads(received)
        return stats

    # Its processes

    @property
    def master_pid(self) -> int:
        """The pid of the master, which a reload does not change."""
        return self.pid

    def pids(self) -> list[int]:
        """Return the pid of every process of the instance."""
        return self.process.pids()

    def worker_pids(self) -> list[int]:
        """Return the pids of the live workers, in the order of their numbers."""
        if not self._has_master():
            return self.pids()  # a process without a master is the worker itself
        # While the master starts anew, nothing listens there.
        stats = wait_until(self.stats, START_SECONDS, "the master gives its stats")
        pids = [worker["pid"] for worker in stats["workers"] if worker["status"] != "cheap"]
        return [pid for pid in pids if pid > 0 and is_alive(pid)]

    def mule_pids(self) -> list[int]:
        """Return the pids of the live mules, in the order of their numbers."""
        newest = {int(number): int(pid) for number, pid in MULE_LINE.findall(self.log())}
        ours = set(self.pids())
        return [pid for _, pid in sorted(newest.items()) if pid in ours]

    # Its reloads

    def reload(self) -> None:
        """Reload everything (SIGHUP), and return when only new workers are left."""
        before = self.worker_pids()
        self.process.send(signal.SIGHUP)
        self.wait_until_replaced(before)

    def fifo(self, command: str) -> None:
        """Give the master a command, such as "c" for a chain reload; returns at once."""
        descriptor = os.open(self._fifo_path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, command.encode())
        finally:
            os.close(descriptor)

    def wait_until_replaced(self, before: Sequence[int]) -> None:
        """Return when as many other workers serve as were *before*."""

        def replaced() -> bool:
            assert self.running, "uWSGI died"
            now = self.worker_pids()
            return len(now) >= len(before) and not set(now) & set(before)

        wait_until(replaced, START_SECONDS + STOP_SECONDS, "new workers serve")
        self.wait_until_ready()

    def answers(self) -> bool:
        """Whether the instance answers and every worker serves."""
        if self.ready_path is None:
            socket.create_connection(("127.0.0.1", self.port), timeout=5.0).close()
        elif self.get(self.ready_path).status >= 500:
            return False
        # A worker that still loads its app is deaf to a reload, and would hold it up.
        return not self._has_master() or all(
            worker["accepting"] for worker in self.stats()["workers"] if worker["status"] != "cheap"
        )

    def _has_master(self) -> bool:
        return "spawned uWSGI master process" in self.log()

    def _ini_path(self) -> Path:
        if isinstance(self._config, Path):
            return self._config
        lines = list(ini_lines(self._config) if isinstance(self._config, Mapping) else self._config)
        if not any(re.match(r"master\s*=", line) for line in lines):
            lines.append("master = true")
        lines.append(f"pythonpath = {self.python_path}")
        lines += [f"http-socket = 127.0.0.1:{port}" for port in self.ports]
        path = self.directory / "uwsgi.ini"
        path.write_text("\n".join(["[uwsgi]", *lines, ""]))
        return path


def ini_lines(options: Options) -> list[str]:
    """Return *options* as the lines of an ini file."""
    lines = []
    for name, value in options.items():
        several = isinstance(value, (list, tuple))
        for one in value if several else [value]:  # type: ignore[union-attr]
            if one is not None:
                text = str(one).lower() if isinstance(one, bool) else str(one)
                lines.append(f"{name} = {text}")
    return lines
