"""SQL, which holds the truth.

A writer first updates the namespace row. Its lock gives the revision, serialises writers and makes
what the writer then reads the present state, so validating the whole inside the transaction is
sound. A writer that knows a state puts the next position in the place of that one's: where this
succeeds it was the present state, as a position identifies a state, and there is nothing to read. A
reader takes position and rows in one statement, so it sees one state whole.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from uwsgi_waffle.config import Config
from uwsgi_waffle.errors import RevisionConflict, StoreUnavailable
from uwsgi_waffle.values.position import NOWHERE, Position, new_stamp
from uwsgi_waffle.values.snapshot import Record

from . import changes as statements
from .application import ApplicationDatabase
from .changes import Edit, RowChange, Signature
from .database import Database
from .declared import CHANGE, NAMESPACE, SETTING
from .failures import is_unanswered, lost_a_race, waited_for_a_lock
from .limits import LONG_SECONDS

__all__ = ["Edit", "RowChange", "Signature", "Store", "new_key"]


#: Whether a text is 16 hexadecimal digits, not all of them 0.
_IS_HEX = re.compile("(?!0{16})[0-9a-f]{16}").fullmatch
#: What the database's own whole numbers leave room for, and one more.
_MOST_REVISIONS = 2**63 - 1
_POSITION = (NAMESPACE.c.lineage, NAMESPACE.c.revision, NAMESPACE.c.stamp)


class Store:
    """The settings of one namespace."""

    def __init__(self, config: Config, application: ApplicationDatabase | None = None) -> None:
        """Check the URL and its driver; do not connect.

        :param application: the database, as the application has configured it
        :raises ConfigError: the URL is malformed, or its driver is not installed
        """
        self.namespace = config.namespace
        #: The condition for this namespace's row of the namespaces.
        self.is_mine: sa.ColumnElement[bool] = NAMESPACE.c.name == config.namespace
        self.database = Database(
            config.database_uri, auto_create=config.auto_create, application=application
        )

    def read(self) -> Record:
        """Return the present state, whole; that of nowhere before the namespace exists.

        :raises StoreUnavailable: the database did not answer
        """
        return self.database.read(self._read, without_tables=Record())

    def peek(self) -> Position:
        """Return the present position only; nowhere before the namespace exists.

        :raises StoreUnavailable: the database did not answer
        """
        statement = sa.select(*_POSITION).where(self.is_mine)

        def read(connection: sa.Connection) -> Position:
            found = connection.execute(statement).first()
            return NOWHERE if found is None else self._position(found)

        return self.database.read(read, without_tables=NOWHERE)

    def create_namespace(self) -> None:
        """Make the namespace with its lineage and key, or what of it is missing.

        :raises StoreUnavailable: the database did not answer, or does not allow it
        """

        def transaction(connection: sa.Connection) -> None:
            found = connection.execute(sa.select(NAMESPACE.c["keys"]).where(self.is_mine)).first()
            if found is None:
                self._insert_namespace(connection)
            elif not found[0]:  # made by release 0.1.0, which signed nothing
                without = sa.and_(self.is_mine, NAMESPACE.c["keys"] == "")
                added = {"keys": new_key(), "stamp": new_stamp()}
                connection.execute(sa.update(NAMESPACE).where(without).values(added))
            self.database.commit(connection)

        self.database.write(transaction)

    def write(
        self,
        edit: Edit,
        signature: Signature,
        *,
        expected_revision: int | None = None,
        beyond: Position = NOWHERE,
        known: Record | None = None,
    ) -> Record:
        """Change settings in one transaction, and return the record after it.

        :param edit: called with the present record under the lock; an empty answer writes nothing;
            an exception that it raises ends the transaction; the transaction may be run again
        :param expected_revision: refuse unless this is the present revision
        :param beyond: a position that hosts have seen; a database restored from a backup skips
            past its revision, so that no two states of it share one
        :param known: probably the present record; where it is, SQL is not asked for it
        :raises RevisionConflict: the expectation does not hold
        :raises StoreUnavailable: nothing was written, or the message states that this is not known
        """
        change = self.changing(edit, signature, expected_revision, beyond, known)

        def transaction(connection: sa.Connection) -> Record:
            record, is_changed = change(connection)
            if not is_changed:
                return record if record.revision else self._read_after_rollback(connection)
            self._commit(connection, record.position)
            return record

        return self.database.write(transaction)

    def changing(
        self,
        edit: Edit,
        signature: Signature,
        expected_revision: int | None,
        beyond: Position,
        known: Record | None = None,
    ) -> Callable[[sa.Connection], tuple[Record, bool]]:
        """Return what makes a change on a connection, without a commit; see :meth:`write`.

        It returns the record after the change, and whether there is one; where there is none, the
        transaction must be rolled back.
        """
        line = {
            "namespace": self.namespace,
            "actor": signature.actor,
            "comment": signature.comment,
            "source": signature.source,
            "at": datetime.now(timezone.utc).replace(tzinfo=None),
        }
        assumed = [known] if known is not None and known.keys and known.position.stamp else []

        def change(connection: sa.Connection) -> tuple[Record, bool]:
            record = assumed.pop() if assumed else None  # another attempt reads the present one
            after = record.position.next(beyond) if record is not None else NOWHERE
            is_moved = record is not None and statements.replace(
                connection,
                self.namespace,
                record.position,
                after,
                self.database.limits(connection),
            )
            if record is None or not is_moved:
                record = self._lock(connection)
                after = record.position.next(beyond)
            if expected_revision is not None and expected_revision != record.revision:
                raise RevisionConflict(expected=expected_revision, actual=record.revision)
            changes = edit(record)
            if not changes:
                return record, False
            statements.write_settings(connection, self.namespace, after.revision, changes)
            at = {"revision": after.revision, "stamp": after.stamp}
            statements.write_history(connection, {**line, **at}, changes)
            if not is_moved:
                statements.move(connection, self.namespace, after)
            return record.changed(after, {n: c.stored for n, c in changes.items()}), True

        return change

    def amend(
        self, amend: Callable[[sa.Connection, Record], bool], *, beyond: Position = NOWHERE
    ) -> Record:
        """Change how settings are stored, not their values, and return the record after it.

        That makes a revision without a line of history, as hosts only move to later revisions.

        :param amend: called with the present record under the lock; an answer of false writes
            nothing; an exception that it raises ends the transaction
        :param beyond: as in :meth:`write`
        :raises StoreUnavailable: the database did not answer
        """

        def transaction(connection: sa.Connection) -> Record:
            record = self._lock(connection)
            if not amend(connection, record):
                return record if record.revision else self._read_after_rollback(connection)
            statements.move(connection, self.namespace, record.position.next(beyond))
            after = self._read(connection)
            self.database.commit(connection)
            return after

        return self.database.write(transaction, seconds=LONG_SECONDS)

    def touch(self, connection: sa.Connection) -> int:
        """Lock out other writers, and return how many rows the namespace has, 1 or 0."""
        touch = sa.update(NAMESPACE).where(self.is_mine, *self.database.limits(connection))
        return connection.execute(touch.values(pruned=NAMESPACE.c.pruned + 0)).rowcount

    def _read_after_rollback(self, connection: sa.Connection) -> Record:
        """Return what SQL holds without this transaction, which may have made the namespace."""
        connection.rollback()
        return self._read(connection)

    def read_locked(self, connection: sa.Connection) -> Record:
        """Return the record as a transaction leaves it that holds the namespace row's lock.

        A transaction of the caller's may be REPEATABLE READ. There MySQL and MariaDB change the
        present rows but read old ones, unless told to lock what they read.
        """
        return self._read(connection, locks=connection.dialect.name in ("mysql", "mariadb"))

    def _read(self, connection: sa.Connection, *, locks: bool = False) -> Record:
        """Return position, keys and rows, from one statement."""
        statement = (
            sa.select(*_POSITION, NAMESPACE.c["keys"], SETTING.c.name, SETTING.c.value)
            .select_from(NAMESPACE.outerjoin(SETTING, SETTING.c.namespace == NAMESPACE.c.name))
            .where(self.is_mine)
        )
        found = connection.execute(statement.with_for_update() if locks else statement).all()
        if not found:
            return Record()
        stored = {row.name: row.value for row in found if row.name is not None}
        keys = tuple(found[0]._mapping["keys"].split())  # noqa: SLF001  # `keys` is a method of Row
        return Record(self._position(found[0]), stored, keys)

    def _position(self, row: Any) -> Position:
        """Return the position in a row; 16 hexadecimal digits each, whatever text is stored.

        :raises StoreUnavailable: the revision is not one
        """
        lineage, revision, stamp = row.lineage, row.revision, row.stamp
        if not isinstance(revision, int) or not 0 <= revision < _MOST_REVISIONS:
            message = (
                f"The revision of namespace {self.namespace!r} in {self.database.url} is "
                f"{revision!r}, which is no whole number from 0 to {_MOST_REVISIONS - 1}. Set "
                f"waffle_namespace.revision to the newest revision of waffle_change."
            )
            raise StoreUnavailable(message, url=self.database.url)
        if not _IS_HEX(lineage):
            lineage = _as_hex(lineage)
        if stamp and not _IS_HEX(stamp):
            stamp = _as_hex(stamp)
        return Position(lineage, revision, stamp)

    def _lock(self, connection: sa.Connection) -> Record:
        """Take the namespace row's lock, making the row if it is missing, and return the record."""
        if self.touch(connection) == 0:
            self._insert_namespace(connection)
        record = self.read_locked(connection)
        if record.keys:
            return record
        # Made by release 0.1.0, which signed nothing. The caller commits it with its change.
        keys = (new_key(),)
        connection.execute(sa.update(NAMESPACE).where(self.is_mine).values(keys=keys[0]))
        return replace(record, keys=keys)

    def _insert_namespace(self, connection: sa.Connection) -> None:
        row = {"name": self.namespace, "lineage": secrets.token_hex(8), "revision": 0}
        connection.execute(sa.insert(NAMESPACE), {**row, "keys": new_key()})

    def _commit(self, connection: sa.Connection, position: Position) -> None:
        """Commit; where the connection breaks meanwhile, find out whether it was committed.

        :raises StoreUnavailable: it is not known whether the change was made
        """
        try:
            self.database.commit(connection)
        except exc.SQLAlchemyError as error:
            if lost_a_race(error) or waited_for_a_lock(error):
                raise
            # Where the database has answered, it has not committed.
            if not is_unanswered(error) or not self._was_committed(position):
                raise self.database.unavailable(error) from error

    def _was_committed(self, position: Position) -> bool:
        """Return whether the history holds this very commit.

        :raises StoreUnavailable: it is not known
        """
        statement = sa.select(CHANGE.c.stamp).where(
            CHANGE.c.namespace == self.namespace, CHANGE.c.revision == position.revision
        )

        def look(connection: sa.Connection) -> bool:
            # The transaction in doubt may still be open, and holds this lock until it has ended.
            self._lock(connection)
            return position.stamp in connection.execute(statement).scalars().all()

        try:
            return self.database.settle(look)
        except StoreUnavailable as error:
            message = (
                f"The connection to {error.url} broke while revision {position.revision} was being "
                "committed, and the database does not tell now how that ended, so whether it was "
                "committed is not known. Look at the history before trying again."
            )
            raise StoreUnavailable(
                message,
                url=error.url,
                is_outcome_known=False,
                waited_seconds=error.waited_seconds,
                holder=error.holder,
            ) from error


def new_key() -> str:
    """Return a new key for the messages between hosts: 256 random bits in hexadecimal."""
    return secrets.token_hex(32)


def _as_hex(stored: str) -> str:
    return hashlib.sha256(stored.encode()).hexdigest()[:16]
