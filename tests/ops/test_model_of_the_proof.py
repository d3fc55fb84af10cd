"""The proof under random histories: it says yes only where every process serves SQL's state.

Each history mixes writes, two releases, backups that are restored (or replicas that lag and take
over, which is the same to a host), new databases, a Redis that has lost everything, stopped and
killed processes, children that run other programs, and forged reports. Whenever `wait` and `status`
are asked, their answers are held against what every process really serves.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import RedisServer, wait_until
from tests.support.processes import is_alive
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS

#: Histories in one test, so that a failure names a short range of seeds.
BATCH = 10
BATCHES = times(30, 1000)
STEPS = 6
POLL_SECONDS = 0.1
#: Seconds without a report after which a host counts as silent.
SILENT_SECONDS = 1.0
#: Seconds that a process may take to prove a state; long enough where nothing stands in the way.
WAIT_SECONDS = 0.25
ROOT = Path(__file__).parents[2]


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


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with contextlib.closing(Zygote(tmp_path_factory.mktemp("zygote"))) as program:
        yield program


class History:
    """One random history."""

    def __init__(
        self, seed: int, directory: Path, zygote: Zygote, redis_server: RedisServer
    ) -> None:
        self.random = random.Random(seed)  # noqa: S311  # a history must be repeatable
        self.directory = directory
        self.zygote = zygote
        self.redis_server = redis_server
        self.channel = f"model-{seed}"
        self.database = directory / "waffle.db"
        self.backup: Path | None = None
        self.processes: list[Process] = []
        self.log: list[str] = []
        self.sizes = itertools.count(2)
        #: Hosts that a killed process may have left without a goodbye, and their ids.
        self.ghosts: dict[str, str] = {}
        self.start("a", "new")
        self.start("b", self.random.choice(["new", "old"]))

    def start(self, host: str, release: str) -> None:
        """Start a process on a host."""
        config = {
            "WAFFLE_DATABASE_URI": f"sqlite:///{self.database}",
            "WAFFLE_SNAPSHOT_PATH": str(self.directory / host / "snapshot"),
            "WAFFLE_MULTIPROC": True,
            "WAFFLE_LISTENER": "thread",
            "WAFFLE_POLL_SECONDS": POLL_SECONDS,
            "WAFFLE_REDIS_URL": self.redis_server.url,
            "WAFFLE_REDIS_CHANNEL": self.channel,
        }
        self.processes.append(self.zygote.fork(host, release, self.directory, config, self.go_on))
        self.log.append(f"start {release} on {host}: {self.processes[-1].pid}")

    def run(self) -> None:
        """Take the steps, check the proof after each of them, then heal and check it again."""
        steps: list[Callable[[], None]] = [
            self.update,
            self.update,
            self.save_backup,
            self.restore_backup,
            self.fail_over,
            self.make_database_anew,
            self.stop,
            self.go_on,
            self.kill,
            self.start_one,
            self.run_child,
            self.forge,
            self.lose_reports,
        ]
        for _ in range(STEPS):
            self.random.choice(steps)()
            self.check()
        self.heal()

    # -- steps --------------------------------------------------------------------------------

    def running(self) -> list[Process]:
        return [process for process in self.processes if not process.is_stopped]

    def update(self) -> None:
        size = next(self.sizes) if self.random.random() < 0.7 else self.random.randrange(101, 999)
        process = self.random.choice(self.running())
        self.log.append(f"update {size} by {process.pid}: {process.ask('update', size=size)}")

    def save_backup(self) -> None:
        self.backup = self.directory / "backup.db"
        self.with_database(lambda: _copy(self.database, self.directory / "backup.db"))
        self.log.append("backup")

    def restore_backup(self) -> None:
        if self.backup is not None:
            backup = self.backup
            self.with_database(lambda: _copy(backup, self.database))
            self.log.append("restore")

    def fail_over(self) -> None:
        """Switch to another primary, on which the last revision was made by another writer."""
        size, stamp = next(self.sizes), f"{self.random.getrandbits(64):016x}"
        self.with_database(lambda: _make_anew_the_last_revision(self.database, size, stamp))
        self.log.append(f"fail over to {size}")

    def make_database_anew(self) -> None:
        self.with_database(lambda: _empty(self.database))
        process = self.random.choice(self.running())
        process.ask("update", size=next(self.sizes))
        self.log.append(f"make the database anew, by {process.pid}")

    def with_database(self, act: Callable[[], None]) -> None:
        """Do what writes to the database; a process that was stopped as it read holds a lock."""
        try:
            act()
        except sqlite3.OperationalError:
            self.go_on()
            act()

    def stop(self) -> None:
        if len(self.running()) > 1:
            process = self.random.choice(self.running())
            process.serves()
            os.kill(process.pid, signal.SIGSTOP)
            # It may have gone on between its answer and the signal, so it is asked by its slot.
            process.is_stopped = True
            process.last = []
            self.log.append(f"stop {process.pid}")

    def go_on(self) -> None:
        for process in self.processes:
            if process.is_stopped:
                os.kill(process.pid, signal.SIGCONT)
                process.is_stopped = False
                self.log.append(f"continue {process.pid}")

    def kill(self) -> None:
        if len(self.running()) > 1:
            process = self.random.choice(self.processes)
            if process.is_stopped or len(self.running()) > 1:
                self.end(process)
                self.log.append(f"kill {process.pid}")

    def end(self, process: Process) -> None:
        """Kill a process, and its children."""
        for pid in [process.pid, *process.children]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(process.pid), SOON_SECONDS, "the process is gone")
        process.stream.close()
        process.connection.close()
        self.processes.remove(process)
        if all(other.host != process.host for other in self.processes):
            self.ghosts[process.host] = process.host_id

    def start_one(self) -> None:
        if len(self.processes) < 4:  # enough for every kind of mix
            host = self.random.choice("abc")
            self.ghosts.pop(host, None)
            self.start(host, self.random.choice(["new", "old"]))

    def run_child(self) -> None:
        process = self.random.choice(self.running())
        process.children.append(process.ask("child"))
        self.log.append(f"child of {process.pid}")

    def forge(self) -> None:
        """Put a host's report under another host's name, and garbage beside it."""
        with self.redis_server.client() as client:
            for key in client.scan_iter(f"{{{self.channel}:*hosts"):
                entries = client.hgetall(key)
                for host_id, entry in entries.items():
                    client.hset(key, host_id[::-1], entry)
                client.hset(key, "0" * 16, b"x " + json.dumps({"id": "0" * 16}).encode())
            client.publish(
                self.channel, json.dumps(["waffle", "default", "0" * 16, 9, "1" * 16, "x"])
            )
        self.log.append("forge")

    def lose_reports(self) -> None:
        """Do what a failover of Redis to an empty replica does."""
        with self.redis_server.client() as client:
            for key in client.scan_iter(f"{{{self.channel}:*"):
                client.delete(key)
        self.log.append("lose all reports")

    # -- checks -------------------------------------------------------------------------------

    def truth(self) -> tuple[str, int]:
        """Return the stamp and the size that SQL holds."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as connection:
            stamp = connection.execute("SELECT lineage, stamp FROM waffle_namespace").fetchone()
            size = connection.execute("SELECT value FROM waffle_setting").fetchone()
        return (":".join(stamp) if stamp else ""), (int(size[0]) if size else 1)

    def check(self) -> None:
        """Ask one process for the proof, and hold it against what every process serves."""
        asked = self.random.choice(self.running())
        shown = asked.ask("status")
        self.log.append(f"status by {asked.pid}: {shown['fleet']}")
        if shown["yes"]:
            self.check_yes()
        answer = asked.ask("wait", seconds=WAIT_SECONDS)
        self.log.append(f"wait by {asked.pid}: {answer['fleet']}")
        if answer["yes"]:
            self.check_yes()
        elif not (self.wrong() or self.ghosts or any(p.is_stopped for p in self.processes)):
            # The reason may be gone by now; then the proof is there at once.
            self.expect_yes(asked)
        else:
            self.expect_true_reasons(asked, answer)

    def expect_true_reasons(self, asked: Process, answer: dict[str, Any]) -> None:
        """Fail where a no goes on naming a host or a process that stands in no proof's way."""

        def are_true() -> bool:
            if not answer["yes"] and self.names_only_what_is_wrong(answer["named"]):
                return True
            # The reasons may have been true when they were given.
            answer.update(asked.ask("wait", seconds=WAIT_SECONDS))
            return bool(answer["yes"])

        try:
            wait_until(are_true, SOON_SECONDS, "each reason is true")
        except AssertionError:
            if all(not process.is_stopped for process in self.processes):
                pytest.fail(f"a no for no reason: {answer}\n" + "\n".join(self.log))
            self.go_on()  # a process that was stopped may hold a lock that another host needs
            self.expect_true_reasons(asked, answer)
        if answer["yes"]:
            self.check_yes()

    def names_only_what_is_wrong(self, named: Sequence[Sequence[Any]]) -> bool:
        """Return whether each host and process that is named is stopped, gone or elsewhere."""
        wrong = {*self.wrong(), *(p.pid for p in self.processes if p.is_stopped)}
        hosts = {p.host_id for p in self.processes if p.pid in wrong} | {*self.ghosts.values()}
        hosts |= {"" for p in self.processes if p.is_stopped}  # it may hold a lock of the database
        return all((pid in wrong) if pid else (host in hosts) for host, pid in named)

    def wrong(self) -> dict[int, list[Any]]:
        """Return what those serve that do not serve SQL's state."""
        stamp, size = self.truth()
        served = {process.pid: process.serves() for process in self.running()}
        return {pid: found for pid, found in served.items() if found != [stamp, size, False]}

    def check_yes(self) -> None:
        """Fail unless every process serves SQL's state."""
        wrong = self.wrong()
        log = "\n".join(self.log)
        assert not wrong, f"a false yes: {wrong}, where SQL holds {self.truth()}\n{log}"

    def expect_yes(self, asked: Process) -> None:
        """Fail where a process cannot prove what every process serves."""
        answer: dict[str, Any] = {}

        def says_yes() -> bool:
            answer.update(asked.ask("wait", seconds=WAIT_SECONDS))
            stamp, size = self.truth()
            agree = all(p.serves() == [stamp, size, False] for p in self.running())
            return answer["yes"] or not agree

        try:
            wait_until(says_yes, SOON_SECONDS, "the proof")
        except AssertionError:
            pytest.fail(f"a false no: {answer}\n" + "\n".join(self.log))

    def heal(self) -> None:
        """End all faults; then every process serves SQL's state, and each of them can prove it."""
        self.go_on()
        asked = self.running()[0]
        self.expect_no_other_state(asked)
        asked.ask("resync")
        asked.ask("update", size=50)
        stamp, size = self.truth()
        for process in self.processes:
            wait_until(
                lambda p=process: p.serves() == [stamp, size, False],  # type: ignore[misc]
                SOON_SECONDS,
                f"{process} serves {stamp} {size}: {process.serves()}\n" + "\n".join(self.log),
            )
        self.log.append("healed")
        if self.ghosts:
            self.forget_ghosts()
        self.expect_yes(asked)

    def expect_no_other_state(self, asked: Process) -> None:
        """Fail where a process stays at another state than SQL's, unless it is ahead of SQL."""

        def have_moved() -> bool:
            found = asked.ask("wait", seconds=WAIT_SECONDS)["fleet"]
            return "another state" not in found and "another database" not in found

        log = "\n".join(self.log)
        if not self.ghosts:
            wait_until(have_moved, SOON_SECONDS, f"each process is at SQL's state, or ahead\n{log}")

    def forget_ghosts(self) -> None:
        """Do what `flask waffle forget` does for hosts that are gone for good."""
        names = {p.host for p in self.processes}
        assert not self.ghosts.keys() & names
        with self.redis_server.client() as client:
            for key in client.scan_iter(f"{{{self.channel}:*"):
                if key.endswith((b"hosts", b"details")):
                    client.delete(key)
        _empty(self.database, ("waffle_host",))

    def close(self) -> None:
        """End all processes."""
        self.go_on()
        for process in list(self.processes):
            self.end(process)


