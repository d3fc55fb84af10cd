"""One process that plays many hosts: our bus, listener, reporter and store, without uWSGI.

A host is what a machine has beside its workers: a host snapshot of its own, a subscription, a
listener and a reporter, and one process that serves what the snapshot holds. The hosts of a process
take turns, where real ones would work at once. What one of them takes by itself is told in CPU
time, which other work on the machine does not lengthen much.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import logging
import random
import selectors
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from flask import Flask

from uwsgi_waffle.bus.announcements import Bus
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
from uwsgi_waffle.sql.hosts import HostRegistry
from uwsgi_waffle.sql.schema import HOST
from uwsgi_waffle.sql.store import Store
from uwsgi_waffle.values.snapshot import Record

#: Seconds between two turns of a host to which nothing comes; a real one's is 0.25.
IDLE_TURN_SECONDS = 1.0
#: Seconds between two reports of such a host; a real one's is 1, a silent one's 4.
IDLE_REPORT_SECONDS = 3.0


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
        host.publish(record)
        host.register("worker", 1, follows=True)
        host.note_registered()  # by whoever plays it, with many others at once

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
    """All hosts of one process, in one loop."""

    def __init__(self, assignment: Assignment, orders: Connection) -> None:
        """Make the hosts, and connect them."""
        vars(reporting)["REPORT_SECONDS"] = IDLE_REPORT_SECONDS
        app = Flask("fleet")
        app.config.update(assignment.config)
        config = Config.from_app(app)
        self.figures = Figures()
        sa.event.listen(sa.Engine, "before_cursor_execute", self._count)
        record = Store(config).read()
        self._hosts = [PlayedHost(config, n, assignment, record) for n in assignment.names]
        # No host waits for another.
        self._stop: Any = SimpleNamespace(is_set=lambda: False, wait=lambda _seconds: False)
        self._selector = selectors.DefaultSelector()
        self._registered: dict[int, int] = {}
        self._register_all()
        self._orders = orders
        self._selector.register(orders, selectors.EVENT_READ, None)
        self._due: list[tuple[float, int, PlayedHost]] = []
        self._numbers = itertools.count()
        for host in self._hosts:
            self._turn(host)
            host.settle()
        self.figures.selects.clear()

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
            wait_seconds = max(0.0, self._due[0][0] - time.monotonic())
            ready = [key.data for key, _ in self._selector.select(wait_seconds)]
            if None in ready and not self._obey():
                return
            hosts = [host for host in ready if host is not None]
            now = time.monotonic()
            while self._due[0][0] <= now:
                host = heapq.heappop(self._due)[2]
                self._turn(host)
                self._report(host)
            for host in hosts:
                self._turn(host, is_timed=True)
            for host in hosts:  # afterwards: no host waits for the report of another
                self._report(host)

    def _turn(self, host: PlayedHost, *, is_timed: bool = False) -> None:
        began_ns, known = time.thread_time_ns(), len(host.moved_ns)
        host.listener.turn(0, self._stop)
        if is_timed and len(host.moved_ns) > known:
            self.figures.move_ms.append((time.thread_time_ns() - began_ns) / 1e6)
        if not is_timed:
            due = time.monotonic() + IDLE_TURN_SECONDS
            heapq.heappush(self._due, (due, next(self._numbers), host))
        self._watch(host)

    def _report(self, host: PlayedHost) -> None:
        began_ns, known = time.thread_time_ns(), host.reports_made
        host.reporter.report_if_due(host.listener)
        if host.reports_made > known:
            self.figures.report_ms.append((time.thread_time_ns() - began_ns) / 1e6)

    def _watch(self, host: PlayedHost) -> None:
        """Be woken by what comes on the subscription, which may be another one by now."""
        known, fileno = self._registered.get(id(host)), host.fileno()
        if known == fileno:
            return
        if known is not None:
            self._selector.unregister(known)
            del self._registered[id(host)]
        if fileno is not None:
            for other, descriptor in list(self._registered.items()):
                if descriptor == fileno:  # its connection has ended, which it has yet to see
                    self._selector.unregister(fileno)
                    del self._registered[other]
            self._selector.register(fileno, selectors.EVENT_READ, host)
            self._registered[id(host)] = fileno

    def _obey(self) -> bool:
        """Send the figures, and return whether to go on."""
        if self._orders.recv() == "end":
            return False
        figures = self.figures
        figures.cpu_seconds = time.process_time()
        figures.moved = {}
        for host in self._hosts:
            for revision, at_ns in host.moved_ns:
                figures.moved.setdefault(revision, []).append(at_ns)
        self._orders.send(figures)
        return True


def play(assignment: Assignment, orders: Connection) -> None:
    """Play hosts until told to end; the target of a process."""
    logging.disable(logging.CRITICAL)  # a line of each host, where one of a real host is enough
    Simulator(assignment, orders).run()


def receive(url: str, channel: str, count: int, orders: Connection) -> None:
    """Hold so many bare subscriptions, and send when each received; the target of a process."""
    import redis

    received: list[int] = []
    selector = selectors.DefaultSelector()
    pubsubs = []
    for _ in range(count):
        client = redis.Redis.from_url(url)
        pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]  # of redis-py
        pubsub.subscribe(channel)
        pubsub.get_message(timeout=5)
        selector.register(pubsub.connection._sock, selectors.EVENT_READ)  # noqa: SLF001
        pubsubs.append((client, pubsub))
    selector.register(orders, selectors.EVENT_READ)
    orders.send("ready")
    while True:
        for key, _ in selector.select():
            if key.fileobj is orders:
                if orders.recv() == "end":
                    return
                orders.send(received)
                received = []
            else:
                key.fileobj.recv(65536)  # type: ignore[union-attr]  # a socket
                received.append(time.monotonic_ns())
