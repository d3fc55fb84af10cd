"""Announcing what another process of this host has committed but could not announce itself.

A writer leaves Redis alone for seconds after it has failed, and one that is killed between its
commit and its message says nothing any more. The listener knows: the host snapshot has moved,
though not by what it read from SQL itself, and nobody has said so.
"""

from __future__ import annotations

import time

from .bus import Announcement, Bus
from .shared import HostSnapshot
from .snapshot import NO_LINEAGE

__all__ = ["Relay"]

#: Seconds that whoever has moved the host snapshot gets to announce it before we do.
RELAY_AFTER_SECONDS = 0.1


class Relay:
    """What of this host's revisions is announced, and what has waited for it too long."""

    def __init__(self, namespace: str, bus: Bus, host: HostSnapshot) -> None:
        """Count what the host has now as announced."""
        self._namespace = namespace
        self._bus = bus
        self._host = host
        self._known = host.position()
        self._finished_sequence = host.sequence
        self._waiting: tuple[str, int] | None = None
        self._waiting_since = 0.0

    def count_as_announced(self, lineage: str, revision: int) -> None:
        """Note a revision that was heard of, or that SQL already told this listener."""
        latest = max(revision, self._known[1]) if self._known[0] == lineage else revision
        self._known = lineage, latest

    def turn(self) -> None:
        """Announce where the host has moved, unless somebody has or is still about to."""
        sequence = self._host.sequence
        if sequence == self._finished_sequence:
            return
        position = self._host.position()
        if self._is_known(position):
            self._finished_sequence = sequence
            self._waiting = None
        elif self._waiting is None or self._is_known(self._waiting):
            self._waiting, self._waiting_since = position, time.monotonic()
        elif time.monotonic() - self._waiting_since >= RELAY_AFTER_SECONDS and self._say(position):
            self.count_as_announced(*position)

    def _say(self, position: tuple[str, int]) -> bool:
        return self._bus.publish(Announcement(self._namespace, *position))

    def _is_known(self, position: tuple[str, int]) -> bool:
        if position[0] == NO_LINEAGE:
            return True  # there is nothing to tell of
        return self._known[0] == position[0] and self._known[1] >= position[1]
