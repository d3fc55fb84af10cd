"""Which process serves which state, and what is wrong."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import Fleet, HostStatus
from uwsgi_waffle.bus.reports import Reported
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host.processes import ProcessSlot
from uwsgi_waffle.listen.reconcile import problem_of_order
from uwsgi_waffle.process.state import State
from uwsgi_waffle.values.position import Position

from .convergence import known_hosts, own_host, with_registered_hosts

__all__ = [
    "ProcessStatus",
    "SlowCallback",
    "Status",
    "collect",
    "describe_undeclared",
    "other_databases",
    "problem_of_listener",
    "slow_callbacks",
]

#: Seconds after which a callback that runs is worth a look.
SLOW_CALLBACK_SECONDS = 5.0
#: Most processes that a problem names.
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The process that asks.

    :ivar position: the state it serves
    :ivar place: how it is woken for changes: ``mule``, ``worker``, ``thread`` or ``none``
    """

    position: Position
    place: str

    @property
    def revision(self) -> int:
        """The revision of :attr:`position`."""
        return self.position.revision


@dataclass(frozen=True, slots=True)
class Status:
    """The settings of an application, everywhere.

    :ivar position: SQL's, ``None`` where it does not answer
    :ivar process: the process that asks
    :ivar host: its host
    :ivar hosts: every host that is known, this one among them
    :ivar ignored: how many messages and reports were malformed or forged
    :ivar other_lineages: other databases announced under the same channel and namespace
    :ivar problems: what is wrong, each in a sentence that names the fix
    :ivar unknown: why other hosts may exist that are not known, ``""`` where all are
    """

    position: Position | None
    process: ProcessStatus
    host: HostStatus
    hosts: tuple[HostStatus, ...]
    problems: tuple[str, ...]
    ignored: int = 0
    other_lineages: tuple[str, ...] = ()
    unknown: str = ""

    @property
    def revision(self) -> int | None:
        """The revision of :attr:`position`, ``None`` where SQL does not answer."""
        return None if self.position is None else self.position.revision

    @property
    def lineage(self) -> str | None:
        """The lineage of :attr:`position`, ``None`` where SQL does not answer."""
        return None if self.position is None else self.position.lineage

    @property
    def fleet(self) -> Fleet:
        """Which process serves SQL's state; where SQL has none, that of this host."""
        if self.position is None or not self.position.exists:
            unknown = "SQL does not answer" if self.position is None else self.unknown
            return Fleet(self.host.position, self.hosts, unknown=unknown)
        return Fleet(self.position, self.hosts, unknown=self.unknown)


@dataclass(frozen=True, slots=True)
class SlowCallback:
    """A callback that has been running for long.

    :ivar what: ``on_change('NAME')``, or ``a receiver of settings_changed``
    :ivar pids: the processes that it runs in
    :ivar seconds: for how long in one of them, at most
    """

    what: str
    pids: tuple[int, ...]
    seconds: float

    def __str__(self) -> str:
        """Return what runs, without its name, which may be that of a setting not to be shown."""
        return f"A callback {self.describe()}"

    def describe(self) -> str:
        """Return how long it has been running, where, and what that means."""
        named = ", ".join(map(str, self.pids[:_MOST_NAMED]))
        more = len(self.pids) - _MOST_NAMED
        named += f" and {more} more" if more > 0 else ""
        return (
            f"has been running for {self.seconds:.0f} s in pid {named}. There, callbacks of later "
            "changes wait for it; requests do not."
        )


def slow_callbacks(host: HostStatus) -> list[SlowCallback]:
    """Return the callbacks that have been running for long on this host, by its clock."""
    now = time.time()
    slow: dict[str, list[ProcessSlot]] = {}
    for process in host.processes:
        if process.calling and now - process.calling_since >= SLOW_CALLBACK_SECONDS:
            slow.setdefault(process.calling, []).append(process)
    return [
        SlowCallback(
            what,
            tuple(process.pid for process in found),
            now - min(process.calling_since for process in found),
        )
        for what, found in slow.items()
    ]


def collect(state: State) -> Status:
    """Return the present status; asks SQL and Redis once each, and names which does not answer."""
    problems: list[str] = []
    position: Position | None = None
    own = own_host(state)  # before SQL, or a commit in between would look like a restored backup
    try:
        position = state.store.peek()
    except StoreUnavailable as error:
        problems.append(f"{error} The last known settings are served.")
    reported, unknown = Reported(), ""
    if state.config.multiproc:
        lineage = own.position.lineage or (position.lineage if position is not None else "")
        try:
            before = state.host.lineages_before
            reported = state.reports.read(lineage, before=before, in_full=True)
        except BusUnavailable as error:
            away = f"Redis at {state.redis.location} does not answer ({error})"
            unknown = f"not known, as {away}"
            problems.append(
                f"{away}: other hosts are not known, and they see changes when they next poll SQL."
            )
    others: Iterable[HostStatus] = reported.hosts
    if position is not None and state.config.multiproc:
        with suppress(StoreUnavailable):  # it answered a moment ago; the next status reports it
            others = with_registered_hosts(state, others).values()
    hosts = known_hosts(own, others)
    ignored = state.host.ignored_count + reported.ignored
    problems += _problems(state, own, position)
    problems += _problems_of_messages(ignored, reported.other_lineages)
    place = state.place.value if state.place is not None else "none"
    process = ProcessStatus(state.serving.current.position, place)
    return Status(
        position,
        process,
        own,
        hosts,
        tuple(problems),
        ignored,
        reported.other_lineages,
        unknown,
    )


def _problems(state: State, host: HostStatus, position: Position | None) -> Iterator[str]:
    """Yield what is wrong on this host, and with the stored values."""
    current = state.serving.current
    yield from map(str, current.refused)
    if current.undeclared:
        yield describe_undeclared(current.undeclared)
    yield from map(str, slow_callbacks(host))
    if position is not None:
        behind = problem_of_order(position, host.position)
        if behind is not None:
            yield f"SQL {behind}"
    listener = problem_of_listener(state, host)
    if listener is not None:
        yield listener


def problem_of_listener(state: State, host: HostStatus) -> str | None:
    """Return what is wrong with the listener of this host, or with what the host reports."""
    if state.config.multiproc and host.processes and host.listener.state == "absent":
        return (
            "No listener runs on this host. Requests see changes within "
            f"{state.config.poll_seconds:g} s; run `flask waffle doctor` for the reason."
        )
    if host.listener.state == "polling":
        why = host.listener.error or "it does not use Redis"
        every = f"every {state.config.poll_seconds:g} s"
        return f"The listener of this host only polls SQL, {every} ({why})."
    if host.fault and host.processes:
        return f"What this host's processes serve is not certain: {host.fault}."
    return None


def describe_undeclared(names: Iterable[str]) -> str:
    """Return what it means that settings of these names are stored."""
    return (
        f"Stored but not declared by this release: {', '.join(names)}. They do no harm; an older "
        "or newer release may declare them."
    )


def other_databases(lineages: Collection[str]) -> str:
    """Return how many there are, as the beginning of a sentence."""
    count = len(lineages)
    return "Another database is" if count == 1 else f"{count} other databases are"


def _problems_of_messages(ignored: int, other_lineages: tuple[str, ...]) -> Iterator[str]:
    """Yield what else uses our channel and namespace on Redis."""
    if other_lineages:
        others = other_databases(other_lineages)
        yield f"{others} announced here and ignored; see `flask waffle doctor`."
    elif ignored:
        messages = "1 message was" if ignored == 1 else f"{ignored} messages were"
        yield f"{messages} not signed by our key, or malformed, and ignored."
