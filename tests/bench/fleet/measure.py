"""Running a fleet, changing a setting, restarting Redis, and counting meanwhile."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.bench.fleet.counters import ConnectionCount, Cpu
from tests.bench.fleet.receivers import receive
from tests.bench.fleet.simulator import Assignment, Figures, play
from tests.bench.table import quantile
from tests.conftest import Apps, state_of
from tests.support import RedisServer, wait_until
from tests.support.instance import NAMES, Instance, hosts
from uwsgi_waffle import NotConverged

__all__ = ["CPU_HEADER", "HEADER", "RESTART_HEADER", "Size", "measure"]

START_SECONDS = 900.0
SOON_SECONDS = 120.0
#: Seconds for which SELECTs are counted after a restart of Redis.
RESTART_SECONDS = 12.0
#: Seconds for which Redis is away.
AWAY_SECONDS = 0.5
#: Bare subscriptions from which on two processes hold them.
ONE_RECEIVER = 100
CONFS = {name: {"default": 0} for name in NAMES}

HEADER = (
    *("hosts", "real", "moved p50 ms", "moved p99 ms", "bare fan-out p99 ms"),
    *("proved p50 ms", "proved p99 ms"),
    *("SELECTs a change", "SQL connections", "Redis commands a change"),
    *("CPU busy", "simulator", "Redis", "load"),
)
CPU_HEADER = ("hosts", "a host moves, ms", "p99", "a host reports, ms", "Redis delivers, µs a host")
RESTART_HEADER = (
    *("hosts", "all right after s", "SELECT/s peak", "SELECTs in 10 s", "SQL connections"),
    *("busy", "load"),
)


@dataclass
class Size:
    """What was found at one number of hosts; times are in milliseconds."""

    row: list[str] = field(default_factory=list)
    cpu_row: list[str] = field(default_factory=list)
    restart_row: list[str] = field(default_factory=list)
    moved_ms: list[float] = field(default_factory=list)
    wait_ms: list[float] = field(default_factory=list)
    selects_a_change: float = 0.0
    connections: int = 0
    restart_peak: int = 0
    restart_seconds: float = 0.0
    restart_connections: int = 0


class Players:
    """The processes that play hosts, or hold bare subscriptions."""

    def __init__(self, target: Any, arguments: list[tuple[Any, ...]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._lines: list[Connection] = []
        self._processes = []
        for given in arguments:
            mine, theirs = context.Pipe()
            process = context.Process(target=target, args=(*given, theirs), daemon=True)
            process.start()
            self._lines.append(mine)
            self._processes.append(process)

    def wait_until_ready(self) -> None:
        """Return when all of their hosts are connected."""
        for line in self._lines:
            assert line.poll(START_SECONDS), "all are ready"
            line.recv()

    def ask(self) -> list[Any]:
        """Return what each has seen."""
        for line in self._lines:
            line.send("figures")
        return [line.recv() for line in self._lines]

    def end(self) -> None:
        """End them."""
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.send("end")
        for process in self._processes:
            process.join(5)
            process.kill()
            process.join()


@dataclass
class Fleet:
    """Hosts of both kinds, and a program that changes a setting and waits for all of them."""

    database_uri: str
    redis_server: RedisServer
    played: Players
    real: list[Instance]
    waffle: Any
    value: int = 0
    committed_ns: int = 0

    def note_commits(self, host: Any) -> None:
        """Note when a commit was made, by what comes first after it."""
        publish = host.publish

        def published(*arguments: Any, **options: Any) -> Any:
            self.committed_ns = time.monotonic_ns()
            return publish(*arguments, **options)

        host.publish = published

    def change(self) -> tuple[int, int]:
        """Change a setting; return the revision, and when it was committed."""
        self.value += 1
        revision = self.waffle.update({NAMES[0]: self.value}).revision
        return revision, self.committed_ns

    def figures(self) -> list[Figures]:
        """Return what the played hosts have seen."""
        found: list[Figures] = self.played.ask()
        return found

    def moved_ns(self, revision: int) -> list[int]:
        """Return when each played host moved to a revision."""
        return [at for one in self.figures() for at in one.moved.get(revision, [])]

    def selects(self, start: float, end: float) -> list[float]:
        """Return when the played hosts sent SELECTs, between two moments."""
        return sorted(at for one in self.figures() for at in one.selects if start <= at < end)

    def redis_cpu(self) -> float:
        """Return the CPU seconds that Redis has used."""
        with self.redis_server.client() as client:
            used = client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])

    def redis_commands(self) -> int:
        """Return how many commands Redis has run."""
        with self.redis_server.client() as client:
            return int(client.info("stats")["total_commands_processed"])

    def cpu(self) -> Cpu:
        """Begin to measure."""
        return Cpu(lambda: sum(one.cpu_seconds for one in self.figures()), self.redis_cpu)


@contextlib.contextmanager
def _fleet(config: dict[str, Any], count: int, real: int, processes: int) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        limit = ["--maxclients", "20000"]
        redis_server = stack.enter_context(RedisServer(extra_options=limit))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        apps = stack.enter_context(
            contextlib.closing(Apps(directory, config["WAFFLE_DATABASE_URI"]))
        )
        config = config | {"WAFFLE_REDIS_URL": redis_server.url, "WAFFLE_MULTIPROC": True}
        app, waffle = apps(host="operator", WAFFLE_CONFS=CONFS, WAFFLE_LISTENER="none", **config)
        waffle.update({NAMES[0]: -1})
        environment = {k: str(v) for k, v in config.items()}
        made: list[Instance] = []
        if real:
            made = stack.enter_context(hosts(environment, count=real))
        parts = [range(n, count - real, processes) for n in range(processes)]
        played = directory / "played"
        played.mkdir(mode=0o700)
        given = frozenset(NAMES)
        arguments = [(Assignment(config, played, part, count, given),) for part in parts if part]
        players = Players(play, arguments)
        stack.callback(players.end)
        players.wait_until_ready()
        wait_until(lambda: redis_server.subscribers() == count, START_SECONDS, "all hosts listen")
        fleet = Fleet(config["WAFFLE_DATABASE_URI"], redis_server, players, made, waffle)
        fleet.note_commits(state_of(app).host)
        yield fleet


def measure(
    config: dict[str, Any], count: int, *, real: int = 0, changes: int = 20, processes: int = 1
) -> Size:
    """Return what was found at so many hosts.

    :param config: keys that name the database, and others, for each host
    :param real: how many of them are uWSGI instances
    :param processes: how many processes play the others
    """
    found = Size()
    with _fleet(config, count, real, processes) as fleet:
        _measure_changes(fleet, found, count, changes)
        _measure_restart(fleet, found, count)
    return found


def _measure_changes(fleet: Fleet, found: Size, count: int, changes: int) -> None:
    _wait_until_proved(fleet, fleet.change()[0])  # the first one makes connections
    cpu, before = fleet.cpu(), fleet.redis_commands()
    selects, commands = 0, []
    with ConnectionCount(fleet.database_uri).counting() as connections:
        for _ in range(changes):
            start, before = time.monotonic(), fleet.redis_commands()
            revision, committed_ns = fleet.change()
            found.wait_ms.append(_wait_until_proved(fleet, revision, committed_ns))
            commands.append(fleet.redis_commands() - before)
            selects += len(fleet.selects(start, time.monotonic()))
            moved = fleet.moved_ns(revision)
            assert len(moved) == count - len(fleet.real), "each host moved once"
            found.moved_ms += [(at - committed_ns) / 1e6 for at in moved]
            for host in fleet.real:
                at_ns = max(host.wait_until_called_back(fleet.value).values())
                found.moved_ms.append((at_ns - committed_ns) / 1e6)
            time.sleep(0.2)
    found.selects_a_change, found.connections = selects / changes, connections.most
    shares = cpu.shares()
    bare, delivery_us = _fan_out(fleet, count)
    times = [
        *(statistics.median(found.moved_ms), quantile(found.moved_ms, 0.99)),
        *(quantile(bare, 0.99), statistics.median(found.wait_ms), quantile(found.wait_ms, 0.99)),
    ]
    found.row = [
        *(str(count), str(len(fleet.real)), *(f"{ms:.1f}" for ms in times)),
        *(f"{found.selects_a_change:.1f}", str(found.connections)),
        *(f"{statistics.median(commands):.0f}", *shares, f"{os.getloadavg()[0]:.0f}"),
    ]
    moves = [ms for one in fleet.figures() for ms in one.move_ms]
    reports = [ms for one in fleet.figures() for ms in one.report_ms]
    figures = (statistics.median(moves), quantile(moves, 0.99), statistics.median(reports))
    found.cpu_row = [str(count), *(f"{ms:.2f}" for ms in figures), f"{delivery_us:.1f}"]


def _wait_until_proved(fleet: Fleet, revision: int, committed_ns: int = 0) -> float:
    """Wait until every process is known to serve a revision; return how long after its commit."""
    deadline = time.monotonic() + SOON_SECONDS
    while True:
        try:
            fleet.waffle.wait(revision, timeout=max(0.0, deadline - time.monotonic()))
        except NotConverged as error:
            if time.monotonic() >= deadline:
                raise AssertionError(str(error)) from error
        else:
            return (time.monotonic_ns() - committed_ns) / 1e6


def _fan_out(fleet: Fleet, count: int) -> tuple[list[float], float]:
    """Return how late bare subscribers in as many processes receive a message of that size.

    :return: milliseconds each, and the microseconds of CPU time that Redis takes for one of them
    """
    parts = [count] if count < ONE_RECEIVER else [count // 2, count - count // 2]
    channel = "bare"
    message = "x" * 500
    late: list[float] = []
    messages, used = 10, 0.0
    bare = Players(receive, [(fleet.redis_server.url, channel, part) for part in parts])
    try:
        bare.wait_until_ready()
        with fleet.redis_server.client() as client:
            for _ in range(messages):
                before = fleet.redis_cpu()
                began_ns = time.monotonic_ns()
                client.publish(channel, message)
                used += fleet.redis_cpu() - before
                received: list[int] = []

                def all_received(received: list[int] = received) -> bool:
                    received.extend(at for one in bare.ask() for at in one)
                    return len(received) >= count

                wait_until(all_received, SOON_SECONDS, "all have received")
                late += [(at - began_ns) / 1e6 for at in received]
    finally:
        bare.end()
    return late, used / messages / count * 1e6


def _measure_restart(fleet: Fleet, found: Size, count: int) -> None:
    """Restart Redis, and change a setting while it is away, which no host hears of."""
    played = count - len(fleet.real)
    with ConnectionCount(fleet.database_uri).counting() as connections:
        cpu = Cpu(lambda: 0.0, lambda: 0.0)
        began = time.monotonic()
        fleet.redis_server.kill()
        time.sleep(AWAY_SECONDS)
        revision, _ = fleet.change()
        fleet.redis_server.start()
        up = time.monotonic()

        def all_moved() -> bool:
            return len(fleet.moved_ns(revision)) == played

        wait_until(all_moved, SOON_SECONDS, "all hosts are right")
        found.restart_seconds = max(fleet.moved_ns(revision)) / 1e9 - up
        time.sleep(max(0.0, up + RESTART_SECONDS - time.monotonic()))
        busy = cpu.shares()[0]
    selects = fleet.selects(began, up + RESTART_SECONDS)
    found.restart_peak = max(
        (sum(at <= other < at + 1.0 for other in selects[n:]) for n, at in enumerate(selects)),
        default=0,
    )
    found.restart_connections = connections.most
    in_ten = sum(at < up + 10.0 for at in selects)
    found.restart_row = [
        *(str(count), f"{found.restart_seconds:.1f}", str(found.restart_peak), str(in_ten)),
        *(str(connections.most), busy, f"{os.getloadavg()[0]:.0f}"),
    ]
