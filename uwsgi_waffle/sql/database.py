"""Connections to SQL: forks, transactions, time limits and errors. Statements are in ``store``."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from uwsgi_waffle.config import redact_url
from uwsgi_waffle.errors import ConfigError, StoreUnavailable
from uwsgi_waffle.server import forks

from .application import ApplicationDatabase, missing
from .declared import NAMESPACE
from .engine import autocommitting, guard, make_engine, sqlite_path
from .failures import (
    could_not_connect,
    is_read_only,
    is_unanswered,
    lacks_column,
    lacks_table,
    lost_a_race,
    reason_of,
    waited_for_a_lock,
    was_disconnected,
)
from .limits import (
    LOCK_SECONDS,
    MOST_CONNECTIONS,
    READ_SECONDS,
    SETTLE_SECONDS,
    TRANSACTION_LIMITS,
    WRITE_SECONDS,
)
from .locks import one_at_a_time
from .tables import create_missing, missing_tables
from .watchdog import Watchdog

__all__ = ["Database"]

#: How often a transaction is run that loses races against others.
ATTEMPTS = 5
#: The most threads of a process that write at once; others have connections left to read with.
MOST_WRITERS = MOST_CONNECTIONS // 2

T = TypeVar("T")


class Database:
    """One database; connects at the first use, and again after a fork."""

    def __init__(
        self,
        uri: str,
        *,
        auto_create: bool,
        application: ApplicationDatabase | None = None,
        named: str = "WAFFLE_DATABASE_URI",
    ) -> None:
        """Check the URL and its driver; do not connect.

        :param auto_create: whether to make missing tables, and missing columns of older ones
        :param application: the database as the application has configured it
        :param named: what the URL was given as
        :raises ConfigError: the URL is malformed, or its driver is not installed
        """
        self._auto_create = auto_create
        self._application = application
        #: The URL without its password.
        self.url = redact_url(uri)
        self._uri, self._named = uri, named
        #: Of SQLite's file.
        self._path: Path | None = None
        self._watchdog = Watchdog()
        self._engine: sa.Engine | None = self._make_engine()
        self._pid = os.getpid()

    @property
    def auto_create(self) -> bool:
        """Whether to make missing tables, which is known once the application is set up."""
        return self._auto_create and not (self._application and self._application.is_migrated)

    def may_fill(self) -> bool:
        """Return whether the namespace may be made before the first change: it has its tables.

        Those among an application's own are left to that, or to its migrations.

        :raises StoreUnavailable: the database did not answer, or a command must make the tables
        """
        if (self._auto_create and self._application is None) or not self.missing_tables():
            return True
        if self.auto_create:
            return False
        raise StoreUnavailable(missing(self.url, self._application), url=self.url)

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

    def limits(self, connection: sa.Connection) -> tuple[sa.ColumnElement[bool], ...]:
        """Return conditions, always true, by which a first statement limits our own transaction."""
        is_ours = connection.engine is self._engine
        return TRANSACTION_LIMITS.get(connection.dialect.name, ()) if is_ours else ()

    def after_fork(self) -> None:
        """Leave the parent's connections to the parent, and keep those of this process."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            if self._engine is not None:
                self._engine.dispose(close=False)
            self._engine = None
            self._watchdog = Watchdog()  # its lock may have been held at the fork

    def before_fork(self) -> None:
        """End an idle thread, and give up connections that the child must not close: SQLite's.

        https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_
        """
        self._watchdog.stop()
        if self._path is not None:
            self.close()

    def close(self) -> None:
        """Close the held connection, unless it is in use; the next use makes a new one."""
        self._watchdog.stop()
        if self._engine is not None:
            self._engine.dispose()

    @contextmanager
    def _connected(self, until: float) -> Iterator[sa.Connection]:
        """Give a connection that is cut off at a moment of the monotonic clock."""
        # No other thread may fork meanwhile where that would harm the child.
        with forks.without_fork() if self._path is not None else nullcontext():
            connection = self.engine.connect()
            line = connection.connection.driver_connection
            # The limit holds for the rollback, too, with which a connection is given back.
            with self._watchdog.cut_off(line, until - time.monotonic()), connection:
                try:
                    yield connection
                except exc.SQLAlchemyError as error:
                    if is_read_only(error) or is_unanswered(error):
                        connection.invalidate()  # a new one may lead to a server that is not
                    raise

    def read(
        self,
        read: Callable[[sa.Connection], T],
        *,
        without_tables: T,
        seconds: float = READ_SECONDS,
    ) -> T:
        """Return what *read* returns; once more where a held connection turned out to be dead.

        :param without_tables: returned where the tables do not exist yet
        :param seconds: how long it may take
        :raises StoreUnavailable: the database did not answer, or its tables are of an earlier
            release and may not be changed
        """
        started_at = time.monotonic()
        for last_attempt in (False, True):
            try:
                with self._connected(time.monotonic() + seconds) as connection:
                    # One statement at a time needs no transaction around it, and none is left open.
                    return read(autocommitting(connection))
            except exc.SQLAlchemyError as error:
                if not last_attempt and was_disconnected(error):
                    continue
                if lacks_column(error) and self.auto_create and not last_attempt:
                    self.create_tables()
                    continue
                if self._lacks_tables(error) and not lacks_column(error):
                    return without_tables
                raise self.unavailable(error, time.monotonic() - started_at, seconds) from error
        raise AssertionError

    def write(
        self, transaction: Callable[[sa.Connection], T], *, seconds: float = WRITE_SECONDS
    ) -> T:
        """Run a transaction, which commits by itself, and run it again where it loses a race.

        Its first statement should have the conditions of :meth:`limits`.

        :param seconds: how long it may take, all attempts together
        :raises StoreUnavailable: the database did not answer, or lacks its tables
        """
        self.engine  # noqa: B018  # makes what the next line needs, after a fork
        if not self._writers.acquire(timeout=LOCK_SECONDS):
            message = (
                f"{MOST_WRITERS} other threads of this process are changing settings in {self.url} "
                f"already, for which this one waited {LOCK_SECONDS} s; nothing was stored."
            )
            raise StoreUnavailable(message, url=self.url, waited_seconds=LOCK_SECONDS)
        try:
            return self._attempt(transaction, seconds, LOCK_SECONDS)
        finally:
            self._writers.release()

    def settle(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Run a transaction within another one's, and wait for a lock as long as that may last.

        :raises StoreUnavailable: the database did not answer, or the lock was not to be had
        """
        return self._attempt(transaction, SETTLE_SECONDS, SETTLE_SECONDS)

    def _attempt(
        self, transaction: Callable[[sa.Connection], T], seconds: float, lock_seconds: float
    ) -> T:
        started_at = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._connected(started_at + seconds) as connection:
                    return transaction(connection)
            except exc.SQLAlchemyError as error:
                waited = time.monotonic() - started_at
                is_over = waited >= (lock_seconds if waited_for_a_lock(error) else seconds)
                is_last = attempt == (2 if is_read_only(error) else ATTEMPTS)
                if is_over or is_last or not self._worth_another_try(error):
                    raise self.unavailable(error, waited, seconds) from error
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
        """Create what is missing of the tables; raises as :meth:`write` does."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with (
                    self._connected(time.monotonic() + WRITE_SECONDS) as connection,
                    one_at_a_time(connection),
                ):
                    connection.execute(sa.select(sa.literal(1)).where(*self.limits(connection)))
                    create_missing(connection)
                    connection.commit()
            except exc.SQLAlchemyError as error:
                if could_not_connect(error) or waited_for_a_lock(error):
                    raise self.unavailable(error) from error
                # A process of release 0.1.0, which takes no lock, may create them at this moment.
                if attempt == ATTEMPTS:
                    message = f"The tables cannot be made in {self.url}: {reason_of(error)}."
                    raise StoreUnavailable(message, url=self.url) from error
            else:
                return

    def missing_tables(self) -> list[str]:
        """Return the names of the tables that do not exist.

        :raises StoreUnavailable: the database did not answer
        """
        return self.read(missing_tables, without_tables=[NAMESPACE.name])

    def unavailable(
        self,
        error: exc.SQLAlchemyError,
        waited_seconds: float = 0,
        limit_seconds: float | None = None,
    ) -> StoreUnavailable:
        """Return a database error as ours, without statement, parameters and password.

        :param waited_seconds: how long the caller has waited
        :param limit_seconds: after how long the connection was cut
        """
        from .holders import holder_of_lock, owner_of_file

        holder = None
        if waited_for_a_lock(error):
            holder = holder_of_lock(self._path, self._connected)
            message = (
                f"The settings in {self.url} are locked by another transaction, for which this one "
                f"waited {waited_seconds:.1f} s ({reason_of(error)}). {holder}, then try again."
            )
        elif self._lacks_tables(error):
            what = "Columns of the tables" if lacks_column(error) else "The tables"
            message = missing(self.url, self._application, what)
        else:
            reason = reason_of(error, waited_seconds, limit_seconds)
            message = f"The settings database {self.url} cannot be used: {reason}."
            if self._path is not None:
                message += owner_of_file(self._path)
        return StoreUnavailable(message, url=self.url, waited_seconds=waited_seconds, holder=holder)

    def _make_engine(self) -> sa.Engine:
        """Return an engine.

        :raises ConfigError: the URL is malformed, or its driver is not installed
        """
        self._writers = threading.BoundedSemaphore(MOST_WRITERS)
        try:
            url = sa.make_url(self._uri)
            self._path = sqlite_path(url)
            application = self._application
            return guard(make_engine(url) if application is None else application.make_engine())
        except (exc.ArgumentError, ImportError, ValueError) as error:
            message = (
                f"{self._named} = {self.url!r}: {redact_url(str(error))}. Give an SQLAlchemy URL, "
                "such as postgresql+psycopg://user@host/database, and install its driver."
            )
            raise ConfigError(message, key=self._named, value=self.url) from None

    def _worth_another_try(self, error: exc.SQLAlchemyError) -> bool:
        """Return whether a transaction that changed nothing may succeed when it is run again."""
        # IntegrityError: two writers made the namespace's row at once.
        if was_disconnected(error) or isinstance(error, exc.IntegrityError):
            return True
        if waited_for_a_lock(error) or lost_a_race(error) or is_read_only(error):
            return True
        if self._lacks_tables(error):
            if self.auto_create:
                self.create_tables()
            return self.auto_create
        return False

    def _lacks_tables(self, error: exc.SQLAlchemyError) -> bool:
        """Return whether a statement failed because a table, or a column of one, is missing."""
        if not isinstance(error, exc.DBAPIError) or could_not_connect(error):
            return False
        if lacks_table(error) or lacks_column(error):
            return True  # another process may have made it since, so looking for it would mislead
        if was_disconnected(error) or waited_for_a_lock(error) or lost_a_race(error):
            return False  # looking for the tables would wait again
        try:
            with self._connected(time.monotonic() + READ_SECONDS) as connection:
                return NAMESPACE.name in missing_tables(connection)
        except exc.SQLAlchemyError:
            return False  # the first error names what is wrong
