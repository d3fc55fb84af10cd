"""Bringing the host snapshot up to SQL: at most one read per host and change."""

from __future__ import annotations

import logging

from .errors import StoreUnavailable
from .shared import HostSnapshot
from .snapshot import NO_LINEAGE, Record
from .store import Store

__all__ = ["Reconciler", "problem_of_order"]

logger = logging.getLogger(__name__)

#: Seconds to wait for another process of this host that is reading SQL, before reading as well.
WAIT_FOR_READER_SECONDS = 1.0


class Reconciler:
    """Compares SQL with the host snapshot, and moves the snapshot.

    :ivar error: why SQL could not be read the last time, ``None`` where it could
    :ivar behind: the position of SQL where it is behind the snapshot (a restored backup, a lagging
        replica, an emptied database), else ``None``
    """

    def __init__(self, store: Store, host: HostSnapshot, poll_seconds: float) -> None:
        self._store = store
        self._host = host
        self._poll_seconds = poll_seconds
        self.error: StoreUnavailable | None = None
        self.behind: tuple[str, int] | None = None

    def take(
        self, at_least: tuple[str, int] | None = None, *, at_start: bool = False
    ) -> Record | None:
        """Read SQL and move the snapshot to it; return what SQL holds.

        :param at_least: a position that somebody announced; where the snapshot has reached it by
            the time it is our turn to read, nothing is read
        :param at_start: as for :meth:`HostSnapshot.publish`
        :return: ``None`` where nothing was read
        :raises StoreUnavailable: SQL did not answer; said once in the log
        """
        if at_least is None:
            return self._take(at_start=at_start)
        with self._host.only_reader(wait_seconds=WAIT_FOR_READER_SECONDS):
            if _has_reached(self._host.position(), at_least):
                return None
            return self._take()

    def poll(self, *, is_only_reader: bool = False) -> Record | None:
        """Compare revisions, and read if SQL is at another or a later one.

        :param is_only_reader: whether this process holds the right to read already
        :return: ``None`` where nothing was read
        :raises StoreUnavailable: SQL did not answer; said once in the log
        """
        try:
            position = self._store.peek()
        except StoreUnavailable as error:
            self._failed(error)
            raise
        self._answered()
        if _has_reached(self._host.position(), position):
            self._note_order(*position)
            return None
        return self._take() if is_only_reader else self.take(position)

    def read(self) -> Record:
        """Return what SQL holds, and leave the snapshot alone.

        :raises StoreUnavailable: SQL did not answer; said once in the log
        """
        try:
            record = self._store.read()
        except StoreUnavailable as error:
            self._failed(error)
            raise
        self._answered()
        return record

    def reconnect(self) -> None:
        """Leave a connection to whoever waits on it; the next question makes a new one."""
        self._store.database.close()

    def _take(self, *, at_start: bool = False) -> Record:
        record = self.read()
        self._host.publish(record, at_start=at_start)
        self._note_order(record.lineage, record.revision)
        return record

    def _note_order(self, lineage: str, revision: int) -> None:
        """Notice, and say once, that SQL is behind what this host has seen of it."""
        problem = problem_of_order((lineage, revision), self._host.position())
        if problem is None:
            self.behind = None
            return
        if self.behind is None:
            logger.warning("waffle: the database %s %s", self._store.database.url, problem)
        self.behind = (lineage, revision)

    def note_silence(self, seconds: float) -> None:
        """Say, once, that SQL owes an answer; it is still waited for."""
        url = self._store.database.url
        message = f"The settings database {url} has not answered for {seconds:.1f} s"
        self._failed(StoreUnavailable(message, url=url))

    def _failed(self, error: StoreUnavailable) -> None:
        if self.error is None:
            logger.warning(
                "waffle: %s. The last known settings are served; it is asked again every %g s.",
                str(error).rstrip("."),
                self._poll_seconds,
            )
        self.error = error

    def _answered(self) -> None:
        if self.error is not None:
            logger.warning("waffle: the database %s answers again.", self._store.database.url)
        self.error = None


def problem_of_order(stored: tuple[str, int], seen: tuple[str, int]) -> str | None:
    """Return what is wrong where SQL is behind what a host has seen of it, else ``None``.

    :param stored: lineage and revision in SQL
    :param seen: those of the host
    :return: what to say of the database, without its name
    """
    if stored[0] == NO_LINEAGE != seen[0]:
        return (
            f"holds no settings any more, but this host has seen revision {seen[1]}, which is "
            "served still. Restore it; if it is meant to be empty, run `flask waffle resync`."
        )
    if stored[0] == seen[0] and stored[1] < seen[1]:
        return (
            f"is at revision {stored[1]}, but this host has seen {seen[1]}, which is served still: "
            "a restored backup, or a replica that lags. If the database is right, run "
            "`flask waffle resync`."
        )
    return None


def _has_reached(present: tuple[str, int], wanted: tuple[str, int]) -> bool:
    if wanted[0] == NO_LINEAGE != present[0]:
        return True
    return present[0] == wanted[0] and present[1] >= wanted[1]
