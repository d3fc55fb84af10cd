"""What a listener tells of itself and of its host, beside listening."""

from __future__ import annotations

import time
from contextlib import suppress

from ._redis import BusUnavailable
from .fleet import this_host
from .listener import TURN_SECONDS, Listener
from .reports import REPORT_SECONDS, HostReports
from .shared import HostSnapshot

__all__ = ["Reporter"]

#: Seconds between two looks at processes that are about to take a revision; somebody may wait.
CONVERGING_TURN_SECONDS = 0.01
#: Seconds after a change for which it is looked at that often.
CONVERGING_SECONDS = 2.0


class Reporter:
    """Reports a host to the others, now and then, and at once when something has changed."""

    def __init__(
        self,
        *,
        host: HostSnapshot,
        host_name: str,
        reports: HostReports,
        listener: Listener,
        stale_seconds: float,
    ) -> None:
        """Report nothing yet."""
        self._host = host
        self._host_name = host_name
        self._reports = reports
        self._listener = listener
        self._stale_seconds = stale_seconds
        self._reported: object = None
        self._seen_sequence = -1
        self._converging_until = 0.0

    def turn(self) -> float:
        """Report what is due, and return in how many seconds to look again."""
        self._tell_state()
        now = time.monotonic()
        if self._host.sequence != self._seen_sequence:
            self._seen_sequence = self._host.sequence
            self._converging_until = now + CONVERGING_SECONDS
        converging = now < self._converging_until
        if converging or self._host.claim_report(REPORT_SECONDS):
            converging = self._report(converging=converging) and converging
        return CONVERGING_TURN_SECONDS if converging else TURN_SECONDS

    def _tell_state(self) -> None:
        state = "live" if self._listener.is_live else "polling"
        self._host.slots.record_listener(state, self._listener.error or "")

    def _report(self, *, converging: bool) -> bool:
        """Report the host, while it converges only what is news; return whether it still does."""
        host = this_host(self._host, self._host_name, self._stale_seconds)
        position = (host.lineage, host.revision)
        lagging = any((p.lineage, p.revision) != position for p in host.processes if p.follows)
        news = [(p.pid, p.lineage, p.revision) for p in host.processes]
        if self._listener.is_live and (not converging or news != self._reported):
            with suppress(BusUnavailable):  # the listener notices for itself, and says so
                self._reports.put(host)
                self._reported = news
        return lagging
