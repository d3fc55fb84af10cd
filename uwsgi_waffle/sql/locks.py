"""Who may change the tables: one process at a time, however many start at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sqlalchemy as sa

__all__ = ["begin_sqlite", "one_at_a_time"]

#: Seconds to wait for MySQL's and MariaDB's lock, which another process holds for milliseconds.
LOCK_SECONDS = 30
_NAME = "uwsgi_waffle tables"
#: The same for PostgreSQL, whose locks are named by a number of 64 bits.
_NUMBER = int.from_bytes(hashlib.sha256(_NAME.encode()).digest()[:8], "big", signed=True)


def one_at_a_time(connection: sa.Connection) -> AbstractContextManager[None]:
    """Have other processes wait until the transaction that begins here has ended."""
    return _LOCKS[connection.dialect.name](connection)


def begin_sqlite(connection: sa.Connection) -> None:
    """Begin a transaction that may write, unless one is open.

    SQLite's driver begins one by itself only before it changes rows: not before it makes a table,
    nor before a savepoint, whose release would then commit.
    """
    driver_connection: Any = connection.connection.driver_connection
    if not driver_connection.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _sqlite_lock(connection: sa.Connection) -> Iterator[None]:
    begin_sqlite(connection)
    yield


@contextmanager
def _postgresql_lock(connection: sa.Connection) -> Iterator[None]:
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_NUMBER)))
    yield


@contextmanager
def _mysql_lock(connection: sa.Connection) -> Iterator[None]:
    """Hold a lock named after the database, as such names belong to the whole server.

    Some clusters have no such lock. There two processes may make one table, and the one that fails
    tries again.
    """
    name = sa.func.concat(f"{_NAME} ", sa.func.md5(sa.func.database()))
    connection.execute(sa.select(sa.func.get_lock(name, LOCK_SECONDS)))
    try:
        yield
    except BaseException:
        connection.invalidate()  # the lock ends with its connection, not with a transaction
        raise
    connection.execute(sa.select(sa.func.release_lock(name)))


_LOCKS: Mapping[str, Callable[[sa.Connection], AbstractContextManager[None]]] = {
    "sqlite": _sqlite_lock,
    "postgresql": _postgresql_lock,
    "mysql": _mysql_lock,
    "mariadb": _mysql_lock,
}
