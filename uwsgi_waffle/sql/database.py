"""Connections to SQL: engine, forks, transactions and errors. What is asked stands in ``store``."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc, pool

from uwsgi_waffle.config import redact_url
from uwsgi_waffle.errors import ConfigError, StoreUnavailable

from .schema import metadata

__all__ = ["Database"]

#: Seconds to wait for a connection to be made, where the driver would wait for ever.
CONNECT_SECONDS = 5
#: Seconds after which a connection whose other end is gone without a word counts as broken.
DEAD_SECONDS = 60
#: Seconds to wait for a lock of SQLite; a writer tries again, a reader does without.
SQLITE_BUSY_SECONDS = 5
#: Seconds after which a held connection is replaced: below what firewalls forget.
RECYCLE_SECONDS = 300
#: How often a transaction is tried when the database says it lost a race.
ATTEMPTS = 5

T = TypeVar("T")


class Database:
    """One database; connects when it is first asked, and anew after a fork."""

    def __init__(self, uri: str, *, auto_create: bool) -> None:
        """Check the URL and its driver; do not connect.

        :param auto_create: whether a write makes missing tables
        :raises ConfigError: the URL is none, or its driver is not installed
        """
        self.auto_create = auto_create
        #: The URL without its password.
        self.url = redact_url(uri)
        self._uri = uri
        self._engine: sa.Engine | None = self._make_engine()
        self._pid = os.getpid()

    @property
    def engine(self) -> sa.Engine:
        """The engine of this process; made when first used after a fork.

        Not in the fork hook, where uWSGI's ``gevent-monkey-patch`` has not replaced locks yet.
        """
        if self._pid != os.getpid():
            self.after_fork()
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine

    def after_fork(self) -> None:
        """Leave the parent's connections to the parent; those of this process stay."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        if self._engine is not None:
            self._engine.dispose(close=False)
            self._engine = None

    def close(self) -> None:
        """Close the held connection, unless somebody waits on it; the next use makes a new one."""
        if self._engine is not None:
            self._engine.dispose()

    def read(self, read: Callable[[sa.Connection], T], *, without_tables: T) -> T:
        """Return what *read* returns; once more where a held connection turned out to be dead.

        :param without_tables: returned where the tables are not there yet
        :raises StoreUnavailable: the database did not answer
        """
        for last_attempt in (False, True):
            try:
                with self.engine.connect() as connection:
                    # One statement at a time needs no transaction around it, and none is left open.
                    return read(_autocommitting(connection))
            except exc.SQLAlchemyError as error:
                if not last_attempt and _was_disconnected(error):
                    continue
                if self._lacks_tables(error):
                    return without_tables
                raise self.unavailable(error) from error
        raise AssertionError

    def write(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Return what *transaction* returns, which commits for itself; again where it lost a race.

        :raises StoreUnavailable: the database did not answer, or lacks its tables
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self.engine.connect() as connection:
                    return transaction(connection)
            except exc.SQLAlchemyError as error:
                if attempt == ATTEMPTS or not self._worth_another_try(error):
                    raise self.unavailable(error) from error
        raise AssertionError

    def commit(self, connection: sa.Connection) -> None:
        """Commit; where that fails, make sure that nothing of the transaction lives on.

        SQLite keeps a transaction whose commit it refused, and SQLAlchemy takes it for ended: the
        next to use the connection would be inside it, and find its own change made already.
        """
        try:
            connection.commit()
        except exc.SQLAlchemyError:
            connection.invalidate()
            raise

    def create_tables(self) -> None:
        """Create the tables that are missing.

        :raises StoreUnavailable: the database did not answer, or does not allow it
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                metadata.create_all(self.engine)
                self._add_missing_columns()
            except exc.SQLAlchemyError as error:
                # Checking first takes no lock, so another process may create them at this moment.
                if attempt == ATTEMPTS or _could_not_connect(error):
                    raise self.unavailable(error) from error
            else:
                return

    def _add_missing_columns(self) -> None:
        """Add what an earlier release's tables lack; each column has a default or may be null."""
        inspector = sa.inspect(self.engine)
        for table in metadata.tables.values():
            present = {column["name"] for column in inspector.get_columns(table.name)}
            for column in table.columns:
                if column.name not in present:
                    compiled = sa.schema.CreateColumn(column).compile(self.engine)
                    with self.engine.begin() as connection:
                        quoted = connection.dialect.identifier_preparer.format_table(table)
                        connection.exec_driver_sql(f"ALTER TABLE {quoted} ADD COLUMN {compiled}")

    def missing_tables(self) -> list[str]:
        """Return the names of the tables that are not there.

        :raises StoreUnavailable: the database did not answer
        """
        try:
            inspector = sa.inspect(self.engine)
            return [name for name in metadata.tables if not inspector.has_table(name)]
        except exc.SQLAlchemyError as error:
            raise self.unavailable(error) from error

    def unavailable(self, error: exc.SQLAlchemyError) -> StoreUnavailable:
        """Return a database error in our words, without statement, parameters and password."""
        if self._lacks_tables(error):
            message = (
                f"The tables of the settings are missing in {self.url}. Run `flask waffle init-db` "
                "or your migrations, or set WAFFLE_AUTO_CREATE to True."
            )
        else:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            message = f"The settings database {self.url} cannot be used: {redact_url(reason)}"
        return StoreUnavailable(message, url=self.url)

    def _make_engine(self) -> sa.Engine:
        """Return an engine.

        :raises ConfigError: the URL is none, or its driver is not installed
        """
        try:
            url = sa.make_url(self._uri)
            _check_host(url)
            # Parameters hidden: else a traceback shows the values, secrets among them.
            return sa.create_engine(url, hide_parameters=True, **_engine_options(url))
        except (exc.ArgumentError, ImportError, ValueError) as error:
            message = (
                f"WAFFLE_DATABASE_URI = {self.url!r}: {redact_url(str(error))}. Give an SQLAlchemy "
                "URL, such as postgresql+psycopg://user@host/database, and install its driver."
            )
            raise ConfigError(message, key="WAFFLE_DATABASE_URI", value=self.url) from None

    def _worth_another_try(self, error: exc.SQLAlchemyError) -> bool:
        """Return whether a transaction, which changed nothing, may succeed if run again."""
        if _was_disconnected(error) or isinstance(error, exc.IntegrityError):
            # IntegrityError: two writers made the namespace's row at once.
            return True
        if self._lacks_tables(error):
            if self.auto_create:
                self.create_tables()
            return self.auto_create
        # A table that was missing and is there now: another writer has created it meanwhile.
        return _lacks_table_or_column(error) or lost_a_race(error)

    def _lacks_tables(self, error: exc.SQLAlchemyError) -> bool:
        """Return whether a statement failed because a table is not there."""
        if not isinstance(error, exc.DBAPIError) or _could_not_connect(error):
            return False
        if lost_a_race(error):
            return False  # to look would be to wait for the same lock once more
        if _lacks_table_or_column(error):
            return True  # another process may have made it since, so to look would mislead
        try:
            inspector = sa.inspect(self.engine)
            return not all(inspector.has_table(name) for name in metadata.tables)
        except exc.SQLAlchemyError:
            return False  # it is the connection, then, and the first error says so


def lost_a_race(error: exc.SQLAlchemyError) -> bool:
    """Return whether the database ended a transaction in favour of another one."""
    driver_error = getattr(error, "orig", None)
    if driver_error is None:
        return False
    state = getattr(driver_error, "sqlstate", None)
    code = driver_error.args[0] if driver_error.args else None
    # PostgreSQL: serialization failure, deadlock. MySQL: deadlock, lock wait, changed since read.
    # SQLite tells by its text only, before Python 3.11.
    return (
        state in ("40001", "40P01")
        or code in (1213, 1205, 1020)
        or (isinstance(driver_error, sqlite3.Error) and "is locked" in str(driver_error))
    )


def _check_host(url: sa.URL) -> None:
    """Refuse a host that is a piece of a password, which drivers would name in their errors.

    :raises ValueError: it is
    """
    if "@" in (url.host or ""):
        message = "'@' in a user name or password must be written as %40"
        raise ValueError(message)


def _engine_options(url: sa.URL) -> dict[str, Any]:
    """Return what the engine of a database needs; what the URL says itself is left alone."""
    # One connection is held by a process that has asked; thousands of processes must not hold more.
    held = {"pool_size": 1, "max_overflow": 9, "pool_recycle": RECYCLE_SECONDS}
    if url.get_dialect().name != "sqlite":
        connect = {k: v for k, v in _time_limits(url).items() if k not in url.query}
        # Not the server's default: under REPEATABLE READ a writer that waited for the lock would
        # read what was there before it waited.
        return {"connect_args": connect, "isolation_level": "READ COMMITTED", **held}
    if url.database in (None, "", ":memory:"):
        # One connection, or each thread would have a database of its own.
        return {"poolclass": pool.StaticPool, "connect_args": {"check_same_thread": False}}
    busy = {} if "timeout" in url.query else {"timeout": SQLITE_BUSY_SECONDS}
    return {"connect_args": busy, **held}


def _time_limits(url: sa.URL) -> dict[str, int]:
    """Return the driver's own limits, where it would wait for ever for a server that is gone."""
    limits = {"connect_timeout": CONNECT_SECONDS}
    driver = url.get_driver_name()
    if driver in ("psycopg", "psycopg2"):
        limits["keepalives_idle"] = DEAD_SECONDS // 2
        limits["keepalives_interval"] = DEAD_SECONDS // 12
        limits["keepalives_count"] = 6
        limits["tcp_user_timeout"] = DEAD_SECONDS * 1000  # milliseconds
    elif driver in ("pymysql", "mysqldb"):
        limits["read_timeout"] = limits["write_timeout"] = DEAD_SECONDS
    return limits


def _autocommitting(connection: sa.Connection) -> sa.Connection:
    """Return the connection, each statement on which is a transaction of its own.

    The driver sets that, so SQLAlchemy neither wraps what it raises nor notices from it that the
    connection is dead.
    """
    dbapi: Any = connection.dialect.loaded_dbapi
    try:
        return connection.execution_options(isolation_level="AUTOCOMMIT")
    except dbapi.Error as error:
        connection.invalidate()
        statement = "SET autocommit"
        raise exc.OperationalError(statement, None, error, connection_invalidated=True) from error


def _was_disconnected(error: exc.SQLAlchemyError) -> bool:
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated


def _lacks_table_or_column(error: exc.SQLAlchemyError) -> bool:
    """Return whether an error says itself that a table, or a column of one, does not exist."""
    driver_error: Any = getattr(error, "orig", None)
    if driver_error is None:
        return False
    code = driver_error.args[0] if driver_error.args else None
    text = str(driver_error)
    # PostgreSQL: undefined table, undefined column. MySQL likewise. SQLite has no code for them.
    return (
        getattr(driver_error, "sqlstate", None) in ("42P01", "42703")
        or code in (1146, 1054)
        or (isinstance(driver_error, sqlite3.Error) and "no such table" in text)
        or (isinstance(driver_error, sqlite3.Error) and "no such column" in text)
        or (isinstance(driver_error, sqlite3.Error) and "has no column named" in text)
    )


def _could_not_connect(error: exc.SQLAlchemyError) -> bool:
    """Return whether there was no connection to run a statement on."""
    return isinstance(error, exc.DBAPIError) and error.statement is None
