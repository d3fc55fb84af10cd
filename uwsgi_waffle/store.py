"""SQL, where the truth lives.

A writer first updates the namespace row. Its lock gives the revision, puts writers in a row and
makes what the writer then reads the present state, so validating the whole inside the transaction
is sound. A reader takes revision and rows in one statement, so it sees one revision whole.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from .config import Config
from .database import Database, lost_a_race
from .errors import RevisionConflict, StoreUnavailable
from .schema import CHANGE, NAMESPACE, SETTING
from .snapshot import Record

__all__ = ["RowChange", "Signature", "Store", "StoredChange"]


@dataclass(frozen=True, slots=True)
class RowChange:
    """What a writer wants done to one setting; texts as they are stored.

    :ivar is_default: the setting goes back to its default, so its row goes
    """

    old: str = field(repr=False)  # secrets among them
    new: str = field(repr=False)
    is_default: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """Who changes something, why and by which way, for the history."""

    actor: str | None = None
    comment: str | None = None
    source: str = "python"


@dataclass(frozen=True, slots=True)
class StoredChange:
    """One line of history as it is stored."""

    revision: int
    name: str
    old: str = field(repr=False)
    new: str = field(repr=False)
    is_default: bool
    actor: str | None
    comment: str | None
    source: str
    at: datetime


#: Given the present record, returns what to do to it.
Plan = Callable[[Record], Mapping[str, RowChange]]


class Store:
    """The settings of one namespace."""

    def __init__(self, config: Config) -> None:
        """Check the URL and its driver; do not connect.

        :raises ConfigError: the URL is none, or its driver is not installed
        """
        self.namespace = config.namespace
        self.database = Database(config.database_uri, auto_create=config.auto_create)

    def read(self) -> Record:
        """Return the present revision, whole; revision 0 where nobody has written yet.

        :raises StoreUnavailable: the database did not answer
        """
        return self.database.read(self._read, without_tables=Record())

    def peek(self) -> tuple[str, int]:
        """Return the present lineage and revision only; ``("", 0)`` where nobody has written yet.

        :raises StoreUnavailable: the database did not answer
        """
        statement = sa.select(NAMESPACE.c.lineage, NAMESPACE.c.revision).where(self.is_mine)

        def read(connection: sa.Connection) -> tuple[str, int]:
            found = connection.execute(statement).first()
            return (_lineage(found.lineage), found.revision) if found is not None else ("", 0)

        return self.database.read(read, without_tables=("", 0))

    def write(
        self,
        plan: Plan,
        signature: Signature,
        *,
        expected_revision: int | None = None,
        beyond: tuple[str, int] = ("", 0),
    ) -> Record:
        """Change settings in one transaction, and return the record after it.

        :param plan: called with the present record under the lock; an empty answer writes nothing;
            what it raises ends the transaction
        :param expected_revision: refuse unless this is the present revision
        :param beyond: a lineage and a revision that hosts have seen; a database restored from a
            backup skips past it, as nobody would take a lower one
        :raises RevisionConflict: the expectation does not hold
        :raises StoreUnavailable: nothing was written, or the message says that this is not known
        """
        at = datetime.now(timezone.utc).replace(tzinfo=None)

        def transaction(connection: sa.Connection) -> Record:
            record = self._lock(connection)
            if expected_revision is not None and expected_revision != record.revision:
                raise RevisionConflict(expected=expected_revision, actual=record.revision)
            changes = plan(record)
            if not changes:
                return _committed(record)
            floor = beyond[1] if beyond[0] == record.lineage else 0
            after = _changed(record, changes, max(record.revision, floor) + 1)
            self._apply(connection, after.revision, changes, signature, at)
            self._commit(connection, after.revision, at)
            return after

        return self.database.write(transaction)

    def amend(
        self,
        amend: Callable[[sa.Connection, Record], bool],
        *,
        beyond: tuple[str, int] = ("", 0),
    ) -> Record:
        """Change how things are stored, not what they are, and return the record after it.

        That makes a revision of its own, without a line of history: who holds a record takes
        another one only if its revision is later.

        :param amend: called with the present record under the lock; an answer of false writes
            nothing; what it raises ends the transaction
        :param beyond: as in :meth:`write`
        :raises StoreUnavailable: the database did not answer
        """

        def transaction(connection: sa.Connection) -> Record:
            record = self._lock(connection)
            if not amend(connection, record):
                return _committed(record)
            floor = beyond[1] if beyond[0] == record.lineage else 0
            revision = max(record.revision, floor) + 1
            connection.execute(sa.update(NAMESPACE).where(self.is_mine).values(revision=revision))
            after = self._read(connection)
            self.database.commit(connection)
            return after

        return self.database.write(transaction)

    def history(self, name: str | None = None, limit: int | None = 50) -> list[StoredChange]:
        """Return the latest changes, newest first.

        :raises StoreUnavailable: the database did not answer
        """
        statement = self._changes()
        if name is not None:
            statement = statement.where(CHANGE.c.name == name)
        statement = statement.order_by(CHANGE.c.revision.desc(), CHANGE.c.name).limit(limit)
        return self.database.read(lambda found: _stored(found, statement), without_tables=[])

    def latest(self) -> list[StoredChange]:
        """Return the last change of each setting that was ever changed.

        :raises StoreUnavailable: the database did not answer
        """
        last = (
            sa.select(CHANGE.c.name, sa.func.max(CHANGE.c.revision).label("revision"))
            .where(CHANGE.c.namespace == self.namespace)
            .group_by(CHANGE.c.name)
            .subquery()
        )
        same = sa.and_(CHANGE.c.name == last.c.name, CHANGE.c.revision == last.c.revision)
        statement = self._changes().join(last, same)
        return self.database.read(lambda found: _stored(found, statement), without_tables=[])

    def timeline(
        self, limit: int, *, names: Collection[str] | None = None, before: int | None = None
    ) -> list[StoredChange]:
        """Return the changes of the latest revisions, each of them whole, newest first.

        :param limit: how many revisions at most
        :param names: only changes of these settings, and revisions that have some; ``None`` for all
        :param before: only revisions older than this one
        :raises StoreUnavailable: the database did not answer
        """
        wanted = [CHANGE.c.namespace == self.namespace]
        if names is not None:
            wanted.append(CHANGE.c.name.in_(list(names)))
        revisions = sa.select(CHANGE.c.revision).distinct().where(*wanted)
        if before is not None:
            revisions = revisions.where(CHANGE.c.revision < before)
        # A join, as MySQL takes no LIMIT within IN.
        newest = revisions.order_by(CHANGE.c.revision.desc()).limit(limit).subquery()
        statement = self._changes().join(newest, CHANGE.c.revision == newest.c.revision)
        statement = statement.where(*wanted).order_by(CHANGE.c.revision.desc(), CHANGE.c.name)
        return self.database.read(lambda found: _stored(found, statement), without_tables=[])

    def _changes(self) -> sa.Select[Any]:
        """Return the statement for the lines of history of this namespace."""
        columns = [column for column in CHANGE.c if column.name != "namespace"]
        return sa.select(*columns).where(CHANGE.c.namespace == self.namespace)

    def rows_at(self, revision: int) -> dict[str, str | None] | None:
        """Return what each setting that was ever changed held at a revision.

        :return: name -> stored text, ``None`` for the default; or ``None`` where that revision has
            not been reached yet, or its history has been pruned
        :raises StoreUnavailable: the database did not answer
        """
        bounds = sa.select(NAMESPACE.c.revision, NAMESPACE.c.pruned).where(self.is_mine)
        ever = sa.select(CHANGE.c.name).distinct().where(CHANGE.c.namespace == self.namespace)

        def read(connection: sa.Connection) -> dict[str, str | None] | None:
            limits = connection.execute(bounds).first()
            newest, pruned = (limits.revision, limits.pruned) if limits is not None else (0, 0)
            if not pruned <= revision <= newest:
                return None
            rows: dict[str, str | None] = dict.fromkeys(connection.execute(ever).scalars())
            for row in connection.execute(self._last_changes(revision)):
                rows[row.name] = None if row.is_default else row.new
            return rows

        nothing: dict[str, str | None] | None = {} if revision == 0 else None
        return self.database.read(read, without_tables=nothing)

    @property
    def is_mine(self) -> sa.ColumnElement[bool]:
        """The condition for this namespace's row of the namespaces."""
        mine: sa.ColumnElement[bool] = NAMESPACE.c.name == self.namespace
        return mine

    def _read(self, connection: sa.Connection) -> Record:
        """Return revision and rows, from one statement."""
        statement = (
            sa.select(NAMESPACE.c.lineage, NAMESPACE.c.revision, SETTING.c.name, SETTING.c.value)
            .select_from(NAMESPACE.outerjoin(SETTING, SETTING.c.namespace == NAMESPACE.c.name))
            .where(self.is_mine)
        )
        found = connection.execute(statement).all()
        if not found:
            return Record()
        rows = {row.name: row.value for row in found if row.name is not None}
        return Record(_lineage(found[0].lineage), found[0].revision, rows)

    def _last_changes(self, revision: int) -> sa.Select[tuple[str, str, bool]]:
        """Return the statement for the last change of each setting up to a revision."""
        change = CHANGE.alias()
        last = (
            sa.select(CHANGE.c.name, sa.func.max(CHANGE.c.revision).label("revision"))
            .where(CHANGE.c.namespace == self.namespace, CHANGE.c.revision <= revision)
            .group_by(CHANGE.c.name)
            .subquery()
        )
        same = sa.and_(change.c.name == last.c.name, change.c.revision == last.c.revision)
        return (
            sa.select(change.c.name, change.c.new, change.c.is_default)
            .join_from(change, last, same)
            .where(change.c.namespace == self.namespace)
        )

    def _lock(self, connection: sa.Connection) -> Record:
        """Take the namespace row's lock, making the row if need be, and return what it guards."""
        advance = sa.update(NAMESPACE).where(self.is_mine)
        if connection.execute(advance.values(revision=NAMESPACE.c.revision + 1)).rowcount == 0:
            first = {"name": self.namespace, "lineage": secrets.token_hex(8), "revision": 1}
            connection.execute(sa.insert(NAMESPACE), first)
        record = self._read(connection)
        return Record(record.lineage, record.revision - 1, record.rows)

    def _apply(
        self,
        connection: sa.Connection,
        revision: int,
        changes: Mapping[str, RowChange],
        signature: Signature,
        at: datetime,
    ) -> None:
        """Write the rows, the history and the revision."""
        mine = {"namespace": self.namespace, "revision": revision}
        names = SETTING.c.name.in_(list(changes))
        connection.execute(sa.delete(SETTING).where(SETTING.c.namespace == self.namespace, names))
        rows = [
            {**mine, "name": name, "value": change.new}
            for name, change in changes.items()
            if not change.is_default
        ]
        if rows:
            connection.execute(sa.insert(SETTING), rows)
        log = {
            **mine,
            "actor": signature.actor,
            "comment": signature.comment,
            "source": signature.source,
            "at": at,
        }
        lines = [
            {**log, "name": name, "old": c.old, "new": c.new, "is_default": c.is_default}
            for name, c in changes.items()
        ]
        connection.execute(sa.insert(CHANGE), lines)
        connection.execute(sa.update(NAMESPACE).where(self.is_mine).values(revision=revision))

    def _commit(self, connection: sa.Connection, revision: int, at: datetime) -> None:
        """Commit; where the connection breaks in the act, find out what became of it.

        :raises StoreUnavailable: it is not known whether the change was made
        """
        try:
            self.database.commit(connection)
        except exc.SQLAlchemyError as error:
            if lost_a_race(error):
                raise
            if not self._was_committed(revision, at):
                raise self.database.unavailable(error) from error

    def _was_committed(self, revision: int, at: datetime) -> bool:
        """Return whether the history holds this very change.

        :raises StoreUnavailable: it is not known
        """
        statement = sa.select(CHANGE.c.at).where(
            CHANGE.c.namespace == self.namespace, CHANGE.c.revision == revision
        )

        def read(connection: sa.Connection) -> bool:
            return at in connection.execute(statement).scalars().all()

        try:
            return self.database.read(read, without_tables=False)
        except StoreUnavailable as error:
            message = (
                f"The connection to {error.url} broke while revision {revision} was being "
                "committed, and it does not answer now, so whether it was is not known. Look at "
                "the history before trying again."
            )
            raise StoreUnavailable(message, url=error.url) from error


def _committed(record: Record) -> Record:
    """Return a record as it stands where nothing is written, without a lineage made for that."""
    return record if record.revision else Record()


def _changed(record: Record, changes: Mapping[str, RowChange], revision: int) -> Record:
    """Return the record after the changes."""
    rows = {name: text for name, text in (record.rows or {}).items() if name not in changes}
    rows.update({name: c.new for name, c in changes.items() if not c.is_default})
    return Record(record.lineage, revision, rows)


def _stored(connection: sa.Connection, statement: sa.Select[Any]) -> list[StoredChange]:
    """Return the lines of history that a statement finds."""
    return [
        StoredChange(**{**row, "at": row["at"].replace(tzinfo=timezone.utc)})
        for row in connection.execute(statement).mappings()
    ]


def _lineage(stored: str) -> str:
    """Return a lineage as 16 hexadecimal digits, also where somebody put other text in its row."""
    if re.fullmatch("[0-9a-f]{16}", stored) and int(stored, 16):
        return stored
    return hashlib.sha256(stored.encode()).hexdigest()[:16]
