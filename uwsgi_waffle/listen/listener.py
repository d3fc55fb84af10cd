"""The listener: receives announcements, moves the host snapshot, and calls back when it has moved.

:meth:`Listener.turn` is one turn of the loop and returns within its timeout, so tests call it
directly; a mule, a thread or a greenlet calls it again and again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from uwsgi_waffle.bus.channel import Bus
from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.subscription import Heard, Subscription
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.server.concurrency import Backoff, StopEvent
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Delta, Record

from .introduction import Introduction
from .reconcile import WAIT_FOR_READER_SECONDS
from .telling import Teller

__all__ = ["Listener"]

logger = logging.getLogger(__name__)

#: Longest turn in seconds; also how late a change written by another process of this host, which
#: could not raise our signal, is noticed.
TURN_SECONDS = 0.25
#: Seconds before SQL is read again where the last announcement was stale; doubles, up to the poll
#: interval.
STALE_SECONDS = 0.25
#: Seconds that a writer of this host has to announce its revision, before the listener does.
RELAY_AFTER_SECONDS = 0.1
#: Most changes that are kept until the one before them arrives.
MOST_EARLY = 16


class Listener:
    """Listens for one application on one host.

    :ivar error: why Redis is not listened to at the moment, ``None`` while it is
    """

    def __init__(
        self,
        *,
        bus: Bus,
        host: HostSnapshot,
        introduction: Introduction,
        teller: Teller,
        on_move: Callable[[], None],
    ) -> None:
        """Listen to nothing yet.

        :param teller: announces what this host finds in SQL, and knows how often it may ask
        :param on_move: called when the host snapshot has moved, whichever process moved it
        """
        self._bus = bus
        self._host = host
        self._introduction = introduction
        self._reconciler = introduction.reconciler
        self._pace = pace = teller.pace
        self._poll_seconds = poll_seconds = pace.poll_seconds
        self._on_move = on_move
        self._relay = _Relay(bus, host)
        self._teller = teller
        self._seen_sequence = -1
        self._subscription: Subscription | None = None
        self._context: AbstractContextManager[Subscription] | None = None
        self._backoff = Backoff(0.1, min(2.0, max(poll_seconds, 0.1)))
        self._next_connect = 0.0
        self._next_poll = 0.0
        #: Of the two the earlier one counts while Redis is not heard.
        self._next_poll_alone = 0.0
        self._has_compared = False
        self._stale = Backoff(STALE_SECONDS, max(poll_seconds, STALE_SECONDS))
        self._no_read_before = 0.0
        self._wanted: Position | None = None
        #: Position -> what leads on from it, which has come before this host was there.
        self._early: dict[Position, Delta] = {}
        self.error: str | None = None

    def turn(self, timeout_seconds: float, stop: StopEvent) -> None:
        """Do what is due, and wait for messages at most *timeout_seconds*; no fault is raised."""
        self._host.verify()
        self._connect_if_due()
        self._wait_for_messages(timeout_seconds, stop)
        self._read_if_wanted()
        self._poll_if_due()
        # Not before the first comparison: until then requests ask SQL. Nor while this process ends,
        # as the last one of its host leaves word that the next one must.
        if self._host.slots.is_registered:
            self._host.beat()
        self._call_back_if_moved()
        if self.is_live:
            self._relay.announce_if_due()

    @property
    def is_live(self) -> bool:
        """Whether Redis is heard at the moment."""
        return self._subscription is not None

    def close(self) -> None:
        """Close the connection."""
        context, self._context, self._subscription = self._context, None, None
        if context is not None:
            context.__exit__(None, None, None)

    def _connect_if_due(self) -> None:
        """Subscribe if there is no subscription, and compare: earlier messages are lost."""
        if self._subscription is not None or time.monotonic() < self._next_connect:
            return
        context = self._bus.subscribe()
        try:
            self._subscription = context.__enter__()
        except BusUnavailable as error:
            self._lost(error)
            return
        self._context = context
        self._backoff.reset()
        if self.error is not None:
            logger.warning("waffle: Redis at %s answers again.", self._bus.location)
        self.error = None
        self._compare_soon()

    def _compare_soon(self) -> None:
        """Have SQL asked, at once unless all of many hosts may be about to."""
        now = time.monotonic()
        if not self._has_compared:
            self._next_poll = now
        elif self._next_poll > now + self._pace.window_seconds:  # a sooner one is spread already
            self._next_poll = now + self._pace.until_comparison()

    def _wait_for_messages(self, timeout_seconds: float, stop: StopEvent) -> None:
        if self._wanted is not None:
            timeout_seconds = min(timeout_seconds, max(0, self._no_read_before - time.monotonic()))
        if not self._has_compared:
            timeout_seconds = 0
        if self._subscription is None:
            stop.wait(timeout_seconds)
            self._host.verify()  # the file may have changed meanwhile
            return
        try:
            heard = self._subscription.receive(timeout_seconds)
        except BusUnavailable as error:
            self._lost(error)
            stop.wait(min(timeout_seconds, TURN_SECONDS))
            heard = Heard([])
        self._host.verify()
        self._note(heard)

    def _note(self, heard: Heard) -> None:
        """Mark a read of SQL as due where an announcement is later than the host snapshot."""
        if heard.ignored:
            self._host.count_ignored(heard.ignored)
        if heard.reconnected:
            self._teller.note_loss()
            self._compare_soon()
        if not heard.announcements:
            return
        present = self._host.position
        for announcement in heard.announcements:
            position = announcement.position
            self._teller.note_heard(position)
            if present.includes(position):
                self._relay.count_as_announced(position)
            elif announcement.delta is not None and self._apply(announcement.delta):
                present = self._host.position
            elif self._wanted is None or not self._wanted.includes(position):
                self._want(position)

    def _apply(self, delta: Delta) -> bool:
        """Move the host by a change, and by those that came before it; keep one that is early."""
        if not self._reconciler.apply(delta):
            self._early[delta.before] = delta
            if len(self._early) > MOST_EARLY:
                del self._early[next(iter(self._early))]
            return False
        self._relay.count_as_announced(delta.position)
        following = self._early.pop(delta.position, None)
        if following is not None:
            self._apply(following)
        return True

    def _want(self, position: Position) -> None:
        """Mark a read of SQL as due, at once unless all of many hosts may want one."""
        if self._wanted is None:
            at = time.monotonic() + self._pace.until_read()
            self._no_read_before = max(self._no_read_before, at)
        self._wanted = position

    def _read_if_wanted(self) -> None:
        """Read SQL because of an announcement; back off while announcements are stale."""
        if self._wanted is None or time.monotonic() < self._no_read_before:
            return
        wanted, self._wanted = self._wanted, None
        before, told_before = self._host.sequence, self._teller.present()
        try:
            record = self._reconciler.reconcile(wanted)
            if record is None:  # another process of this host has read it
                self._relay.count_as_announced(wanted)
                return
            self._relay.count_as_announced(record.position)
            self._teller.tell(told_before, is_comparison=False)
        except StoreUnavailable:
            self._next_poll = time.monotonic() + self._poll_seconds
        self._give_back()
        if self._host.sequence != before:
            self._stale.reset()
            self._no_read_before = 0.0
        else:
            self._no_read_before = time.monotonic() + self._stale.next_seconds()

    def _poll_if_due(self) -> None:
        """Compare with SQL, message or not."""
        due = self._next_poll if self.is_live else min(self._next_poll, self._next_poll_alone)
        if time.monotonic() < due:
            return
        before = self._teller.present()
        with suppress(StoreUnavailable):  # the reconciler has logged it; the next poll asks again
            record = self._compare()
            # The tables may have been made since this process started.
            if not self._host.keys and self._reconciler.create_namespace():
                record = self._reconciler.reconcile()
            if record is not None:
                self._relay.count_as_announced(record.position)
            if self._reconciler.behind is None:
                self._teller.tell(before, is_comparison=self.is_live)
        self._has_compared = True
        now = time.monotonic()
        self._next_poll = now + self._pace.until_poll(is_live=self.is_live)
        self._next_poll_alone = now + self._pace.until_poll(is_live=False)
        self._give_back()

    def _give_back(self) -> None:
        """Close the connection to SQL where so many hosts would hold one."""
        if not self._pace.holds_connection:
            self._reconciler.release()

    def _compare(self) -> Record | None:
        if not self._has_compared and self._introduction.is_due:
            with self._introduction.introducing(WAIT_FOR_READER_SECONDS) as is_mine:
                if is_mine:
                    return self._reconciler.poll(is_only_reader=True)
        return self._reconciler.poll()

    def _call_back_if_moved(self) -> None:
        sequence = self._host.sequence
        if sequence != self._seen_sequence:
            self._on_move()
            self._seen_sequence = sequence

    def _lost(self, error: BusUnavailable) -> None:
        """Note that Redis cannot be listened to; log it once."""
        self.close()
        now = time.monotonic()
        self._next_connect = now + self._backoff.next_seconds()
        if self.error is None:
            self._teller.note_loss()
            self._next_poll_alone = now + self._pace.until_poll(is_live=False)
            logger.warning(
                "waffle: Redis at %s cannot be listened to (%s). Changes made on other hosts are "
                "seen by polling SQL every %g s until it can.",
                self._bus.location,
                error,
                self._poll_seconds,
            )
        self.error = str(error)


class _Relay:
    """Announces host revisions that no writer announced within :data:`RELAY_AFTER_SECONDS`.

    A writer leaves Redis alone for seconds after a failure, and one that is killed between its
    commit and its message announces nothing. The sign of both: the host snapshot has moved, though
    not by what the listener read from SQL, and no announcement of its position was received.
    """

    def __init__(self, bus: Bus, host: HostSnapshot) -> None:
        """Count the host's present position as announced."""
        self._bus = bus
        self._host = host
        self._announced = host.position
        self._finished_sequence = host.sequence
        self._waiting: Position | None = None
        self._waiting_since = 0.0

    def count_as_announced(self, position: Position) -> None:
        """Note a position that was announced, or that this listener has read from SQL."""
        if not self._announced.includes(position):
            self._announced = position

    def announce_if_due(self) -> None:
        """Announce the host's position where its writer has not done so in time."""
        sequence = self._host.sequence
        if sequence == self._finished_sequence:
            return
        position = self._host.position
        if self._announced.includes(position):
            self._finished_sequence = sequence
            self._waiting = None
        elif self._waiting is None or self._announced.includes(self._waiting):
            self._waiting, self._waiting_since = position, time.monotonic()
        elif time.monotonic() - self._waiting_since >= RELAY_AFTER_SECONDS:
            self._bus.publish(position)
            if not self._bus.is_resting:
                self.count_as_announced(position)
