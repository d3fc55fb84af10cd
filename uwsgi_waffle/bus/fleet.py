"""Every process of every host, as frozen values: which state each of them serves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from uwsgi_waffle.errors import WaffleError
from uwsgi_waffle.host.processes import ListenerState, Moment, ProcessSlot
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.position import Position

__all__ = [
    "Fleet",
    "HostStatus",
    "Laggard",
    "NotConverged",
    "Refusal",
    "describe_silence",
    "this_host",
]


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host: all processes that share one host snapshot.

    :ivar id: 16 hexadecimal digits that distinguish it from others of the same name
    :ivar name: its host name
    :ivar position: the state in its host snapshot
    :ivar listener: what the best of its listeners does
    :ivar following: how many of its processes are woken for changes, and so waited for
    :ivar served: how many of those serve :attr:`position`, refusing nothing
    :ivar exceptions: those that do not, the first of them where there are many
    :ivar unlisted: how many workers uWSGI runs beside those that are listed: they have not loaded
        the application
    :ivar fault: why what it reports of its processes proves nothing, ``""`` where it does
    :ivar declaration: a digest of the settings that its release declares
    :ivar processes: its living processes; empty where only a summary was asked for
    :ivar reported_at: when it reported, by Redis's clock; 0 for this host
    :ivar reported_seconds_ago: how long ago that was
    :ivar is_silent: it reported before, but not lately: cut off from Redis, or gone
    """

    id: str
    name: str
    position: Position
    listener: ListenerState
    following: int = 0
    served: int = 0
    exceptions: tuple[ProcessSlot, ...] = ()
    unlisted: int = 0
    fault: str = ""
    declaration: str = ""
    processes: tuple[ProcessSlot, ...] = ()
    reported_at: Moment = 0.0
    reported_seconds_ago: float = 0.0
    is_silent: bool = False

    @property
    def revision(self) -> int:
        """The revision of :attr:`position`."""
        return self.position.revision


@dataclass(frozen=True, slots=True)
class Laggard:
    """A process, or a whole host, that is not known to serve a state.

    :ivar host: name of the host
    :ivar process: the process; ``None`` where the reason is the host's
    :ivar reason: what is known instead
    """

    host: str
    process: ProcessSlot | None
    reason: str

    def __str__(self) -> str:
        if self.process is None:
            return f"host {self.host}: {self.reason}"
        return f"{_named(self.process)} on {self.host}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A process whose release refuses a value of the state.

    :ivar host: name of the host
    :ivar pid: the process
    :ivar name: the setting, ``""`` where the settings as a whole are refused
    :ivar reason: why, without the value of a secret
    :ivar serving: what the process serves instead
    """

    host: str
    pid: int
    name: str
    reason: str
    serving: str

    def __str__(self) -> str:
        what = self.name or "the settings as a whole"
        refuses = f"pid {self.pid} on {self.host} refuses {what}"
        return f"{refuses} ({self.reason}); it serves the {self.serving}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """How far a state has come.

    Processes that are woken for changes are waited for. One that is not (its application runs
    without ``WAFFLE_MULTIPROC``, outside uWSGI) serves the state when its next request starts.

    :ivar position: the state in question, which is SQL's
    :ivar hosts: every known host
    :ivar seconds: how long the fleet was waited for
    :ivar later: states that SQL has moved to since, which count as well
    :ivar unknown: why there may be unknown hosts, ``""`` where all are known
    """

    position: Position
    hosts: tuple[HostStatus, ...]
    seconds: float = 0.0
    later: frozenset[Position] = field(default_factory=frozenset)
    unknown: str = ""
    _named: Counter[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Count the hosts of each name, as each of them is looked at many times."""
        object.__setattr__(self, "_named", Counter(host.name for host in self.hosts))

    @property
    def revision(self) -> int:
        """The revision of :attr:`position`."""
        return self.position.revision

    @property
    def total(self) -> int:
        """How many processes are waited for, on all hosts."""
        return sum(host.following + host.unlisted for host in self.hosts)

    @property
    def applied(self) -> int:
        """How many of :attr:`total` serve the state, or a later one of SQL's, refusing nothing."""
        return sum(self._applied_on(host) for host in self.hosts)

    @property
    def missing(self) -> tuple[Laggard, ...]:
        """Processes and hosts that are not known to serve the state."""
        return tuple(self._missing())

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Processes that are at the state, but refuse a value of it."""
        return tuple(self._refused())

    def is_served(self, position: Position) -> bool:
        """Return whether a process at that position serves the state, or a later one of SQL's."""
        return position == self.position or position in self.later

    def label(self, host: HostStatus) -> str:
        """Return the name of a host, with the start of its id where several have that name."""
        return host.name if self._named[host.name] == 1 else f"{host.name}#{host.id[:6]}"

    def _applied_on(self, host: HostStatus) -> int:
        if host.is_silent or host.fault:
            return 0
        at_host = host.served if self.is_served(host.position) else 0
        return at_host + sum(
            self.is_served(process.position) and not process.refused_count
            for process in host.exceptions
        )

    def _missing(self) -> Iterator[Laggard]:
        for host in self.hosts:
            label = self.label(host)
            if host.is_silent:
                why = f": {host.fault}" if host.fault else ""
                yield Laggard(label, None, f"{describe_silence(host)}{why}")
                continue
            if host.unlisted:
                workers = "1 worker has" if host.unlisted == 1 else f"{host.unlisted} workers have"
                yield Laggard(label, None, f"{workers} not loaded the application")
            if host.fault and host.following:
                yield Laggard(label, None, host.fault)
            elif host.following > len(host.exceptions) and not self.is_served(host.position):
                yield Laggard(label, None, self._describe(host.position))
            for process in host.exceptions:
                if not self.is_served(process.position):
                    yield Laggard(label, process, self._describe(process.position))
            unnamed = host.following - host.served - len(host.exceptions)
            if unnamed > 0 and not host.fault and self.is_served(host.position):
                more = "1 more process does" if unnamed == 1 else f"{unnamed} more processes do"
                yield Laggard(label, None, f"{more} not serve revision {host.revision}")
        if self.unknown:
            yield Laggard("(any other)", None, self.unknown)

    def _refused(self) -> Iterator[Refusal]:
        for host in self.hosts:
            for process in host.exceptions:
                refused = process.refused
                if refused is None or host.is_silent or not self.is_served(process.position):
                    continue
                yield Refusal(
                    self.label(host), process.pid, refused.name, refused.reason, refused.serving
                )

    def _describe(self, position: Position) -> str:
        """Return where a process or host is that does not serve the state."""
        has = f"has revision {position.revision}"
        if not position.exists:
            return "has no revision yet"
        if not self.position.exists:
            return f"{has}, but SQL holds no settings"
        if position.lineage != self.position.lineage:
            return f"{has} of another database"
        if position.revision == self.position.revision:
            return f"{has}, but another state of it than SQL's"
        if position.revision > self.position.revision:
            return (
                f"{has}, ahead of SQL's {self.position.revision}: run `flask waffle resync` if the "
                "database is right"
            )
        return has

    def __str__(self) -> str:
        hosts = "1 host" if len(self.hosts) == 1 else f"{len(self.hosts)} hosts"
        noun = "process" if self.total == 1 else "processes"
        spent = f"{self.seconds * 1000:.0f} ms" if self.seconds < 1 else f"{self.seconds:.1f} s"
        return (
            f"revision {self.revision}: {self.applied} of {self.total} {noun} on {hosts} in {spent}"
        )


