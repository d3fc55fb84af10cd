"""A change of settings within a transaction of the caller's own."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from uwsgi_waffle.errors import WaffleError
from uwsgi_waffle.values.position import NOWHERE, Position
from uwsgi_waffle.values.snapshot import Record

from .failures import lacks_table
from .locks import begin_sqlite
from .store import Edit, Signature, Store

__all__ = ["Connection", "JoinedTransaction"]


class JoinedTransaction:
    """The transaction of a connection that the caller commits, or rolls back."""

    def __init__(self, store: Store, connection: Connection) -> None:
        """Check the connection.

        :raises TypeError: it is no connection, or commits each statement by itself
        """
        if not isinstance(connection, Connection):
            message = (
                "connection= takes a Connection of SQLAlchemy, such as db.session.connection(), "
                f"not {type(connection).__name__}."
            )
            raise TypeError(message)
        # By its own options, or by those of its engine.
        if connection._is_autocommit_isolation():  # noqa: SLF001  # there is no public name for it
            message = (
                "The connection commits each statement by itself, so there is nothing to join."
            )
            raise TypeError(message)
        self._store = store
        self._connection = connection

    def write(
        self,
        edit: Edit,
        signature: Signature,
        *,
        expected_revision: int | None = None,
        beyond: Position = NOWHERE,
    ) -> Record:
        """Change settings as :meth:`Store.write` does, but neither commit nor try again.

        Where it raises, nothing of it is left in the transaction.

        :raises WaffleError: the connection is to another database
        """
        database = self._store.database
        if not beyond.lineage and database.auto_create and database.missing_tables():
            database.create_tables()  # not by this transaction, which is the caller's
        change = self._store.changing(edit, signature, expected_revision, beyond)
        try:
            if self._connection.dialect.name == "sqlite":
                begin_sqlite(self._connection)
            with self._connection.begin_nested():
                record, _ = change(self._connection)
                if record.position.lineage != beyond.lineage:
                    self._check_database(record.position)
                return record
        except exc.SQLAlchemyError as error:
            if lacks_table(error):
                self._check_database(NOWHERE)
            raise self._store.database.unavailable(error) from error

    def after_commit(self, position: Position, spread: Callable[[Record], object]) -> None:
        """Call *spread* after the commit, if the change that made a position is part of it.

        :param spread: raises nothing, as the commit is done

        What is about to be committed tells that, whatever savepoints were rolled back, by whatever
        means. SQLAlchemy's event comes before the commit, which may still fail, and it has none
        for after it.
        """
        connection, commit = self._connection, self._connection._commit_impl  # noqa: SLF001  # (as above)
        transaction = connection.get_transaction()

        def commit_and_spread() -> None:
            setattr(connection, "_commit_impl", commit)  # noqa: B010  # a method, to mypy
            is_meant = connection.get_transaction() is transaction
            left = self._store.read_locked(connection) if is_meant else Record()
            commit()
            if left.position == position:
                spread(left)

        setattr(connection, "_commit_impl", commit_and_spread)  # noqa: B010  # (as above)

    def _check_database(self, written: Position) -> None:
        """Refuse a lineage that is not that of the settings.

        :raises WaffleError: it is that of another database
        """
        if self._store.peek().lineage not in ("", written.lineage):
            message = (
                f"The connection is not to {self._store.database.url}, which holds the settings. "
                "Give one to that database."
            )
            raise WaffleError(message)
