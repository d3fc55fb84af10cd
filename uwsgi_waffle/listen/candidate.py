"""Of several processes one listens; the others wait to be woken, and to take its place."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from uwsgi_waffle.host.election import Election
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.wakes import Follower, Waker
from uwsgi_waffle.server import hooks
from uwsgi_waffle.server.concurrency import Backoff, StopEvent

__all__ = ["Candidate", "Listen"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at the listener, which may have been stopped, and at the host snapshot.
STANDBY_SECONDS = 1.0
#: Seconds before the second try to connect to a listener that is about to begin, which doubles; and
#: before this process stands again after it has listened.
CONNECT_AGAIN_SECONDS = 0.02

#: Listens until it is stopped; given what to call when the host snapshot has moved, and after each
#: turn.
Listen = Callable[[Callable[[], None], StopEvent, Callable[[], None]], None]


class Candidate:
    """One process of those of which one listens."""

    def __init__(
        self,
        host: HostSnapshot,
        listen: Listen,
        catch_up: Callable[[], None],
        *,
        master_pid: int = 0,
    ) -> None:
        """Stand for nothing yet.

        :param listen: listens until it is stopped
        :param catch_up: makes this process serve what the host snapshot holds
        :param master_pid: of the uWSGI instance of which one process listens, and wakes the others
            by uWSGI's signal; 0 for the host, whose listener wakes this process
        """
        self._host = host
        self._listen = listen
        self._catch_up = catch_up
        self._is_signalled = bool(master_pid)
        self._election = Election(host, master_pid)
        self._follower = Follower(host)
        self._connect_again = Backoff(CONNECT_AGAIN_SECONDS, STANDBY_SECONDS)

    def run(self, stop: StopEvent, on_turn: Callable[[], None] = lambda: None) -> None:
        """Listen, or follow the process that does, until *stop* is set.

        :param on_turn: called after each turn
        """
        pid = os.getpid()
        try:
            while not stop.is_set() and os.getpid() == pid:  # gevent copies greenlets at a fork
                try:
                    self._turn(stop, on_turn)
                except Exception:
                    logger.exception("waffle: following the listener failed, and is tried again.")
                    stop.wait(STANDBY_SECONDS)
                on_turn()
        finally:
            self._follower.close()

    def _turn(self, stop: StopEvent, on_turn: Callable[[], None]) -> None:
        self._host.verify()
        if self._election.win():
            self._follower.close()
            self._lead(stop, on_turn)
        elif self._is_signalled:
            stop.wait(STANDBY_SECONDS)
        else:
            self._follow(stop)

    def _lead(self, stop: StopEvent, on_turn: Callable[[], None]) -> None:
        logger.info("waffle: process %d listens.", os.getpid())
        waker = Waker(self._host)

        def moved() -> None:
            if not self._host.were_woken(self._host.sequence, hooks.instance_number()):
                hooks.wake_workers()
            waker.wake()
            self._catch_up()  # a signal reaches this worker, too, but only after its request

        def turned() -> None:
            waker.admit()
            on_turn()

        try:
            if not self._is_signalled:
                waker.open()
            self._listen(moved, _Term(stop, self._election), turned)
        finally:
            self._election.resign()  # first: that the connections end calls the others to it
            waker.close()
        stop.wait(CONNECT_AGAIN_SECONDS)  # where it was ended at once, so will the next one be

    def _follow(self, stop: StopEvent) -> None:
        if self._follower.is_connected:
            self._follower.wait(STANDBY_SECONDS)
            self._catch_up()
        elif self._follower.connect():
            self._connect_again.reset()
        else:
            stop.wait(self._connect_again.next_seconds())
            self._catch_up()


class _Term:
    """Is set, too, when this process is not to listen any more."""

    def __init__(self, stop: StopEvent, election: Election) -> None:
        self._stop = stop
        self._election = election

    def is_set(self) -> bool:
        """Return whether the loop is to end."""
        return self._stop.is_set() or not self._election.is_won()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the process is to stop, at most *timeout* seconds; return whether it is."""
        return self._stop.wait(timeout)
