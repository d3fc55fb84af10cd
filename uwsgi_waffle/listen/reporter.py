"""Telling the other hosts of this one: it is registered in SQL, and reports through Redis."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.reports import REPORT_SECONDS, HostReports
from uwsgi_waffle.config import Config
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host.lives import pid_namespace
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.turns import only_reader
from uwsgi_waffle.server import _uwsgi
from uwsgi_waffle.server.concurrency import Backoff, spread
from uwsgi_waffle.sql.hosts import HostRegistry

from .introduction import REGISTER_SECONDS, host_name
from .listener import TURN_SECONDS, Listener
from .pace import Pace

__all__ = ["Reporter"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at processes that are about to apply a revision; ``wait`` may wait.
CONVERGING_TURN_SECONDS = 0.01
#: Seconds after a change for which they are looked at that often.
CONVERGING_SECONDS = 2.0
#: Seconds that the processes of the host have after a change before they are looked at: a report
#: that finds them behind costs them the processor, and has to be made again.
SETTLE_SECONDS = 0.003
#: How often a report fails in a row before SQL is told, where Redis is not heard at all.
FAILURES_BEFORE_REASON = 4
#: Seconds between the first two counts of the registered hosts, which double, and the most.
COUNT_SECONDS = (100.0, 300.0)
#: Seconds that a process that ends waits for the report which its listener is making.
LAST_REPORT_SECONDS = 1.0


class Reporter:
    """Reports a host to the others: now and then, and at once when something has changed.

    :ivar pace: how often this host may ask SQL, by how many hosts are registered there
    """

    def __init__(
        self,
        config: Config,
        host: HostSnapshot,
        reports: HostReports,
        registry: HostRegistry,
        declaration: str,
    ) -> None:
        """Report nothing yet.

        :param declaration: a digest of the settings that this release declares
        """
        self.pace = Pace(config.poll_seconds)
        self._uses_redis = config.multiproc
        self._stale_seconds = config.stale_seconds
        self._host = host
        self._host_name = host_name()
        self._reports = reports
        self._registry = registry
        self._declaration = declaration
        self._reported: object = None
        self._seen_sequence = -1
        self._converging_until = 0.0
        #: When the change that was seen last may be reported, 0 once it may.
        self._settled_at = 0.0
        self._retry_at = 0.0
        self._was_live = False
        self._backoff = Backoff(REPORT_SECONDS, 10 * REPORT_SECONDS)
        self._failures = 0
        self._error = ""
        #: Why this host cannot report, as it is registered.
        self._registered_reason = ""
        self._register_backoff = Backoff(REPORT_SECONDS, 10 * REPORT_SECONDS)
        self._register_at = 0.0
        self._register_share = spread(0.75, 1.0)  # so that hosts started at once keep no step
        #: Whether there is a reason, if that differs from what is registered.
        self._spread_for: bool | None = None
        self._count_backoff = Backoff(*COUNT_SECONDS)
        self._count_at = 0.0
        #: The process that has counted the workers.
        self._counted_pid = 0
        #: The process in which a report is being made; not a lock, which a fork could copy as held.
        self._reporting_pid = 0

    def report_if_due(self, listener: Listener) -> float:
        """Report what is due, and return in how many seconds to look again.

        :param listener: that of this process, whose state is part of the report
        """
        self._reporting_pid = os.getpid()
        try:
            # A process that ends has taken its host back, or is about to.
            is_listed = self._host.slots.is_registered
            return self._report_if_due(listener) if is_listed else TURN_SECONDS
        finally:
            self._reporting_pid = 0

    def _report_if_due(self, listener: Listener) -> float:
        state = "live" if listener.is_live else "polling"
        self._host.slots.record_listener(state, listener.error or self._error)
        now = time.monotonic()
        if listener.is_live and not self._was_live:
            self._retry_at = now  # Redis is heard again, so other hosts should hear of this one
        self._was_live = listener.is_live
        if self._host.sequence != self._seen_sequence:
            if self._seen_sequence >= 0:
                self._settled_at = self._settled_at or now + SETTLE_SECONDS
            self._seen_sequence = self._host.sequence
            self._converging_until = now + CONVERGING_SECONDS
        if now < self._settled_at:
            return self._settled_at - now
        self._settled_at = 0.0
        converging = now < self._converging_until
        if self._uses_redis and now >= self._count_at:
            self._count_hosts()
        is_due = self._host.claim_report(REPORT_SECONDS)
        # The first report of a process is rarely due, where it takes the place of another.
        if is_due or self._counted_pid != os.getpid():
            self._count_workers()
        if is_due:
            self._register(self._registered_reason)
        lags = now >= self._retry_at and self._report(listener, only_changes=not is_due)
        return CONVERGING_TURN_SECONDS if converging and lags else TURN_SECONDS

    def retire(self, wait_seconds: float = 0.0) -> None:
        """Unlist this process, and with the last process its host.

        A host that ends without this shows as silent for minutes, like one cut off from Redis.

        :param wait_seconds: how long to wait for processes that end at the same time
        """
        host = self._host
        host.slots.release()
        deadline = time.monotonic() + wait_seconds
        while any(p.follows for p in host.slots.others()):
            if time.monotonic() >= deadline:
                return
            time.sleep(0.02)
        deadline = time.monotonic() + LAST_REPORT_SECONDS
        while self._reporting_pid == os.getpid() and time.monotonic() < deadline:
            time.sleep(0.005)
        # From now on `wait` does not know of this host, so it may miss what is proven meanwhile. A
        # process that joins is listed first, and then looks at what is noted here.
        was_registered = host.is_registered
        host.note_deserted()
        with only_reader(host, wait_seconds=LAST_REPORT_SECONDS):
            if not (host.slots.count_elsewhere() or any(p.follows for p in host.slots.living())):
                self._forget(was_registered=was_registered)

    def _forget(self, *, was_registered: bool) -> None:
        """Have no other host know of this one."""
        host = self._host
        if not self._uses_redis and not was_registered:
            return  # none does
        try:
            for lineage in (host.position.lineage, *host.lineages_before):
                self._reports.retire(host.host_id, lineage)
            if was_registered:
                self._registry.forget(host.host_id)
        except (BusUnavailable, StoreUnavailable) as error:
            logger.info("waffle: this host shows as silent for a while (%s).", error)

    def _count_workers(self) -> None:
        """Record how many workers uWSGI runs, for those that load no application are not listed."""
        self._counted_pid = os.getpid()
        server = _uwsgi.server
        if server is None or not server.master_pid():
            return
        instance = pid_namespace(), server.master_pid()
        listed = [p for p in self._host.slots.living() if p.instance == instance]
        workers = sum(process.role == "worker" for process in listed)
        # To ask uWSGI for its workers leaks memory (unbit/uwsgi#2056), so it is asked only where a
        # worker seems to be missing.
        count = workers if workers >= server.worker_count else server.running_workers()
        self._host.slots.record_expected_workers(count)

    def _report(self, listener: Listener, *, only_changes: bool) -> bool:
        """Report the host; return whether some process has yet to serve its position."""
        from uwsgi_waffle.bus.fleet import this_host

        host = this_host(
            self._host, self._host_name, self._stale_seconds, declaration=self._declaration
        )
        served = [(p.pid, p.position, p.refused_count) for p in host.processes]
        if only_changes and served == self._reported:
            return bool(host.exceptions)
        try:
            self._reports.put(host, left=self._host.lineages_before)
        except BusUnavailable as error:
            self._failed(str(error), redis_is_heard=listener.is_live)
        else:
            self._error = ""
            self._failures = 0
            self._reported = served
            self._backoff.reset()
            self._register("")
        return bool(host.exceptions)

    def _failed(self, reason: str, *, redis_is_heard: bool) -> None:
        """Log once that this host cannot report, and tell the others."""
        if redis_is_heard and not self._error:
            logger.warning(
                "waffle: this host cannot report to Redis (%s). It serves changes as usual, but "
                "`wait` and `set` do not succeed until it can.",
                reason,
            )
        self._error = f"cannot report: {reason}"
        self._failures += 1
        self._reported = None
        self._retry_at = time.monotonic() + self._backoff.next_seconds()
        # A Redis that restarts must not cost SQL a write for each host.
        if redis_is_heard or self._failures >= FAILURES_BEFORE_REASON:
            self._register(reason)

    def _register(self, reason: str) -> None:
        """Register this host in SQL: at once where the reason is another one, else now and then.

        :param reason: why it cannot report, ``""`` where it can
        """
        now, has_reason = time.monotonic(), bool(reason)
        if has_reason != bool(self._registered_reason) and has_reason != self._spread_for:
            # All hosts may have lost Redis, or have it again, at this moment.
            self._spread_for = has_reason
            self._register_at = max(self._register_at, now + self.pace.until_comparison())
        if now < self._register_at:
            return  # or SQL did not take it a moment ago
        is_due = self._host.claim_registration(REGISTER_SECONDS * self._register_share)
        if reason == self._registered_reason and not is_due:
            return
        self._register_share = spread(0.75, 1.0)
        try:
            self._registry.register(self._host.host_id, self._host_name, reason)
        except StoreUnavailable:  # the reconciler logs that SQL does not answer
            self._host.note_unregistered()
            self._register_at = now + self._register_backoff.next_seconds()
        else:
            self._registered_reason = reason
            self._spread_for = None
            self._register_backoff.reset()
        self._give_back()

    def _count_hosts(self) -> None:
        """Ask SQL how many hosts share it."""
        self._count_at = time.monotonic() + self._count_backoff.next_seconds()
        with suppress(StoreUnavailable):  # the reconciler logs that SQL does not answer
            self.pace.hosts = max(self._registry.count(), 1)
        self._give_back()

    def _give_back(self) -> None:
        """Close the connection to SQL where so many hosts would hold one."""
        if not self.pace.holds_connection:
            self._registry.release()
