"""Every process of every host: frozen values, and the JSON that hosts report to each other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .shared import HostSnapshot, ListenerState, ProcessSlot

__all__ = ["Fleet", "HostStatus", "Laggard", "decode_host", "encode_host", "this_host"]


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host: all processes that share one host snapshot.

    :ivar id: 16 hexadecimal digits that tell it from others of the same name
    :ivar name: its host name
    :ivar lineage: the database it has the revision of
    :ivar revision: the revision of its host snapshot
    :ivar listener: what the best of its listeners does
    :ivar processes: its living processes
    :ivar reported_seconds_ago: how long ago it said so, by Redis's clock; 0 for this host
    :ivar is_silent: it reported before, but not lately: cut off from Redis, or gone
    """

    id: str
    name: str
    lineage: str
    revision: int
    listener: ListenerState
    processes: tuple[ProcessSlot, ...]
    reported_seconds_ago: float = 0.0
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class Laggard:
    """A process, or a whole host, that is not known to have applied a revision.

    :ivar host: name of the host
    :ivar process: the process; ``None`` where nothing is known of the host's
    :ivar reason: what is known instead
    """

    host: str
    process: ProcessSlot | None
    reason: str

    def __str__(self) -> str:
        if self.process is None:
            return f"host {self.host}: {self.reason}"
        number = f" {self.process.worker}" if self.process.worker else ""
        what = f"{self.process.role}{number} (pid {self.process.pid})"
        return f"{what} on {self.host}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """How far a revision has come.

    Processes that are told of changes are waited for. One that is not (its application runs
    without ``WAFFLE_MULTIPROC``, outside uWSGI) takes the revision when its next request starts.

    :ivar revision: the revision in question
    :ivar lineage: the database it belongs to
    :ivar hosts: every host that is known
    :ivar seconds: how long it was waited for
    """

    revision: int
    lineage: str
    hosts: tuple[HostStatus, ...]
    seconds: float = 0.0

    @property
    def processes(self) -> tuple[ProcessSlot, ...]:
        """The processes that are waited for, of all hosts."""
        return tuple(p for host in self.hosts for p in host.processes if p.follows)

    @property
    def applied(self) -> int:
        """How many of :attr:`processes` have applied the revision."""
        heard = (host for host in self.hosts if not host.is_silent)
        return sum(self.has_applied(p) for host in heard for p in host.processes if p.follows)

    @property
    def missing(self) -> tuple[Laggard, ...]:
        """Those that are not known to have applied the revision."""
        return tuple(self._missing())

    def has_applied(self, process: ProcessSlot) -> bool:
        """Return whether a process has applied the revision."""
        return process.lineage == self.lineage and process.revision >= self.revision

    def _missing(self) -> Iterable[Laggard]:
        for host in self.hosts:
            if host.is_silent:
                ago = f"has not reported for {host.reported_seconds_ago:.0f} s"
                yield Laggard(self.label(host), None, ago)
                continue
            for process in host.processes:
                if process.follows and not self.has_applied(process):
                    has = f"has revision {process.revision}"
                    if process.lineage != self.lineage:
                        has += " of another database" if process.lineage else ""
                    yield Laggard(self.label(host), process, has)

    def label(self, host: HostStatus) -> str:
        """Return what to call a host: its name, with a piece of its id where that is not enough."""
        is_alone = all(other.name != host.name or other.id == host.id for other in self.hosts)
        return host.name if is_alone else f"{host.name}#{host.id[:6]}"

    def __str__(self) -> str:
        hosts = "1 host" if len(self.hosts) == 1 else f"{len(self.hosts)} hosts"
        total = len(self.processes)
        noun = "process" if total == 1 else "processes"
        spent = f"{self.seconds * 1000:.0f} ms" if self.seconds < 1 else f"{self.seconds:.1f} s"
        return f"revision {self.revision}: {self.applied} of {total} {noun} on {hosts} in {spent}"


def this_host(host: HostSnapshot, name: str, stale_seconds: float) -> HostStatus:
    """Return what the host snapshot says of this host.

    :param stale_seconds: age of a heartbeat past which no listener lives here
    """
    lineage, revision = host.position()
    processes = tuple(host.slots.living())
    age = host.heartbeat_age_seconds()
    lives = age is not None and age < stale_seconds
    listener = _best([process.listener for process in processes]) if lives else ListenerState()
    return HostStatus(host.host_id, name, lineage, revision, listener, processes)


def _best(states: list[ListenerState]) -> ListenerState:
    """Return the state of a host that has several listeners: one that hears is enough."""
    for wanted in ("live", "polling"):
        for state in states:
            if state.state == wanted:
                return state
    return ListenerState()


def encode_host(host: HostStatus) -> str:
    """Return a host as it is reported; values of settings are not part of it."""
    fields = asdict(host)
    del fields["reported_seconds_ago"], fields["is_silent"]
    return json.dumps(fields)


def decode_host(report: object, seconds_ago: float, silent_after_seconds: float) -> HostStatus:
    """Return the host that a report describes.

    :raises ValueError: it is no report; anybody may have put it there
    """
    try:
        fields = json.loads(report)  # type: ignore[arg-type]  # None where it has expired
        return HostStatus(
            id=str(fields["id"]),
            name=str(fields["name"]),
            lineage=str(fields["lineage"]),
            revision=int(fields["revision"]),
            listener=_decode_listener(fields["listener"]),
            processes=tuple(_decode_process(entry) for entry in fields["processes"]),
            reported_seconds_ago=seconds_ago,
            is_silent=seconds_ago > silent_after_seconds,
        )
    except (KeyError, TypeError) as error:
        message = f"incomplete: {error!r}"
        raise ValueError(message) from error


def _decode_process(fields: Mapping[str, Any]) -> ProcessSlot:
    return ProcessSlot(
        pid=int(fields["pid"]),
        role=str(fields["role"]),
        worker=int(fields["worker"]),
        master=int(fields["master"]),
        lineage=str(fields["lineage"]),
        revision=int(fields["revision"]),
        since=float(fields["since"]),
        follows=bool(fields["follows"]),
        listener=_decode_listener(fields["listener"]),
    )


def _decode_listener(fields: Mapping[str, Any]) -> ListenerState:
    return ListenerState(str(fields["state"]), float(fields["since"]), str(fields["error"]))
