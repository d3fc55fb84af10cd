"""Running a listener until it is told to stop, and reporting its host to the others meanwhile."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable

from uwsgi_waffle.bus.announcements import Bus
from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import this_host
from uwsgi_waffle.bus.reports import REPORT_SECONDS, HostReports
from uwsgi_waffle.config import Config
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.server import _uwsgi
from uwsgi_waffle.server.concurrency import Backoff, StopEvent

from .listener import TURN_SECONDS, Listener
from .reconcile import Reconciler

__all__ = ["ListenerLoop", "Reporter", "retire_host", "run_turns"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at processes that are about to apply a revision; ``wait`` may wait.
CONVERGING_TURN_SECONDS = 0.01
#: Seconds after a change for which they are looked at that often.
CONVERGING_SECONDS = 2.0


class ListenerLoop:
    """Runs the listener of one application in this process, and reports its host."""

    def __init__(
        self,
        config: Config,
        bus: Bus,
        reports: HostReports,
        host: HostSnapshot,
        reconciler: Reconciler,
        declaration: str,
    ) -> None:
        """Start nothing yet.

        :param declaration: a digest of the settings that this release declares
        """
        self._declaration = declaration
        self._config = config
        self._bus = bus
        self._reports = reports
        self._host = host
        self._reconciler = reconciler

    def run(
        self,
        on_move: Callable[[], None],
        stop: StopEvent,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Listen until told to stop.

        :param on_move: called when the host snapshot has moved
        :param on_turn: called after each turn
        """
        listener = Listener(
            bus=self._bus,
            host=self._host,
            reconciler=self._reconciler,
            poll_seconds=self._config.poll_seconds,
            on_move=on_move,
        )
        reporter = Reporter(
            host=self._host,
            reports=self._reports,
            listener=listener,
            stale_seconds=self._config.stale_seconds,
            declaration=self._declaration,
        )

        def after_turn() -> float:
            on_turn()
            return reporter.report_if_due()

        try:
            run_turns(listener, stop, after_turn)
        finally:
            self._host.slots.record_listener("absent")


def run_turns(listener: Listener, stop: StopEvent, after_turn: Callable[[], float]) -> None:
    """Turn until told to stop; an unexpected error is logged, and the next turn tries again.

    :param after_turn: returns the seconds that the next turn may take
    """
    turn_seconds = TURN_SECONDS
    backoff = Backoff(0.1, 5.0)
    try:
        while not stop.is_set():
            try:
                listener.turn(turn_seconds, stop)
                turn_seconds = after_turn()
            except Exception:
                logger.exception("waffle: the listener hit an unexpected error and will retry.")
                listener.close()
                stop.wait(backoff.next_seconds())
            else:
                backoff.reset()
    finally:
        listener.close()


class Reporter:
    """Reports a host to the others: now and then, and at once when something has changed."""

    def __init__(
        self,
        *,
        host: HostSnapshot,
        reports: HostReports,
        listener: Listener,
        stale_seconds: float,
        declaration: str,
    ) -> None:
        """Report nothing yet."""
        self._declaration = declaration
        self._host = host
        self._host_name = socket.gethostname()
        self._reports = reports
        self._listener = listener
        self._stale_seconds = stale_seconds
        self._reported: object = None
        self._seen_sequence = -1
        self._converging_until = 0.0
        self._error = ""

    def report_if_due(self) -> float:
        """Report what is due, and return in how many seconds to look again."""
        state = "live" if self._listener.is_live else "polling"
        self._host.slots.record_listener(state, self._listener.error or self._error)
        now = time.monotonic()
        if self._host.sequence != self._seen_sequence:
            self._seen_sequence = self._host.sequence
            self._converging_until = now + CONVERGING_SECONDS
        converging = now < self._converging_until
        is_due = self._host.claim_report(REPORT_SECONDS)
        if is_due:
            self._count_workers()
        if converging or is_due:
            converging = self._report(only_changes=not is_due) and converging
        return CONVERGING_TURN_SECONDS if converging else TURN_SECONDS

    def _count_workers(self) -> None:
        """Record how many workers uWSGI runs, for those that load no application are not listed."""
        server = _uwsgi.server
        if server is None or not server.master_pid():
            return
        listed = [p for p in self._host.slots.living() if p.master == server.master_pid()]
        workers = sum(process.role == "worker" for process in listed)
        # What uWSGI tells about its workers leaks memory (unbit/uwsgi#2056), so it is asked only
        # where a worker seems to be missing.
        count = workers if workers >= server.worker_count else server.running_workers()
        self._host.slots.record_expected_workers(count)

    def _report(self, *, only_changes: bool) -> bool:
        """Report the host; return whether some process has yet to serve its position."""
        host = this_host(
            self._host, self._host_name, self._stale_seconds, declaration=self._declaration
        )
        served = [(p.pid, p.position, p.refused_count) for p in host.processes]
        if only_changes and served == self._reported:
            return bool(host.exceptions)
        try:
            self._reports.put(host)
        except BusUnavailable as error:
            if not self._error and self._listener.is_live:
                logger.warning(
                    "waffle: this host cannot report to Redis (%s). It serves changes as usual, "
                    "but `wait` and `set` do not succeed until it can.",
                    error,
                )
            self._error = f"cannot report: {error}"
            self._reported = None
        else:
            self._error = ""
            self._reported = served
        return bool(host.exceptions)


def retire_host(host: HostSnapshot, reports: HostReports, wait_seconds: float = 0.0) -> None:
    """Unlist this process, and with the last process its host.

    A host that disappears without this shows as silent for minutes, like one cut off from Redis.

    :param wait_seconds: how long to wait for processes that end at the same time
    """
    host.slots.release()
    deadline = time.monotonic() + wait_seconds
    while any(p.follows and p.pid != os.getpid() for p in host.slots.living()):
        if time.monotonic() >= deadline:
            return
        time.sleep(0.02)
    try:
        reports.retire(host.host_id, host.position.lineage)
    except BusUnavailable as error:
        logger.info("waffle: this host shows as silent for a while (Redis: %s).", error)
