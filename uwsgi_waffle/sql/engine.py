"""The engine of a database: its drivers' options, and what new connections are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc, pool

from .limits import (
    CONNECT_SECONDS,
    DEAD_SECONDS,
    LOCK_SECONDS,
    MOST_CONNECTIONS,
    POOL_SECONDS,
    limit_session,
)

__all__ = ["autocommitting", "engine_of", "guard", "make_engine", "sqlite_path"]

#: What SQLAlchemy calls the databases that the statements are written for.
_KINDS = ("sqlite", "postgresql", "mariadb", "mysql")
#: Seconds after which a held connection is replaced, before a firewall forgets it.
RECYCLE_SECONDS = 300


def make_engine(url: sa.URL) -> sa.Engine:
    """Return an engine, not connected yet.

    :raises ValueError: the URL cannot be used
    :raises ImportError: its driver is not installed
    :raises sqlalchemy.exc.ArgumentError: the URL is malformed
    """
    if "@" in (url.host or ""):  # a part of the password, which drivers name in their errors
        message = "'@' in a user name or password must be written as %40"
        raise ValueError(message)
    return engine_of(url, **_options(url))


def engine_of(url: sa.URL, **options: Any) -> sa.Engine:
    """Return an engine with the isolation that writers rely on, which hides parameters.

    :raises ValueError: the database, or its driver, cannot be used
    """
    _check_kind(url)
    # Not the application's, which may commit each statement, nor the server's default: under
    # REPEATABLE READ a writer that waited for the lock would read the state from before it waited.
    options["isolation_level"] = "SERIALIZABLE" if _is_sqlite(url) else "READ COMMITTED"
    # A traceback would show parameters, secrets among them.
    return sa.create_engine(url, hide_parameters=True, **options)


def guard(engine: sa.Engine) -> sa.Engine:
    """Have the connections of an engine limit their waits, and leave a file that was replaced."""
    url = engine.url
    path = sqlite_path(url)
    if path is not None:
        _watch_file(engine, path)
    dialect = engine.dialect.name
    sa.event.listen(engine, "connect", lambda line, _record: _begin_session(dialect, line, url))
    return engine


def _check_kind(url: sa.URL) -> None:
    kind = url.get_dialect()
    if kind.name not in _KINDS:
        message = f"{kind.name} is not one of {', '.join(_KINDS)}"
        raise ValueError(message)
    if kind.is_async:
        message = f"{url.get_driver_name()} is a driver for asyncio, which cannot be used here"
        raise ValueError(message)


def _is_sqlite(url: sa.URL) -> bool:
    return url.get_dialect().name == "sqlite"


def _is_in_memory(url: sa.URL) -> bool:
    """Return whether a database of SQLite is no file."""
    return url.database in (None, "", ":memory:")


def sqlite_path(url: sa.URL) -> Path | None:
    """Return the path of a SQLite file, ``None`` where the database is no file."""
    if not _is_sqlite(url) or _is_in_memory(url):
        return None
    return Path((url.database or "").removeprefix("file:")).absolute()


def _options(url: sa.URL) -> dict[str, Any]:
    """Return the options of the engine; those in the URL itself win."""
    # A process that has used SQL holds one connection, as there may be thousands of processes.
    held = {
        "pool_size": 1,
        "max_overflow": MOST_CONNECTIONS - 1,
        "pool_recycle": RECYCLE_SECONDS,
        "pool_timeout": POOL_SECONDS,
    }
    if not _is_sqlite(url):
        connect = {k: v for k, v in _time_limits(url).items() if k not in url.query}
        connect |= _session_options(url)
        return {"connect_args": connect, **held}
    if _is_in_memory(url):
        # One connection, as each connection has another database in memory.
        return {"poolclass": pool.StaticPool, "connect_args": {"check_same_thread": False}}
    busy = {} if "timeout" in url.query else {"timeout": LOCK_SECONDS}
    return {"connect_args": busy, **held}


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
        # While it connects; `_begin_session` gives statements more.
        limits["read_timeout"] = limits["write_timeout"] = CONNECT_SECONDS
    return limits


def _session_options(url: sa.URL) -> dict[str, Any]:
    """Return what the driver must do, whatever the URL or its own default says.

    :raises ValueError: a number in the URL is not a number
    """
    driver = url.get_driver_name()
    if driver in ("pymysql", "mysqldb", "mysqlconnector"):
        return {"charset": "utf8mb4"}  # any other lacks most characters
    if driver not in ("psycopg", "psycopg2"):
        return {}
    options: dict[str, Any] = {"client_encoding": "utf8"}
    if driver == "psycopg":
        # Behind a pooler that lends a session for a transaction, another session would not know a
        # prepared statement.
        wanted = str(url.query.get("prepare_threshold", "none")).lower()
        options["prepare_threshold"] = None if wanted == "none" else int(wanted)
    return options


def _begin_session(dialect: str, driver_connection: Any, url: sa.URL) -> None:
    for name in ("read_timeout", "write_timeout"):
        # PyMySQL has one time limit for connecting and for statements, which may take longer.
        if name not in url.query and hasattr(driver_connection, f"_{name}"):
            setattr(driver_connection, f"_{name}", DEAD_SECONDS)
    limit_session(dialect, driver_connection)


def _watch_file(engine: sa.Engine, path: Path) -> None:
    """Have a connection replaced whose file another one has replaced, or which was deleted."""

    def note(_connection: Any, record: pool.ConnectionPoolEntry) -> None:
        record.info["file"] = _identity(path)

    def compare(_connection: Any, record: pool.ConnectionPoolEntry, _proxy: Any) -> None:
        if record.info["file"] != _identity(path):
            message = f"{path} is another file now"
            raise exc.DisconnectionError(message)

    sa.event.listen(engine, "connect", note)
    sa.event.listen(engine, "checkout", compare)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what identifies the file that a path leads to now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def autocommitting(connection: sa.Connection) -> sa.Connection:
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