class NotConverged(WaffleError):
    """Some process is not known to serve a revision whole, and the time is up."""

    def __init__(self, message: str, *, revision: int, fleet: Fleet) -> None:
        super().__init__(message)
        #: Which process served which state at the end.
        self.fleet = fleet
        #: The revision that was waited for.
        self.revision = revision
        #: Processes and hosts that are behind, silent or ahead of SQL.
        self.missing: tuple[Laggard, ...] = fleet.missing
        #: Processes whose release refuses a value of the revision.
        self.refused: tuple[Refusal, ...] = fleet.refused


def this_host(
    host: HostSnapshot, name: str, stale_seconds: float, *, declaration: str = ""
) -> HostStatus:
    """Return what the host snapshot says of this host.

    :param stale_seconds: age of a heartbeat past which there is no listener here
    """
    position = host.position
    # As people look for them; slots are in the order in which processes came.
    processes = tuple(
        sorted(host.slots.living(), key=lambda p: (p.role != "worker", p.worker, p.pid))
    )
    age = host.heartbeat_age_seconds()
    lives = age is not None and age < stale_seconds
    listener = _best(process.listener for process in processes) if lives else ListenerState()
    following = [process for process in processes if process.follows]
    elsewhere = host.slots.count_elsewhere()
    exceptions = tuple(p for p in following if p.position != position or p.refused_count)
    fault = ""
    if host.not_shared_reason is not None:
        fault = (
            f"its processes share no memory, so each asks SQL for itself ({host.not_shared_reason})"
        )
    elif elsewhere:
        fault = "some of its processes have yet to see that its host snapshot was replaced"
    elif listener.state == "live" and listener.error:
        fault = f"it {listener.error}"
    elif following and not lives:
        fault = "no listener runs there, so its processes see changes late"
    return HostStatus(
        id=host.host_id,
        name=name,
        position=position,
        listener=listener,
        following=len(following) + elsewhere,
        served=len(following) - len(exceptions),
        exceptions=exceptions,
        unlisted=max(_unlisted(processes) - elsewhere, 0),
        fault=fault,
        declaration=declaration,
        processes=processes,
    )


def _unlisted(processes: Iterable[ProcessSlot]) -> int:
    """Return how many workers the uWSGI instances run beside those that are listed."""
    listed: Counter[tuple[int, int]] = Counter()
    expected: Counter[tuple[int, int]] = Counter()
    for process in processes:
        listed[process.instance] += process.role == "worker"
        expected[process.instance] = max(expected[process.instance], process.expected_workers)
    return (expected - listed).total()


def _best(states: Iterable[ListenerState]) -> ListenerState:
    """Return the state of a host that has several listeners: one that hears Redis is enough."""
    order = {"live": 0, "polling": 1, "absent": 2}
    return min(states, key=lambda state: order[state.state], default=ListenerState())


def _named(process: ProcessSlot) -> str:
    number = f" {process.worker}" if process.worker else ""
    return f"{process.role}{number} (pid {process.pid})"


def describe_silence(host: HostStatus) -> str:
    """Return since when a host has not reported, by the clock of this one."""
    since = datetime.now(timezone.utc) - timedelta(seconds=host.reported_seconds_ago)
    return f"silent since {since:%H:%M:%S} UTC ({host.reported_seconds_ago:.0f} s)"