def _empty(
    database: Path,
    tables: Sequence[str] = ("waffle_namespace", "waffle_setting", "waffle_change"),
) -> None:
    with contextlib.closing(sqlite3.connect(database, timeout=2)) as connection:
        for table in tables:
            connection.execute(f"DELETE FROM {table}")  # noqa: S608  # our own names
        connection.commit()


def _make_anew_the_last_revision(database: Path, size: int, stamp: str) -> None:
    with contextlib.closing(sqlite3.connect(database, timeout=2)) as connection:
        last = "revision > 0 AND revision = (SELECT max(revision) FROM waffle_namespace)"
        for table in ("waffle_namespace", "waffle_change"):
            connection.execute(f"UPDATE {table} SET stamp = ? WHERE {last}", (stamp,))  # noqa: S608
        connection.execute("UPDATE waffle_setting SET value = ?", (str(size),))
        connection.commit()


def _copy(source: Path, target: Path) -> None:
    """Copy a database into another one, under the processes that use that."""
    with (
        contextlib.closing(sqlite3.connect(source, timeout=2)) as from_,
        contextlib.closing(sqlite3.connect(target, timeout=2)) as to,
    ):
        from_.backup(to)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_proof_is_true(
    batch: int, tmp_path: Path, zygote: Zygote, redis_server: RedisServer
) -> None:
    def run(seed: int) -> None:
        directory = tmp_path / str(seed)
        directory.mkdir()
        with contextlib.closing(History(seed, directory, zygote, redis_server)) as history:
            try:
                history.run()
            except BaseException:
                print("\n".join([f"seed {seed}", *history.log]))  # noqa: T201  # pytest shows it
                raise

    # Histories wait more than they compute.
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(batch * BATCH, (batch + 1) * BATCH)))
