"""Moving the host snapshot to SQL: at most one read per host and change."""

from __future__ import annotations

import logging
import math
import time

from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.turns import only_reader
from uwsgi_waffle.sql.store import Store
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Delta, Record

__all__ = ["Reconciler", "problem_of_order"]

logger = logging.getLogger(__name__)

#: Seconds to wait for another process of this host that is reading SQL, before reading as well.
WAIT_FOR_READER_SECONDS = 1.0


class Reconciler:
    """Compares SQL with the host snapshot, and moves the snapshot.

    :ivar error: why SQL could not be read the last time, ``None`` where it could
    :ivar behind: SQL's position where that is behind the host snapshot (a restored backup, a
        lagging replica, an emptied database), else ``None``
    """

    def __init__(self, store: Store, host: HostSnapshot, poll_seconds: float) -> None:
        self._store = store
        self._host = host
        self._poll_seconds = poll_seconds
        self.error: StoreUnavailable | None = None
        self.behind: Position | None = None
        self._answered_at = -math.inf
        self._has_missed_namespace = False

    def reconcile(self, wanted: Position | None = None, *, at_start: bool = False) -> Record | None:
        """Read SQL and move the host snapshot to it; return what SQL holds.

        :param wanted: an announced position; where another process has moved the snapshot there
            meanwhile, nothing is read
        :param at_start: as for :meth:`HostSnapshot.publish`
        :return: ``None`` where nothing was read
        :raises StoreUnavailable: SQL did not answer; logged once
        """
        if wanted is None:
            return self._reconcile(at_start=at_start)
        with only_reader(self._host, wait_seconds=WAIT_FOR_READER_SECONDS):
            if self._includes(wanted):
                return None
            return self._reconcile()

    def apply(self, delta: Delta) -> bool:
        """Move the host snapshot by what one commit changed, and return whether it is there now.

        The commit is known by a signature, so SQL need not be asked. It is, where the host is not
        at the state before it.
        """
        found = self._host.read()
        if found is None:
            return False
        sequence, record = found
        after = delta.apply(record)
        return after is not None and self._host.publish(after, since=sequence) is not None

    def poll(self, *, is_only_reader: bool = False) -> Record | None:
        """Compare positions, and read SQL if it is at another one, or a later one.

        :param is_only_reader: whether this process holds the right to read already
        :return: ``None`` where nothing was read
        :raises StoreUnavailable: SQL did not answer; logged once
        """
        # Before SQL: what is committed and published in between must not look like a backup.
        seen = self._host.position
        try:
            position = self._store.peek()
        except StoreUnavailable as error:
            self._failed(error)
            raise
        self._answered()
        if self._includes(position):
            self._check_order(position, seen)
            return None
        return self._reconcile() if is_only_reader else self.reconcile(position)

    def _includes(self, position: Position) -> bool:
        """Return whether the host snapshot has what SQL holds, also where that is nothing yet."""
        return self._host.sequence != 0 and self._host.position.includes(position)

    def read(self) -> Record:
        """Return what SQL holds, and do not move the host snapshot.

        :raises StoreUnavailable: SQL did not answer; logged once
        """
        try:
            record = self._store.read()
        except StoreUnavailable as error:
            self._failed(error)
            raise
        self._answered()
        return record

    def create_namespace(self, *, at_start: bool = False) -> bool:
        """Make the namespace, so that there are a lineage and a key before the first change.

        :param at_start: this may be the command that makes the tables, so do not miss them
        :return: whether it is there now; logged once where it should be, and is not
        """
        try:
            if not self._store.database.may_fill():
                return False
            self._store.create_namespace()
        except StoreUnavailable as error:
            if not at_start and not self._has_missed_namespace:
                logger.warning("waffle: the namespace cannot be made: %s", error)
                self._has_missed_namespace = True
            return False
        return True

    def reconnect(self) -> None:
        """Leave a connection to the thread that waits on it; the next question makes a new one."""
        self._store.database.close()

    def release(self) -> None:
        """Close the connection that this process holds; the next question makes a new one."""
        self._store.database.close()

    def note_silence(self, seconds: float) -> None:
        """Log, once, that SQL has not answered for so long, unless it has answered since."""
        if time.monotonic() - self._answered_at < seconds:
            return
        url = self._store.database.url
        message = f"The settings database {url} has not answered for {seconds:.1f} s"
        self._failed(StoreUnavailable(message, url=url))

    def _reconcile(self, *, at_start: bool = False) -> Record:
        seen, sequence = self._host.position, self._host.sequence
        record = self.read()
        self._host.publish(record, at_start=at_start, since=sequence)
        self._check_order(record.position, seen)
        return record

    def _check_order(self, stored: Position, seen: Position) -> None:
        """Note, and log once, that SQL is behind what this host had seen before it was asked."""
        problem = problem_of_order(stored, seen)
        if problem is None:
            self.behind = None
            return
        if self.behind is None:
            logger.warning("waffle: the database %s %s", self._store.database.url, problem)
        self.behind = stored

    def _failed(self, error: StoreUnavailable) -> None:
        if self.error is None:
            logger.warning(
                "waffle: %s. The last known settings are served; it is asked again every %g s.",
                str(error).rstrip("."),
                self._poll_seconds,
            )
        self.error = error
        self._host.note_sql(answers=False)

    def _answered(self) -> None:
        self._answered_at = time.monotonic()
        self._host.note_sql(answers=True)
        if self.error is not None:
            logger.warning("waffle: the database %s answers again.", self._store.database.url)
        self.error = None


def problem_of_order(stored: Position, seen: Position) -> str | None:
    """Return what is wrong where SQL is behind what a host had seen of it, else ``None``.

    :param stored: SQL's position
    :param seen: that of the host, read before SQL's
    :return: a sentence that follows the name of the database
    """
    if not stored.exists and seen.exists:
        return (
            f"holds no settings any more, but this host has seen revision {seen.revision}, and "
            "still serves it. Restore the database; if it is meant to be empty, run "
            "`flask waffle resync`."
        )
    if stored.is_behind(seen):
        return (
            f"is at revision {stored.revision}, but this host is ahead of SQL, at revision "
            f"{seen.revision}, and still serves it. The database was restored from a backup, or "
            "is a replica that lags. If it is right, run `flask waffle resync`."
        )
    return None
