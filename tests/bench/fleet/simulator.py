"""One process that plays many hosts: our bus, listener, reporter and store, without uWSGI.

A host is what a machine has beside its workers: a host snapshot of its own, a subscription, a
listener and a reporter, and one process that serves what the snapshot holds. The hosts of a process
take turns, where real ones would work at once. What one of them takes by itself is told in CPU
time, which other work on the machine does not lengthen much.
"""

from __future__ import annotations

import gc
import heapq
import logging
import random
import select
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from flask import Flask

from uwsgi_waffle.bus.channel import Bus
from uwsgi_waffle.bus.client import SharedClient
from uwsgi_waffle.bus.reports import HostReports
from uwsgi_waffle.config import Config
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.listen import reporter as reporting
from uwsgi_waffle.listen.introduction import REGISTER_SECONDS, Introduction
from uwsgi_waffle.listen.listener import Listener
from uwsgi_waffle.listen.reconcile import Reconciler
from uwsgi_waffle.listen.reporter import Reporter
from uwsgi_waffle.listen.telling import Teller
from uwsgi_waffle.sql.declared import HOST
from uwsgi_waffle.sql.hosts import HostRegistry
from uwsgi_waffle.sql.store import Store
from uwsgi_waffle.values.snapshot import Record

#: Seconds between two turns of a host to which nothing comes; a real one's is 0.25.
IDLE_TURN_SECONDS = 1.0
#: Seconds between two reports of such a host; a real one's is 1, a silent one's 4.
IDLE_REPORT_SECONDS = 3.0
#: Threads of a process that wait for answers on behalf of its hosts.
THREADS = 32


@dataclass(frozen=True)
class Assignment:
    """What one process is to play.

    :ivar names: which hosts
    :ivar fleet: how many hosts there are in all
    """

    config: dict[str, Any]
    directory: Path
    names: range
    fleet: int
    open_names: frozenset[str]


@dataclass
class Figures:
    """What a process has seen.

    :ivar moved: revision -> when each host snapshot moved there, in monotonic nanoseconds
    :ivar selects: when each SELECT was sent, in monotonic seconds
    :ivar move_ms: CPU time in which one host moved for one change
    :ivar report_ms: CPU time in which one host reported
    :ivar cpu_seconds: of the process
    """

    moved: dict[int, list[int]] = field(default_factory=dict)
    selects: list[float] = field(default_factory=list)
    move_ms: list[float] = field(default_factory=list)
    report_ms: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0


class PlayedHost:
    """One host."""

    def __init__(self, config: Config, name: int, assignment: Assignment, record: Record) -> None:
        """Make its parts; connect to nothing."""
        self.store = Store(config)
        self.host = host = HostSnapshot(assignment.directory / str(name), config.namespace)
        redis = SharedClient(config)
        bus = Bus(config, redis, lambda: host.keys)
        reports = HostReports(config, redis, host.keys_of)
        self.reports_made = 0
        put = reports.put

        def counted(*arguments: Any, **options: Any) -> None:
            put(*arguments, **options)
            self.reports_made += 1

        reports.put = counted  # type: ignore[method-assign]
        self.registry = HostRegistry(self.store)
        self.reporter = Reporter(config, host, reports, self.registry, "")
        self.reporter._host_name = f"host-{name}"  # noqa: SLF001  # that of the machine else
        pace = self.reporter.pace
        pace.hosts = assignment.fleet
        self.listener = Listener(
            bus=bus,
            host=host,
            introduction=Introduction(
                config,
                host,
                self.registry,
                Reconciler(self.store, host, config.poll_seconds),
                f"host-{name}",
            ),
            teller=Teller(bus, host, pace, assignment.open_names),
            on_move=self._serve,
        )
        self.moved_ns: list[tuple[int, int]] = []
        #: Held by the thread that acts for this host.
        self.lock = threading.Lock()
        host.publish(record)
        host.register("worker", 1, follows=True)
        host.note_registered()  # the simulator registers all hosts at once

    def _serve(self) -> None:
        position = self.host.position
        self.moved_ns.append((position.revision, time.monotonic_ns()))
        self.host.slots.record(position)

    def settle(self) -> None:
        """Be a host that has run for long, and keeps no step with the others."""
        listener, pace, now = self.listener, self.reporter.pace, time.monotonic()
        self.host.claim_registration(REGISTER_SECONDS)
        self.host.words[layout.REGISTERED_WORD] -= round(random.uniform(0, 70) * 1e9)  # noqa: S311
        self.reporter._count_at = now + random.uniform(10, 300)  # noqa: S311, SLF001
        listener._next_poll = now + random.uniform(0, 1) * pace.until_poll(is_live=True)  # noqa: S311, SLF001

    def fileno(self) -> int | None:
        """Return the descriptor of its subscription."""
        subscription = self.listener._subscription  # noqa: SLF001
        line = subscription and subscription._pubsub.connection  # noqa: SLF001
        sock = line and line._sock  # noqa: SLF001
        return sock.fileno() if sock else None


