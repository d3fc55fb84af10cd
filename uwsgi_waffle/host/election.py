"""One listener for each host, or uWSGI instance: a lock that the kernel drops with its process.

A process that is stopped keeps its lock. So there are several seats, and the highest that is taken
counts: where the listener gives no sign of life, another process takes the next seat, and the first
one, if it ever runs again, finds that and leaves.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from .lives import LifeLocks, pid_namespace
from .records import HostSnapshot

__all__ = ["Election"]

logger = logging.getLogger(__name__)

#: How many stopped listeners a host gets over, less one; no more listen where all are slow.
SEATS = 3
#: Seconds without a turn after which a listener counts as stopped; a turn takes 0.25 s.
STOPPED_SECONDS = 3.0

#: (pid, file, instance) -> the candidate of that process that won: a record lock excludes other
#: processes only, and one process may hold several applications of one namespace.
_winners: dict[tuple[int, Path, int], Election] = {}


class Election:
    """A candidate for the listener of a host, or of one uWSGI instance.

    The seats of each are bytes of their own in a file beside the host snapshot, so instances that
    share the host snapshot do not compete.
    """

    def __init__(self, host: HostSnapshot, master_pid: int = 0) -> None:
        """Stand for the instance whose master has that pid; for the host where it is 0."""
        self._host = host
        self._first = (pid_namespace() << 24 | master_pid) * SEATS if master_pid else 0
        self._path = host.path
        self._locks = LifeLocks(self._path, ".listeners")
        self._seat: int | None = None
        self._has_logged = False
        #: The highest seat that another process holds, and since when, as this one saw it.
        self._seen = (-1, 0.0)

    def win(self) -> bool:
        """Try to become the listener, and return whether this process is it now.

        Where the processes share no memory, or the lock file cannot be opened, return True: two
        listeners are harmless, none is not.
        """
        self._seat = None
        if not self._host.is_shared:
            return True
        self._follow_host()
        if _winners.setdefault(self._key(), self) is not self:
            return False
        try:
            self._seat = self._take_seat()
        except OSError as error:
            if not self._has_logged:
                logger.warning(
                    "waffle: no listener can be elected (%s), so each candidate listens.", error
                )
            self._has_logged = True
            return True
        if self._seat is None:
            del _winners[self._key()]
        return self._seat is not None

    def is_won(self) -> bool:
        """Return whether this process, once it has won, is to go on listening."""
        if not self._host.is_shared:
            return self._seat is None
        if self._path != self._host.path:
            return False  # the process now runs as another user
        try:
            held = self._locks.held_here()
            if self._seat is None:
                self._is_taken(0)
                return False  # there is a lock to be had by now
            above = range(self._seat + 1, SEATS)
            return self._first + self._seat in held and not any(map(self._is_taken, above))
        except OSError:
            return self._seat is None

    def resign(self) -> None:
        """Leave the lock to another candidate."""
        if _winners.get(self._key()) is not self:
            return
        if self._seat is not None:
            self._locks.release(self._first + self._seat)
            self._seat = None
        del _winners[self._key()]

    def _take_seat(self) -> int | None:
        """Take the seat above those of listeners that are stopped; ``None`` where one runs.

        :raises OSError: the lock file cannot be used
        """
        taken = [seat for seat in range(SEATS) if self._is_taken(seat)]
        highest = max(taken, default=-1)
        if highest != self._seen[0]:
            self._seen = highest, time.monotonic()
        seat = highest + 1
        may_sit = not taken or (seat < SEATS and self._is_silent())
        return seat if may_sit and self._locks.hold(self._first + seat) else None

    def _is_silent(self) -> bool:
        """Return whether the listener has given no sign of life for as long as it was watched."""
        age_seconds = self._host.heartbeat_age_seconds()
        watched_seconds = time.monotonic() - self._seen[1]
        return watched_seconds > STOPPED_SECONDS and (
            age_seconds is None or age_seconds > STOPPED_SECONDS
        )

    def _is_taken(self, seat: int) -> bool:
        return self._locks.is_held_elsewhere(self._first + seat)

    def _follow_host(self) -> None:
        if self._path != self._host.path:
            self._path = self._host.path
            self._locks = LifeLocks(self._path, ".listeners")

    def _key(self) -> tuple[int, Path, int]:
        return os.getpid(), self._path, self._first
