"""The listener: hears of changes, moves the host snapshot, and says when it has moved.

:meth:`Listener.turn` is one turn of the loop and returns within its timeout, so tests call it
directly; a mule, a thread or a greenlet calls it again and again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from .bus import Announcement, Backoff, Bus, BusUnavailable, Subscription
from .errors import StoreUnavailable
from .reconcile import Reconciler
from .relay import Relay
from .shared import HostSnapshot
from .snapshot import Record

__all__ = ["Listener", "StopEvent", "run"]

logger = logging.getLogger(__name__)

#: Longest turn in seconds; also how late a change written by another process of this host, which
#: could not raise our signal, is noticed.
TURN_SECONDS = 0.25
#: Seconds before the second look without a find; doubles, up to the poll interval.
FRUITLESS_SECONDS = 0.25


class StopEvent(Protocol):
    """What a loop asks of ``threading.Event`` and its like."""

    def is_set(self) -> bool:
        """Return whether the loop is to end."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the loop is to end, at most *timeout* seconds; return whether it is."""


class Listener:
    """Listens for one application on one host.

    :ivar error: why Redis is not listened to at the moment, ``None`` while it is
    """

    def __init__(  # noqa: PLR0913  # all named, and each a part of the one thing it ties together
        self,
        *,
        namespace: str,
        bus: Bus | None,
        host: HostSnapshot,
        reconciler: Reconciler,
        poll_seconds: float,
        moved: Callable[[], None],
    ) -> None:
        """Listen to nothing yet.

        :param bus: ``None`` to poll SQL only
        :param moved: called when the host snapshot has moved, by whomever
        """
        self._namespace = namespace
        self._bus = bus
        self._host = host
        self._reconciler = reconciler
        self._poll_seconds = poll_seconds
        self._moved = moved
        self._relay = None if bus is None else Relay(namespace, bus, host)
        self._seen_sequence = -1
        self._subscription: Subscription | None = None
        self._context: AbstractContextManager[Subscription] | None = None
        self._backoff = Backoff(0.1, min(2.0, max(poll_seconds, 0.1)))
        self._next_connect = 0.0
        self._next_poll = 0.0
        self._fruitless = Backoff(FRUITLESS_SECONDS, max(poll_seconds, FRUITLESS_SECONDS))
        self._no_look_before = 0.0
        self._look_is_due = False
        self._wanted: tuple[str, int] | None = None
        self.error: str | None = None

    def turn(self, timeout_seconds: float, stop: StopEvent) -> None:
        """Do what is due, and wait for news at most *timeout_seconds*; never raises for a fault."""
        self._host.verify()
        self._host.beat()
        self._connect_if_due()
        self._wait_for_news(timeout_seconds, stop)
        self._look_if_due()
        self._poll_if_due()
        self._tell_if_moved()
        if self._relay is not None and self.is_live:
            self._relay.turn()

    @property
    def is_live(self) -> bool:
        """Whether Redis is heard at the moment."""
        return self._subscription is not None

    def close(self) -> None:
        """Let go of the connection."""
        context, self._context, self._subscription = self._context, None, None
        if context is not None:
            context.__exit__(None, None, None)

    def _connect_if_due(self) -> None:
        """Subscribe if there is no subscription, and look: what was said before it is lost."""
        if self._bus is None or self._subscription is not None:
            return
        if time.monotonic() < self._next_connect:
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
        self._next_poll = 0.0

    def _wait_for_news(self, timeout_seconds: float, stop: StopEvent) -> None:
        if self._look_is_due:
            timeout_seconds = min(timeout_seconds, max(0, self._no_look_before - time.monotonic()))
        if self._subscription is None:
            stop.wait(timeout_seconds)
            self._host.verify()  # much can happen to a file in that time
            return
        try:
            heard = self._subscription.receive(timeout_seconds)
        except BusUnavailable as error:
            self._lost(error)
            stop.wait(min(timeout_seconds, TURN_SECONDS))
            heard = []
        self._host.verify()
        self._note(heard)

    def _note(self, heard: list[Announcement]) -> None:
        """Mark a look as due where a message says more than the host knows, or makes no sense."""
        ours = [news for news in heard if news.namespace in (self._namespace, None)]
        if not ours:
            return
        lineage, revision = self._host.position()
        for news in ours:
            if news.namespace is None or news.lineage != lineage:
                self._look_is_due, self._wanted = True, None
            elif news.revision > revision:
                self._want(news.lineage, news.revision)
            elif self._relay is not None:
                self._relay.count_as_announced(lineage, news.revision)

    def _want(self, lineage: str, revision: int) -> None:
        """Mark a look as due that is over once the host has reached the latest of all wanted."""
        if not self._look_is_due:
            self._look_is_due, self._wanted = True, (lineage, revision)
        elif self._wanted is not None:
            same = self._wanted[0] == lineage
            self._wanted = (lineage, max(self._wanted[1], revision)) if same else None

    def _look_if_due(self) -> None:
        """Read SQL because of a message; the less it was worth the last times, the later."""
        if not self._look_is_due or time.monotonic() < self._no_look_before:
            return
        self._look_is_due = False
        before = self._host.sequence
        try:
            record = self._reconciler.take(self._wanted)
            if record is None:  # another process of this host was first, so it cost nothing
                if self._relay is not None and self._wanted is not None:
                    self._relay.count_as_announced(*self._wanted)
                return
            self._count_as_announced(record)
        except StoreUnavailable:
            self._next_poll = time.monotonic() + self._poll_seconds
        if self._host.sequence != before:
            self._fruitless.reset()
            self._no_look_before = 0.0
        else:
            self._no_look_before = time.monotonic() + self._fruitless.next_seconds()

    def _poll_if_due(self) -> None:
        """Compare with SQL, message or not."""
        if time.monotonic() < self._next_poll:
            return
        with suppress(StoreUnavailable):  # the reconciler has said so; the next poll asks again
            record = self._reconciler.poll()
            if record is not None:
                self._count_as_announced(record)
        self._next_poll = time.monotonic() + self._poll_seconds

    def _count_as_announced(self, record: Record) -> None:
        if self._relay is not None:
            self._relay.count_as_announced(record.lineage, record.revision)

    def _tell_if_moved(self) -> None:
        sequence = self._host.sequence
        if sequence != self._seen_sequence:
            self._moved()
            self._seen_sequence = sequence

    def _lost(self, error: BusUnavailable) -> None:
        """Note that Redis is gone; say so once."""
        self.close()
        self._next_connect = time.monotonic() + self._backoff.next_seconds()
        if self.error is None and self._bus is not None:
            logger.warning(
                "waffle: Redis at %s cannot be listened to (%s). Changes made on other hosts are "
                "seen by polling SQL every %g s until it can.",
                self._bus.location,
                error,
                self._poll_seconds,
            )
        self.error = str(error)


def run(listener: Listener, stop: StopEvent, after_turn: Callable[[], float]) -> None:
    """Turn until told to stop; what nobody foresaw is logged, and the next turn tries again.

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
                logger.exception("waffle: a turn of the listener failed; it goes on.")
                listener.close()
                stop.wait(backoff.next_seconds())
            else:
                backoff.reset()
    finally:
        listener.close()
