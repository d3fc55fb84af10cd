"""What an operator asks: which revision is where, is it everywhere, and what is wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._redis import BusUnavailable
from .errors import NotConverged, StoreUnavailable
from .fleet import Fleet, HostStatus, Laggard, this_host
from .reconcile import problem_of_order

if TYPE_CHECKING:
    from .state import State

__all__ = ["ProcessStatus", "Status", "collect", "look", "wait"]

#: Seconds between two looks at processes of this host, and at those of others.
_LOOK_SECONDS = 0.005
_ASK_REDIS_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The process that asks.

    :ivar revision: the revision it serves
    :ivar place: where it gets its news from: ``mule``, ``worker``, ``thread`` or ``none``
    """

    lineage: str
    revision: int
    place: str


@dataclass(frozen=True, slots=True)
class Status:
    """The settings of an application, everywhere.

    :ivar revision: SQL's, ``None`` where it does not answer
    :ivar lineage: SQL's, likewise
    :ivar process: the process that asks
    :ivar host: its host
    :ivar hosts: every host that is known, this one among them
    :ivar problems: what is not as it should be, each in a sentence that names the fix
    """

    revision: int | None
    lineage: str | None
    process: ProcessStatus
    host: HostStatus
    hosts: tuple[HostStatus, ...]
    problems: tuple[str, ...]

    @property
    def fleet(self) -> Fleet:
        """How far SQL's revision, or where it has none to tell the host's, has come."""
        if self.revision is None or not self.lineage:
            return Fleet(self.host.revision, self.host.lineage, self.hosts)
        return Fleet(self.revision, self.lineage, self.hosts)


def collect(state: State) -> Status:
    """Return the present status; asks SQL and Redis once each, and says so where one is away."""
    problems: list[str] = []
    revision: int | None = None
    lineage: str | None = None
    try:
        lineage, revision = state.store.peek()
    except StoreUnavailable as error:
        problems.append(f"{error} The last known settings are served.")
    host = _this_host(state)
    hosts: tuple[HostStatus, ...] = (host,)
    if state.config.multiproc:
        try:
            hosts = _merged(host, state.listening.reports.all())
        except BusUnavailable as error:
            problems.append(
                f"Redis at {state.redis.location} does not answer ({error}): nothing is known of "
                "other hosts, and they see changes when they next poll SQL."
            )
    problems.extend(_problems(state, host, lineage, revision))
    current = state.holder.current
    place = state.place.value if state.place is not None else "none"
    process = ProcessStatus(current.lineage, current.revision, place)
    return Status(revision, lineage, process, host, hosts, tuple(problems))


def look(state: State, revision: int) -> tuple[Fleet, tuple[Laggard, ...]]:
    """Return how far a revision has come, and who is missing; asks Redis once, and SQL never."""
    others: list[HostStatus] = []
    unknown: str | None = None
    if state.config.multiproc:
        try:
            others = state.listening.reports.all()
        except BusUnavailable as error:
            unknown = str(error)
    own = _this_host(state)
    fleet = Fleet(revision, own.lineage, _merged(own, others))
    return fleet, fleet.missing + _unknown_hosts(state, unknown)


def wait(state: State, revision: int, timeout_seconds: float) -> Fleet:
    """Return when every process that is told of changes has applied *revision*.

    :raises NotConverged: some have not in time, or nothing is known of other hosts
    """
    began = time.monotonic()
    others: list[HostStatus] = []
    unknown: str | None = None
    ask_redis_at = 0.0
    while True:
        now = time.monotonic()
        own = _this_host(state)
        if state.config.multiproc and now >= ask_redis_at:
            ask_redis_at = now + _ASK_REDIS_SECONDS
            try:
                others, unknown = state.listening.reports.all(), None
            except BusUnavailable as error:
                unknown = str(error)
        fleet = Fleet(revision, own.lineage, _merged(own, others), now - began)
        missing = fleet.missing + _unknown_hosts(state, unknown)
        if not missing:
            return fleet
        if now - began >= timeout_seconds:
            raise _not_converged(fleet, missing)
        time.sleep(_LOOK_SECONDS)


def _unknown_hosts(state: State, error: str | None) -> tuple[Laggard, ...]:
    """Return what stands for the hosts that Redis would tell of."""
    if error is None:
        return ()
    reason = f"Redis at {state.redis.location} does not answer ({error})"
    return (Laggard("(any other)", None, f"not known, as {reason}"),)


def _not_converged(fleet: Fleet, missing: tuple[Laggard, ...]) -> NotConverged:
    listed = "; ".join(str(laggard) for laggard in missing)
    message = f"{fleet}. Missing: {listed}."
    return NotConverged(message, revision=fleet.revision, missing=missing, fleet=fleet)


def _this_host(state: State) -> HostStatus:
    return this_host(state.host, state.listening.host_name, state.config.stale_seconds)


def _merged(own: HostStatus, reported: list[HostStatus]) -> tuple[HostStatus, ...]:
    """Return every known host; what this one has reported of itself gives way to what it is.

    A host without any process, such as one where only a command runs, is left out.
    """
    others = [host for host in reported if host.id != own.id]
    mine = [own] if own.processes or not others else []
    return tuple(sorted(mine + others, key=lambda host: (host.name, host.id)))


def _problems(
    state: State, host: HostStatus, lineage: str | None, revision: int | None
) -> list[str]:
    """Return what is not as it should be on this host, and with the stored values."""
    current = state.holder.current
    problems = [str(problem) for problem in current.problems]
    if current.undeclared:
        names = ", ".join(current.undeclared)
        problems.append(
            f"Stored but not declared by this release: {names}. They do no harm; an older or newer "
            "release may want them."
        )
    if revision is not None:
        behind = problem_of_order((lineage or "", revision), (host.lineage, host.revision))
        if behind is not None:
            problems.append(f"SQL {behind}")
    if state.config.multiproc and host.processes and host.listener.state == "absent":
        problems.append(
            "No listener turns on this host. Requests see changes within "
            f"{state.config.poll_seconds:g} s; run `flask waffle doctor` for the reason."
        )
    elif host.listener.state == "polling":
        why = host.listener.error or "it does not use Redis"
        every = f"every {state.config.poll_seconds:g} s"
        problems.append(f"The listener of this host only polls SQL, {every} ({why}).")
    return problems