class Simulator:
    """All hosts of one process.

    One thread moves hosts when something comes for them. Others, which wait most of the time, do
    what real hosts would not wait for each other with: connections, polls and reports.
    """

    def __init__(self, assignment: Assignment, orders: Connection) -> None:
        """Make the hosts, and connect them."""
        vars(reporting)["REPORT_SECONDS"] = IDLE_REPORT_SECONDS
        sys.setswitchinterval(0.0005)
        app = Flask("fleet")
        app.config.update(assignment.config)
        config = Config.from_app(app)
        self.figures = Figures()
        sa.event.listen(sa.Engine, "before_cursor_execute", self._count)
        record = Store(config).read()
        self._hosts = [PlayedHost(config, n, assignment, record) for n in assignment.names]
        # No host waits for another.
        self._stop: Any = SimpleNamespace(is_set=lambda: False, wait=lambda _seconds: False)
        self._pool = ThreadPoolExecutor(THREADS)
        self._epoll = select.epoll()
        #: Descriptor of a subscription -> its host.
        self._hears: dict[int, PlayedHost] = {}
        self._register_all()
        self._orders = orders
        #: The hosts that have just moved, and when they report it.
        self._settling: list[tuple[float, PlayedHost]] = []
        self._epoll.register(orders.fileno(), select.EPOLLIN)
        list(self._pool.map(self._begin, self._hosts))
        first, count = time.monotonic(), len(self._hosts)
        self._due = [
            (first + IDLE_TURN_SECONDS * n / count, n, host) for n, host in enumerate(self._hosts)
        ]
        self.figures.selects.clear()

    def _begin(self, host: PlayedHost) -> None:
        while not host.listener.is_live:
            host.listener.turn(0, self._stop)
        host.settle()
        host.reporter.report_if_due(host.listener)
        self._arm(host)

    def _count(self, *arguments: Any) -> None:
        if arguments[2].startswith("SELECT"):
            self.figures.selects.append(time.monotonic())

    def _register_all(self) -> None:
        first = self._hosts[0].store
        rows = [
            {
                "namespace": first.namespace,
                "id": host.host.host_id,
                "name": host.reporter._host_name,  # noqa: SLF001
                "reason": "",
                "seen_at": int(time.time()),
            }
            for host in self._hosts
        ]
        with first.database.engine.begin() as connection:
            connection.execute(sa.insert(HOST), rows)
        first.database.close()

    def run(self) -> None:
        """Take turns until told to end."""
        gc.collect()
        gc.freeze()
        self._orders.send("ready")
        while True:
            next_at = self._due[0][0]
            if self._settling:
                next_at = min(next_at, self._settling[0][0])
            events = self._epoll.poll(max(0.0, next_at - time.monotonic()))
            hosts = [self._hears[fd] for fd, _ in events if fd != self._orders.fileno()]
            if len(hosts) < len(events) and not self._obey():
                self._pool.shutdown(cancel_futures=True)
                return
            for host in hosts:
                if host.lock.acquire(blocking=False):
                    try:
                        self._move(host)
                    finally:
                        host.lock.release()
                else:
                    self._pool.submit(self._move_later, host)
            now = time.monotonic()
            for host in hosts:  # it looks now, and reports when its processes had their moment
                self._pool.submit(self._report, host)
                self._settling.append((now + reporting.SETTLE_SECONDS, host))
            while self._settling and self._settling[0][0] <= now:
                self._pool.submit(self._report, self._settling.pop(0)[1])
            while self._due[0][0] <= now:
                _, number, host = heapq.heappop(self._due)
                heapq.heappush(self._due, (now + IDLE_TURN_SECONDS, number, host))
                if not host.lock.locked():
                    self._pool.submit(self._turn, host)

    def _move(self, host: PlayedHost) -> None:
        began_ns, known = time.thread_time_ns(), len(host.moved_ns)
        host.listener.turn(0, self._stop)
        if len(host.moved_ns) > known:
            self.figures.move_ms.append((time.thread_time_ns() - began_ns) / 1e6)
        self._arm(host)

    def _move_later(self, host: PlayedHost) -> None:
        with host.lock:
            self._move(host)

    def _turn(self, host: PlayedHost) -> None:
        with host.lock:
            host.listener.turn(0, self._stop)
            self._arm(host)
        self._report(host)

    def _report(self, host: PlayedHost) -> None:
        with host.lock:
            began_ns, known = time.thread_time_ns(), host.reports_made
            host.reporter.report_if_due(host.listener)
            if host.reports_made > known:
                self.figures.report_ms.append((time.thread_time_ns() - began_ns) / 1e6)

    def _arm(self, host: PlayedHost) -> None:
        """Be woken once by what comes on the subscription, which may be another one by now."""
        fileno = host.fileno()
        if fileno is None:
            return
        self._hears[fileno] = host
        try:
            self._epoll.modify(fileno, select.EPOLLIN | select.EPOLLONESHOT)
        except FileNotFoundError:
            self._epoll.register(fileno, select.EPOLLIN | select.EPOLLONESHOT)

    def _obey(self) -> bool:
        """Send the figures, and return whether to go on."""
        if self._orders.recv() == "end":
            return False
        figures = self.figures
        figures.cpu_seconds = time.process_time()
        figures.moved = {}
        for host in self._hosts:
            for revision, at_ns in list(host.moved_ns):
                figures.moved.setdefault(revision, []).append(at_ns)
        self._orders.send(figures)
        return True


def play(assignment: Assignment, orders: Connection) -> None:
    """Play hosts until told to end; the target of a process."""
    logging.disable(logging.CRITICAL)  # a line of each host, where one of a real host is enough
    Simulator(assignment, orders).run()
