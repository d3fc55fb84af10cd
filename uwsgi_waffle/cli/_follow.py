"""What ``history --follow`` needs: the changes in their order, and whether a reader is there."""

from __future__ import annotations

import select
import sys
import time
from contextlib import suppress

from uwsgi_waffle.errors import UnknownSetting
from uwsgi_waffle.process.state import State
from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.values.position import NOWHERE, Position

__all__ = ["Reader", "Tail", "wait_for_change"]

#: Seconds between two looks at the host snapshot, which costs nothing.
LOOK_SECONDS = 0.1
#: How many revisions a restored backup may lie back so that it is known what came after it.
REMEMBERED = 1000


class Tail:
    """The history from some revision on: each change once, in order.

    Revisions order changes, as writers commit one after another. But a database that was restored
    gives the numbers that were lost to other changes, so the stamps of revisions are remembered.
    """

    def __init__(self, state: State, name: str | None, *, reveal: bool) -> None:
        """Give nothing yet.

        :param name: one setting only
        :param reveal: show secrets
        """
        self._state = state
        self._history = state.history
        self._name = name
        self._reveal = reveal
        self._seen = NOWHERE
        #: Up to which all was given.
        self._revision = 0
        self._stamps: dict[int, str] = {}

    def start(self, limit: int | None) -> list[Change]:
        """Return the last changes, oldest first.

        :param limit: how many at most, ``None`` for all
        :raises UnknownSetting: the setting is neither declared nor in the history
        :raises StoreUnavailable: the database did not answer
        """
        position = self._state.store.peek()
        if self._name is not None and self._name not in self._state.declaration.names:
            self._check_history(self._name)
        self._stamps = self._history.stamps_from(max(0, position.revision - REMEMBERED))
        changes = self._history.changes(self._name, limit, reveal=self._reveal)
        return self._until(position, sorted(changes, key=lambda change: change.revision))

    def new(self) -> list[Change]:
        """Return the changes that have come since, oldest first.

        :raises StoreUnavailable: the database did not answer
        """
        position = self._state.store.peek()
        if not position.exists or position == self._seen:
            return []
        self._find_place(position)
        changes = self._history.changes_after(self._revision, self._name, reveal=self._reveal)
        return self._until(position, changes)

    def _check_history(self, name: str) -> None:
        if not self._history.changes(name, 1):
            raise UnknownSetting([name], self._state.declaration.names)

    def _until(self, position: Position, changes: list[Change]) -> list[Change]:
        """Return the changes up to a position, and go on behind it.

        The stamps of later ones are not known yet.
        """
        self._seen, self._revision = position, position.revision
        return [change for change in changes if change.revision <= position.revision]

    def _find_place(self, position: Position) -> None:
        """Go back where SQL holds other changes than those that were given."""
        if position.lineage != self._seen.lineage:
            self._revision, self._stamps = 0, {}
        stamps = self._history.stamps_from(self._revision)
        own = self._stamps.get(self._revision)
        if position.revision < self._revision or stamps.get(self._revision, own) != own:
            stamps = self._history.stamps_from(0)
            kept = [n for n, stamp in self._stamps.items() if stamps.get(n) == stamp]
            before = min(min(self._stamps, default=1) - 1, position.revision)
            self._revision = max(kept, default=before)
            self._stamps = {}
        self._stamps.update(stamps)
        oldest = position.revision - REMEMBERED
        self._stamps = {n: stamp for n, stamp in self._stamps.items() if n > oldest}


class Reader:
    """The reader of the standard output, such as a terminal, or ``head`` behind a pipe."""

    def __init__(self) -> None:
        self._poll = select.poll()
        with suppress(AttributeError, OSError, ValueError):  # it is no file
            self._poll.register(sys.stdout.fileno(), 0)

    def is_gone(self, seconds: float) -> bool:
        """Wait, unless the reader is gone or goes; return whether it has."""
        return bool(self._poll.poll(seconds * 1000))


def wait_for_change(state: State, sequence: int, reader: Reader) -> bool:
    """Wait until this host has moved, one poll at most; return whether a reader is there.

    :param sequence: of the host snapshot, before SQL was asked
    """
    until = time.monotonic() + state.config.poll_seconds
    while state.host.sequence == sequence and time.monotonic() < until:
        if reader.is_gone(LOOK_SECONDS):
            return False
    state.host.verify()  # it may have been replaced, and only polls would find a change
    return True
