"""Whether every process serves SQL's state of a revision, by what the hosts report."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import Fleet, HostStatus, NotConverged, this_host
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host.processes import ListenerState
from uwsgi_waffle.process.state import State
from uwsgi_waffle.values.position import NOWHERE, Position

__all__ = ["known_hosts", "look", "own_host", "refusals", "wait", "with_registered_hosts"]

#: Seconds between two looks at the processes of this host.
LOOK_SECONDS = 0.005
#: Seconds between two looks at all reports, beside those that hosts publish meanwhile.
LOOK_AT_REPORTS_SECONDS = 1.0
#: Most reasons that a message names; the exception has them all.
MOST_NAMED = 10
#: Seconds between two questions to SQL.
ASK_SQL_SECONDS = 0.1

#: Waits so many seconds at most for summaries that hosts publish, and returns them.
Receive = Callable[[float], list[HostStatus]]


def own_host(state: State) -> HostStatus:
    """Return what the host snapshot says of this host."""
    return this_host(
        state.host,
        state.host_name,
        state.config.stale_seconds,
        declaration=state.declaration.digest,
    )


def known_hosts(own: HostStatus, reported: Iterable[HostStatus]) -> tuple[HostStatus, ...]:
    """Return every known host; for this one its host snapshot counts, not what it reported.

    A host without a process, such as one where only a command runs, is left out.
    """
    others = [host for host in reported if host.id != own.id]
    mine = [own] if own.processes or own.following or not others else []
    return tuple(sorted(mine + others, key=lambda host: (host.name, host.id)))


def with_registered_hosts(state: State, reported: Iterable[HostStatus]) -> dict[str, HostStatus]:
    """Return id -> host, with those that are registered in SQL and have no report in Redis.

    :raises StoreUnavailable: the database did not answer
    """
    hosts = {host.id: host for host in reported}
    for registered in state.registry.read():
        host = hosts.get(registered.id)
        if host is not None and not host.is_silent:
            continue  # it reports; a reason is one that a killed process left
        if host is None:  # how many processes it has is not known
            host = HostStatus(registered.id, registered.name, NOWHERE, ListenerState(), following=1)
            fault = "Redis holds no report of it"
        else:
            fault = ""
        if registered.reason:
            fault = f"it cannot report to Redis ({registered.reason})"
        hosts[host.id] = replace(host, fault=fault)
    return hosts


def look(state: State, revision: int) -> Fleet:
    """Return which process serves SQL's present state; asks SQL and Redis once.

    :param revision: one that SQL should have reached
    """
    view = _View(state)
    view.ask_sql(revision)
    view.look_at_reports(in_full=True)
    return view.fleet(0.0)


def wait(state: State, revision: int, timeout_seconds: float) -> Fleet:
    """Return when every process that is woken for changes serves SQL's state of *revision*.

    :raises NotConverged: some do not in time, refuse a value, or may exist without being known
    """
    began = time.monotonic()
    view = _View(state)
    while True:
        view.ask_sql(revision)
        with view.acknowledgements() as receive:
            view.look_at_reports()
            look_again_at = time.monotonic() + LOOK_AT_REPORTS_SECONDS
            while time.monotonic() < look_again_at:
                view.ask_sql(revision)
                # A worker of uWSGI hears no signal before the request ends that waits here.
                state.serving.catch_up()
                fleet = view.fleet(time.monotonic() - began)
                if not fleet.missing and not fleet.refused and view.is_still_right():
                    if view.has_looked:
                        return fleet
                    break
                if time.monotonic() - began >= timeout_seconds:
                    raise _not_converged(fleet)
                view.receive(receive)


class _View:
    """What is known of all hosts while a state is waited for."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._position = NOWHERE
        self._later: frozenset[Position] = frozenset()
        self._hosts: dict[str, HostStatus] = {}
        self._unknown_hosts = ""
        self._unknown_state = ""
        self._asked_sql_at = 0.0
        #: Whether all hosts were looked for since the state is known. One that was not found then
        #: compares itself with SQL later, see :mod:`uwsgi_waffle.listen.introduction`.
        self.has_looked = False

    @contextlib.contextmanager
    def acknowledgements(self) -> Iterator[Receive]:
        """Yield how to receive what hosts publish; without Redis, a wait."""
        with contextlib.ExitStack() as stack:
            receive: Receive = _sleep
            if self._state.config.multiproc:
                lineage = self._position.lineage or self._state.host.position.lineage
                with contextlib.suppress(BusUnavailable):  # reading the reports shows it
                    receive = stack.enter_context(self._state.reports.acknowledgements(lineage))
            yield receive

    def look_at_reports(self, *, in_full: bool = False) -> None:
        """Read what all hosts have reported."""
        self.has_looked = not self._unknown_state
        if not self._state.config.multiproc:
            return
        lineage = self._position.lineage or self._state.host.position.lineage
        try:
            reported = self._state.reports.read(
                lineage, before=self._before(lineage), in_full=in_full
            )
            hosts = with_registered_hosts(self._state, reported.hosts)
        except BusUnavailable as error:
            where = self._state.redis.location
            self._unknown_hosts = f"not known, as Redis at {where} does not answer ({error})"
        except StoreUnavailable as error:
            self._unknown_hosts = str(error)
        else:
            self._unknown_hosts = ""
            self._hosts = hosts

    def receive(self, receive: Receive) -> None:
        """Add what hosts publish within :data:`LOOK_SECONDS`."""
        try:
            for host in receive(LOOK_SECONDS):
                known = self._hosts.get(host.id)
                if known is None or known.reported_at <= host.reported_at:  # none that is replayed
                    self._hosts[host.id] = host
        except BusUnavailable:
            _sleep(LOOK_SECONDS)  # reading the reports shows it

    def ask_sql(self, revision: int) -> None:
        """Find out which state is waited for, and which later ones SQL has moved to since."""
        is_known = self._position.exists and not self._unknown_state
        if (is_known and not self._has_later()) or not self._is_time_to_ask():
            return
        try:
            present = self._state.store.peek()
            if is_known:
                self._later = self._later_than(present)
            elif present != self._position:
                self._wait_for(present)
        except StoreUnavailable as error:
            self._unknown_state = str(error)
            return
        self._unknown_state = ""
        if self._position.revision < revision:
            self._unknown_state = f"SQL is at revision {present.revision}, not yet at {revision}"

    def is_still_right(self) -> bool:
        """Return whether SQL still holds the state that every process serves."""
        try:
            present = self._state.store.peek()
            if present == self._position:
                return True
            stamps = self._state.history.stamps_from(self._position.revision)
        except StoreUnavailable as error:
            self._unknown_state = str(error)
            return False
        if stamps.get(self._position.revision) == self._position.stamp:
            return present.lineage == self._position.lineage
        self._wait_for(present)
        return False

    def fleet(self, seconds: float) -> Fleet:
        """Return which process serves the state."""
        hosts = known_hosts(own_host(self._state), self._hosts.values())
        unknown = self._unknown_state or self._unknown_hosts
        return Fleet(self._position, hosts, seconds, self._later, unknown)

    def _wait_for(self, position: Position) -> None:
        """Wait for another state than so far; what is later than the former may be before it."""
        self._position, self._later, self.has_looked = position, frozenset(), False

    def _before(self, lineage: str) -> tuple[str, ...]:
        """Return the other lineages that this host knows, where other hosts may still be."""
        host = self._state.host
        known = (host.position.lineage, *host.lineages_before)
        return tuple(name for name in known if name != lineage)

    def _has_later(self) -> bool:
        """Return whether some process is past the state, at one not known to be SQL's."""
        hosts = known_hosts(own_host(self._state), self._hosts.values())
        positions = {host.position for host in hosts}
        positions |= {process.position for host in hosts for process in host.exceptions}
        return any(self._position.is_behind(p) for p in positions - self._later)

    def _later_than(self, present: Position) -> frozenset[Position]:
        """Return the states that SQL has moved to since the one that is waited for."""
        lineage, revision = self._position.lineage, self._position.revision
        if present.lineage != lineage:
            return frozenset()
        stamps = self._state.history.stamps_from(revision + 1)
        made = {Position(lineage, number, stamp) for number, stamp in stamps.items()}
        return frozenset({*made, present} if self._position.is_behind(present) else made)

    def _is_time_to_ask(self) -> bool:
        now = time.monotonic()
        if now - self._asked_sql_at < ASK_SQL_SECONDS:
            return False
        self._asked_sql_at = now
        return True


def _sleep(seconds: float) -> list[HostStatus]:
    time.sleep(seconds)
    return []


def refusals(fleet: Fleet) -> list[str]:
    """Return what processes refuse; one text for all processes of a host that refuse the same."""
    counts = Counter(replace(refusal, pid=0) for refusal in fleet.refused)
    texts = []
    for refusal in dict.fromkeys(fleet.refused):
        count = counts.pop(replace(refusal, pid=0), 0)
        if count == 1:
            texts.append(str(refusal))
        elif count:
            what = refusal.name or "the settings as a whole"
            texts.append(
                f"{count} processes on {refusal.host} refuse {what} ({refusal.reason}); they serve "
                f"the {refusal.serving}"
            )
    return texts


def _not_converged(fleet: Fleet) -> NotConverged:
    reasons = [*map(str, fleet.missing), *refusals(fleet)]
    named = "; ".join(reasons[:MOST_NAMED])
    if len(reasons) > MOST_NAMED:
        named += f"; and {len(reasons) - MOST_NAMED:,} more, which `flask waffle status` shows"
    message = f"{fleet}. Missing: {named}."
    return NotConverged(message, revision=fleet.revision, fleet=fleet)
