"""Random histories of an application: what its operators, its hosts and its servers do to it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.ops.forked import Process, Zygote
from tests.support import RedisServer, wait_until
from tests.support.processes import is_alive
from tests.support.waiting import SOON_SECONDS

POLL_SECONDS = 0.1


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

    def take_a_step(self) -> None:
        """Let something happen."""
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
        self.random.choice(steps)()

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
