"""What one host of many found out by asking SQL, the others need not ask for."""

from __future__ import annotations

import time
from collections.abc import Container

from uwsgi_waffle.bus.channel import Bus
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.position import NOWHERE, Position
from uwsgi_waffle.values.snapshot import Delta, Record

from .pace import Pace

__all__ = ["Teller"]

#: Seconds for which no host repeats what another one has announced. The next one is for those that
#: were not connected yet.
REPEAT_AFTER_SECONDS = 1.0


class Teller:
    """Announces what this host has found in SQL, where so many hosts listen that all may not ask.

    A state that was announced by none, or whose announcement was lost with a connection, the first
    host to compare finds. It announces what led there, so that hosts at the state before have it
    without a read.
    """

    def __init__(
        self, bus: Bus, host: HostSnapshot, pace: Pace, open_names: Container[str]
    ) -> None:
        """Announce nothing yet.

        :param open_names: the settings that are no secrets
        """
        self._bus = bus
        self._host = host
        self.pace = pace
        self._open_names = open_names
        #: What this host served when it lost Redis, until it has compared with SQL.
        self._at_loss: Record | None = None
        self._heard: tuple[Position, float] = NOWHERE, 0.0

    def note_loss(self) -> None:
        """Note that Redis is lost, probably to all hosts, and so at about the same state."""
        if self._at_loss is None:
            self._at_loss = self.present()

    def note_heard(self, position: Position) -> None:
        """Note that a state was announced."""
        self._heard = position, time.monotonic()

    def present(self) -> Record | None:
        """Return what this host serves, ``None`` where hosts are so few that nothing is told."""
        found = self._host.read() if self.pace.is_spread else None
        return None if found is None else found[1]

    def tell(self, before: Record | None, *, is_comparison: bool) -> None:
        """Announce what SQL has just answered.

        :param before: what :meth:`present` returned before SQL was asked
        :param is_comparison: whether that was for no announcement
        """
        at_loss = self._at_loss
        if is_comparison:
            self._at_loss = None
        after = self.present()
        if before is None or after is None:
            return
        start, is_moved = at_loss or before, after.position != before.position
        if not is_moved and (at_loss is None or not is_comparison or self._is_known(after)):
            return
        if start.position == after.position:
            self._bus.publish(after.position)
            return
        delta = Delta.between(start, after, self._open_names)
        if delta is not None:
            self._bus.tell(delta)

    def _is_known(self, record: Record) -> bool:
        """Return whether the state has just been announced."""
        position, at = self._heard
        return position == record.position and time.monotonic() - at < REPEAT_AFTER_SECONDS
