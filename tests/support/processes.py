"""Processes that a test starts, and ends whatever happens: by pid, with all their descendants."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests.support import quick_start
from tests.support.lifecycle import Started
from tests.support.waiting import wait_until

#: A server that has not answered, or not ended, by then never does.
START_SECONDS = 30.0
STOP_SECONDS = 15.0

#: Where servers are put; Linux gives clients ports from 32768 on, and would give one of the many
#: connections that the tests make a port before the server that it was chosen for has it.
SERVER_PORTS = range(10_000, 32_000)
#: How many of them a process of the tests has for itself.
OWN_PORTS = 200


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return *count* different ports of 127.0.0.1 that nothing listens on."""
    with contextlib.ExitStack() as held:
        return [_bound_port(held) for _ in range(count)]


def _bound_port(held: contextlib.ExitStack) -> int:
    """Return the next port that can be bound, and keep it bound."""
    while True:
        probe = held.enter_context(socket.socket())
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", next(_own_ports())))
            return int(probe.getsockname()[1])


@functools.cache
def _own_ports() -> Iterator[int]:
    """Go round the ports that no other process of tests takes while this one runs."""
    for start in random.sample(SERVER_PORTS[::OWN_PORTS], len(SERVER_PORTS) // OWN_PORTS):
        lock = os.open(
            Path(tempfile.gettempdir()) / f"waffle-ports-{start}", os.O_CREAT | os.O_RDWR
        )
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
            return itertools.cycle(range(start, start + OWN_PORTS))
        os.close(lock)
    message = "other tests have all ports"
    raise AssertionError(message)


def process_state(pid: int) -> tuple[str, int, int] | None:
    """Return (state letter, parent's pid, session) of a process, or None if it does not exist."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may hold anything, even ")".
    state, parent, _group, session = stat.rpartition(")")[2].split()[:4]
    return state, int(parent), int(session)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is more than a zombie."""
    state = process_state(pid)
    return state is not None and state[0] not in {"Z", "X"}


class ServerProcess:
    """A child process that leads a session, so that its descendants are found even as orphans."""

    def __init__(  # noqa: PLR0913  # as many as a process has
        self,
        command: Sequence[str],
        *,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        user: str | None = None,
        quick: bool = False,
    ) -> None:
        """Start *command*, its output appended to *log_path*, as *user* if one is given.

        :param quick: whether it may be a fork, as :func:`quick_start.start` describes
        """
        self.log_path = log_path
        with log_path.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            self._process = quick_start.start(
                command,
                stdin=nothing,
                stdout=log,
                stderr=log,
                environment=environment,
                directory=directory,
                user=user,
                new_session=True,
                quick=quick,
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process that was started still runs."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status of the process that was started, once it has ended."""
        return self._process.poll()

    def pids(self) -> list[int]:
        """Return the pid of every live process of the session."""
        candidates = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in candidates if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        state = process_state(pid)
        return state is not None and state[0] not in {"Z", "X"} and state[2] == self.pid

    def children(self) -> list[int]:
        """Return the pid of every live child of the process that was started."""
        tasks = Path(f"/proc/{self.pid}/task")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found = [path.read_text() for path in tasks.glob("*/children")]
            return sorted(pid for pid in map(int, " ".join(found).split()) if is_alive(pid))
        return []

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to the process that was started."""
        self._process.send_signal(signal_number)

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the process to end, and kill what is left of the session after the deadline."""
        if self.running:
            # A stopped process would sleep through the request.
            self.send(signal.SIGCONT)
            self.send(signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill every process of the session at once."""
        wait_until(self._kill_round, STOP_SECONDS, f"the processes of session {self.pid} ended")

    def _kill_round(self) -> bool:
        # In rounds: a master may fork another worker while we look.
        left = self.pids()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not self.running and not left


class LocalServer(Started):
    """A server on 127.0.0.1 in a temporary directory: started, broken and removed by a test.

    As a context manager it is started on entry, and gone without trace on exit.
    """

    name: ClassVar[str]
    #: A server that refuses to run as root runs as the first of these users that exists.
    unprivileged_users: ClassVar[tuple[str, ...]] = ()
    #: How to ask it to end at once, without waiting for its clients.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    #: Ends a wait for its first answer.
    start_seconds = START_SECONDS

    def __init__(self) -> None:
        """Choose a port and make the directory; nothing runs yet."""
        # Under the system's own directory: the path of a Unix socket has room for 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix=f"waffle-{self.name}-"))
        self.port = free_port()
        self.log_path = self.directory / "server.log"
        self.user = self._user()
        if self.user is not None:
            shutil.chown(self.directory, self.user)
        self.environment = dict(os.environ)
        #: Whether it may be a fork, as :func:`quick_start.start` describes.
        self.quick = False
        self._process: ServerProcess | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server serves; an `OSError` counts as "no"."""

    def prepare(self) -> None:
        """Make what the server needs before its start."""

    @property
    def running(self) -> bool:
        """Whether the process that was started still runs."""
        return self._process is not None and self._process.running

    @property
    def process(self) -> ServerProcess:
        """The process that was started, with its descendants."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process

    @property
    def pid(self) -> int:
        """The pid of the server."""
        return self.process.pid

    def start(self) -> None:
        """Start the server, and return when it answers."""
        assert self._process is None, f"{self.name} is running already"
        self.prepare()
        self._process = ServerProcess(
            self.command(),
            log_path=self.log_path,
            environment=self.whole_environment(),
            directory=self.directory,
            user=self.user,
            quick=self.quick,
        )
        try:
            self.wait_until_ready()
        except BaseException:
            print(self.log())  # noqa: T201  pytest shows it
            self.kill()
            raise

    def whole_environment(self) -> dict[str, str]:
        """Return the environment of the process."""
        return self.environment

    def wait_until_ready(self) -> None:
        """Return when the server answers."""
        wait_until(self._answers_or_died, self.start_seconds, f"{self.name} answers")

    def log(self) -> str:
        """Return what the server has written so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _answers_or_died(self) -> bool:
        assert self.process.running, f"{self.name} died at its start"
        return self.answers()

    def stop(self) -> None:
        """End the server in an orderly way; its data stay."""
        if self._process is not None:
            self._process.stop(self.stop_signal)
            self._process = None

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL); its data stay."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop the server and start it again on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open, and nothing answers."""
        for pid in self.process.pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        for pid in self.process.pids():
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill the server and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _user(self) -> str | None:
        if os.geteuid() != 0 or not self.unprivileged_users:
            return None
        known = {entry.pw_name for entry in pwd.getpwall()}
        return next((user for user in self.unprivileged_users if user in known), None)
