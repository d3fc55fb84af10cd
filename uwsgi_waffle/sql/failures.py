"""What kind of failure a driver's error is, by its code, or by its text on SQLite."""

from __future__ import annotations

from typing import Any

from sqlalchemy import exc

from uwsgi_waffle.config import redact_url

from .limits import MOST_CONNECTIONS, POOL_SECONDS

__all__ = [
    "could_not_connect",
    "is_read_only",
    "is_unanswered",
    "lacks_column",
    "lacks_table",
    "lost_a_race",
    "reason_of",
    "waited_for_a_lock",
    "was_disconnected",
]


def reason_of(
    error: exc.SQLAlchemyError, waited_seconds: float = 0, limit_seconds: float | None = None
) -> str:
    """Return why SQL failed, in one line, without statement, parameters and password.

    :param waited_seconds: how long it took
    :param limit_seconds: after how long the connection was cut off
    """
    if isinstance(error, exc.TimeoutError):
        return (
            f"all {MOST_CONNECTIONS} connections of this process are in use, and none became free "
            f"within {POOL_SECONDS} s"
        )
    if limit_seconds is not None and waited_seconds >= limit_seconds and was_disconnected(error):
        return f"it did not answer within {limit_seconds:g} s"
    return redact_url(" ".join(str(getattr(error, "orig", None) or error).split())).rstrip(".")


def lost_a_race(error: exc.SQLAlchemyError) -> bool:
    """Return whether the database ended a transaction at once in favour of another one."""
    # Serialization failure and deadlock; deadlock and changed since read.
    return _is(error, ("40001", "40P01"), (1213, 1020))


def waited_for_a_lock(error: exc.SQLAlchemyError) -> bool:
    """Return whether another transaction held a lock for longer than we wait."""
    return _is(error, ("55P03",), (1205,), "is locked")


def is_read_only(error: exc.SQLAlchemyError) -> bool:
    """Return whether the server, or SQLite's file, takes no writes on this connection."""
    return _is(error, ("25006",), (1290, 1836), "readonly database")


def lacks_table(error: exc.SQLAlchemyError) -> bool:
    """Return whether an error shows by itself that a table does not exist."""
    return _is(error, ("42P01",), (1146,), "no such table")


def lacks_column(error: exc.SQLAlchemyError) -> bool:
    """Return whether an error shows by itself that a column does not exist."""
    return _is(error, ("42703",), (1054,), "no such column", "has no column named")


def was_disconnected(error: exc.SQLAlchemyError) -> bool:
    """Return whether the connection ended within a statement."""
    is_connecting = could_not_connect(error) and not getattr(error, "connection_invalidated", False)
    return is_unanswered(error) and not is_connecting


def is_unanswered(error: exc.SQLAlchemyError) -> bool:
    """Return whether the server has not answered: the connection ended, or was never made."""
    if not isinstance(error, exc.DBAPIError):
        return False
    # psycopg does not know at first that a connection is broken. What a server says has a state.
    is_stateless = getattr(error.orig, "sqlstate", "") is None
    return error.connection_invalidated or (
        is_stateless and isinstance(error, exc.OperationalError)
    )


def could_not_connect(error: exc.SQLAlchemyError) -> bool:
    """Return whether no connection could be made."""
    return isinstance(error, exc.DBAPIError) and error.statement is None


def _is(
    error: exc.SQLAlchemyError, states: tuple[str, ...], codes: tuple[int, ...], *texts: str
) -> bool:
    """Return whether an error is of a kind.

    :param states: what PostgreSQL calls it
    :param codes: what MariaDB and MySQL call it
    :param texts: what SQLite says, which has codes since Python 3.11 only
    """
    driver_error: Any = getattr(error, "orig", None)
    if driver_error is None:
        return False
    if type(driver_error).__module__ == "sqlite3":  # to import that takes others 0.8 MiB
        return any(text in str(driver_error) for text in texts)
    code = driver_error.args[0] if driver_error.args else None
    return code in codes or getattr(driver_error, "sqlstate", None) in states
