"""Connections to SQL: engine, forks, transactions and errors. The statements are in ``store``."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc, pool

from uwsgi_waffle.config import redact_url
from uwsgi_waffle.errors import ConfigError, StoreUnavailable
from uwsgi_waffle.server import forks

from .application import ISOLATION_LEVEL, ApplicationDatabase
from .locks import one_at_a_time
from .schema import NAMESPACE
from .tables import create_missing, missing_tables

__all__ = ["Database"]

#: Seconds to wait for a connection to be made, where the driver would wait for ever.
CONNECT_SECONDS = 5
#: Seconds without an answer after which a connection counts as broken.
DEAD_SECONDS = 60
#: Seconds to wait for a lock of SQLite; after that a writer tries again, and a reader fails.
SQLITE_BUSY_SECONDS = 5
#: Seconds after which a held connection is replaced, before a firewall forgets it.
RECYCLE_SECONDS = 300
#: How often a transaction is run that loses races against others.
ATTEMPTS = 5

T = TypeVar("T")


class Database:
    """One database; connects at the first use, and again after a fork."""

    def __init__(
        self, uri: str, *, auto_create: bool, application: ApplicationDatabase | None = None
    ) -> None:
        """Check the URL and its driver; do not connect.

        :param auto_create: whether to make missing tables, and missing columns of older ones
        :param application: the database as the application has configured it
        :raises ConfigError: the URL is malformed, or its driver is not installed
        """
        self._auto_create = auto_create
        self._application = application
        #: The URL without its password.
        self.url = redact_url(uri)
        self._uri = uri
        self._is_sqlite_file = False
        self._engine: sa.Engine | None = self._make_engine()
        self._pid = os.getpid()

    @property
    def auto_create(self) -> bool:
        """Whether to make missing tables, which is known once the application is set up."""
        return self._auto_create and not (self._application and self._application.is_migrated)

    def may_fill_at_start(self) -> bool:
        """Return whether a start may make the namespace: with its tables, unless migrations may.

        :raises StoreUnavailable: the database did not answer
        """
        return self._auto_create and not (self._application and self.missing_tables())

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
        """Leave the parent's connections to the parent, and keep those of this process."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        if self._engine is not None:
            self._engine.dispose(close=False)
            self._engine = None

    def before_fork(self) -> None:
        """Give up connections that the child may neither use nor close, which are SQLite's.

        https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_
        """
        if self._is_sqlite_file:
            self.close()

    def close(self) -> None:
        """Close the held connection, unless it is in use; the next use makes a new one."""
        if self._engine is not None:
            self._engine.dispose()

    @contextmanager
    def _using_engine(self) -> Iterator[sa.Engine]:
        """Have no other thread fork meanwhile where that would harm the child."""
        with forks.without_fork() if self._is_sqlite_file else nullcontext():
            yield self.engine

    def read(self, read: Callable[[sa.Connection], T], *, without_tables: T) -> T:
        """Return what *read* returns; once more where a held connection turned out to be dead.

        :param without_tables: returned where the tables do not exist yet
        :raises StoreUnavailable: the database did not answer, or its tables are of an earlier
            release and may not be changed
        """
        for last_attempt in (False, True):
            try:
                with self._using_engine() as engine, engine.connect() as connection:
                    # One statement at a time needs no transaction around it, and none is left open.
                    return read(_autocommitting(connection))
            except exc.SQLAlchemyError as error:
                if not last_attempt and _was_disconnected(error):
                    continue
                if _lacks_column(error) and self.auto_create and not last_attempt:
                    self.create_tables()
                    continue
                if self._lacks_tables(error) and not _lacks_column(error):
                    return without_tables
                raise self.unavailable(error) from error
        raise AssertionError

    def write(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Run a transaction, which commits by itself, and run it again where it loses a race.

        :raises StoreUnavailable: the database did not answer, or lacks its tables
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._using_engine() as engine, engine.connect() as connection:
                    return transaction(connection)
            except exc.SQLAlchemyError as error:
                if attempt == ATTEMPTS or not self._worth_another_try(error):
                    raise self.unavailable(error) from error
        raise AssertionError

    def commit(self, connection: sa.Connection) -> None:
        """Commit; where that fails, end the transaction with its connection.

        SQLite keeps a transaction open whose commit it refused, but SQLAlchemy takes it for ended:
        the next transaction on the connection would be part of it.
        """
        try:
            connection.commit()
        except exc.SQLAlchemyError:
            connection.invalidate()
            raise

    def create_tables(self) -> None:
        """Create the tables that are missing, and the columns that those of 0.1.0 lack.

        :raises StoreUnavailable: the database did not answer, or does not allow it
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with (
                    self._using_engine() as engine,
                    engine.connect() as connection,
                    one_at_a_time(connection),
                ):
                    create_missing(connection)
                    connection.commit()
            except exc.SQLAlchemyError as error:
                # A process of release 0.1.0, which takes no lock, may create them at this moment.
                if attempt == ATTEMPTS or _could_not_connect(error):
                    raise self.unavailable(error) from error
            else:
                return

    def prepare(self) -> None:
        """Make missing tables, for a transaction that must not, as it is the caller's.

        :raises StoreUnavailable: the database did not answer, or does not allow it
        """
        if self.auto_create and self.missing_tables():
            self.create_tables()

    def missing_tables(self) -> list[str]:
        """Return the names of the tables that do not exist.

        :raises StoreUnavailable: the database did not answer
        """
        try:
            with self._using_engine() as engine, engine.connect() as connection:
                return missing_tables(connection)
        except exc.SQLAlchemyError as error:
            raise self.unavailable(error) from error

    def unavailable(self, error: exc.SQLAlchemyError) -> StoreUnavailable:
        """Return a database error as ours, without statement, parameters and password."""
        if self._lacks_tables(error):
            what = "Columns of the tables" if _lacks_column(error) else "The tables"
            message = f"{what} of the settings are missing in {self.url}. {self._how_to_make()}"
        else:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            message = f"The settings database {self.url} cannot be used: {redact_url(reason)}"
        return StoreUnavailable(message, url=self.url)

    def _how_to_make(self) -> str:
        if self._application is not None and self._application.is_migrated:
            return "Run `flask db migrate` and `flask db upgrade`."
        return "Run `flask waffle init-db` or your migrations, or set WAFFLE_AUTO_CREATE to True."

    def _make_engine(self) -> sa.Engine:
        """Return an engine.

        :raises ConfigError: the URL is malformed, or its driver is not installed
        """
        try:
            url = sa.make_url(self._uri)
            _check_host(url)
            self._is_sqlite_file = _is_sqlite(url) and not _is_in_memory(url)
            if self._application is not None:
                return self._application.make_engine()
            # Parameters are hidden, as a traceback would show them, secrets among them.
            return sa.create_engine(url, hide_parameters=True, **_engine_options(url))
        except (exc.ArgumentError, ImportError, ValueError) as error:
            message = (
                f"WAFFLE_DATABASE_URI = {self.url!r}: {redact_url(str(error))}. Give an SQLAlchemy "
                "URL, such as postgresql+psycopg://user@host/database, and install its driver."
            )
            raise ConfigError(message, key="WAFFLE_DATABASE_URI", value=self.url) from None

    def _worth_another_try(self, error: exc.SQLAlchemyError) -> bool:
        """Return whether a transaction that changed nothing may succeed when it is run again."""
        if _was_disconnected(error) or isinstance(error, exc.IntegrityError):
            # IntegrityError: two writers made the namespace's row at once.
            return True
        if self._lacks_tables(error):
            if self.auto_create:
                self.create_tables()
            return self.auto_create
        return lost_a_race(error)

    def _lacks_tables(self, error: exc.SQLAlchemyError) -> bool:
        """Return whether a statement failed because a table, or a column of one, is missing."""
        if not isinstance(error, exc.DBAPIError) or _could_not_connect(error):
            return False
        if lost_a_race(error):
            return False  # looking for the tables would wait for the same lock again
        if _lacks_table(error) or _lacks_column(error):
            return True  # another process may have made it since, so looking for it would mislead
        try:
            with self._using_engine() as engine:
                return not sa.inspect(engine).has_table(NAMESPACE.name)
        except exc.SQLAlchemyError:
            return False  # the connection is broken, which the first error names


def lost_a_race(error: exc.SQLAlchemyError) -> bool:
    """Return whether the database ended a transaction in favour of another one."""
    driver_error = getattr(error, "orig", None)
    if driver_error is None:
        return False
    state = getattr(driver_error, "sqlstate", None)
    code = driver_error.args[0] if driver_error.args else None
    # PostgreSQL: serialization failure, deadlock. MySQL: deadlock, lock wait, changed since read.
    # SQLite has codes since Python 3.11 only, so its text decides.
    return (
        state in ("40001", "40P01")
        or code in (1213, 1205, 1020)
        or (isinstance(driver_error, sqlite3.Error) and "is locked" in str(driver_error))
    )


def _check_host(url: sa.URL) -> None:
    """Refuse a host that holds a part of the password, which drivers would name in their errors.

    :raises ValueError: it does
    """
    if "@" in (url.host or ""):
        message = "'@' in a user name or password must be written as %40"
        raise ValueError(message)


def _engine_options(url: sa.URL) -> dict[str, Any]:
    """Return the options of the engine; those in the URL itself win."""
    # A process that has used SQL holds one connection, as there may be thousands of processes.
    held = {"pool_size": 1, "max_overflow": 9, "pool_recycle": RECYCLE_SECONDS}
    if not _is_sqlite(url):
        connect = {k: v for k, v in _time_limits(url).items() if k not in url.query}
        return {"connect_args": connect, "isolation_level": ISOLATION_LEVEL, **held}
    if _is_in_memory(url):
        # One connection, as each connection has another database in memory.
        return {"poolclass": pool.StaticPool, "connect_args": {"check_same_thread": False}}
    busy = {} if "timeout" in url.query else {"timeout": SQLITE_BUSY_SECONDS}
    return {"connect_args": busy, **held}


def _is_sqlite(url: sa.URL) -> bool:
    return url.get_dialect().name == "sqlite"


def _is_in_memory(url: sa.URL) -> bool:
    """Return whether a database of SQLite is no file."""
    return url.database in (None, "", ":memory:")


def _time_limits(url: sa.URL) -> dict[str, int]:
    """Return the limits after which the driver stops waiting for a server that is gone."""
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
    """Return the connection, set to run each statement as a transaction by itself.

    The driver does that, so SQLAlchemy neither wraps its errors nor learns from them that the
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


def _lacks_table(error: exc.SQLAlchemyError) -> bool:
    """Return whether an error shows by itself that a table does not exist."""
    return _is_error(error, "42P01", 1146, "no such table")


def _lacks_column(error: exc.SQLAlchemyError) -> bool:
    """Return whether an error shows by itself that a column does not exist."""
    return _is_error(error, "42703", 1054, "no such column", "has no column named")


def _is_error(error: exc.SQLAlchemyError, postgresql: str, mysql: int, *sqlite: str) -> bool:
    """Return whether an error is of that kind: by its code, or by its text on SQLite."""
    driver_error: Any = getattr(error, "orig", None)
    if driver_error is None:
        return False
    if isinstance(driver_error, sqlite3.Error):
        return any(text in str(driver_error) for text in sqlite)
    code = driver_error.args[0] if driver_error.args else None
    return code == mysql or getattr(driver_error, "sqlstate", None) == postgresql


def _could_not_connect(error: exc.SQLAlchemyError) -> bool:
    """Return whether no connection could be made."""
    return isinstance(error, exc.DBAPIError) and error.statement is None
