"""Who is in the way: the holder of a lock, or the owner of a file, as far as that can be known."""

from __future__ import annotations

import os
import pwd
import re
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from .declared import NAMESPACE
from .limits import CONNECT_SECONDS

__all__ = ["holder_of_lock", "owner_of_file", "user_name"]

#: The longest transaction that has touched the table of the namespaces and waits for no other.
_POSTGRESQL = sa.text("""
    SELECT activity.pid AS id, application_name AS program, usename AS user_name, state AS doing,
        extract(epoch FROM clock_timestamp() - xact_start) AS seconds,
        extract(epoch FROM clock_timestamp() - query_start) AS query_seconds
    FROM pg_stat_activity AS activity JOIN pg_locks USING (pid)
    WHERE relation = to_regclass(:table) AND granted AND mode <> 'AccessShareLock'
        AND pid <> pg_backend_pid() AND wait_event_type IS DISTINCT FROM 'Lock'
    ORDER BY xact_start LIMIT 1""").bindparams(table=NAMESPACE.name)
#: The longest transaction that holds locks and waits for no other; of which table, it does not say,
#: so one in this database comes first.
_MYSQL = sa.text("""
    SELECT trx_mysql_thread_id AS id, host AS program, user AS user_name, command AS doing,
        timestampdiff(SECOND, trx_started, now()) AS seconds, time AS query_seconds
    FROM information_schema.innodb_trx
    LEFT JOIN information_schema.processlist ON id = trx_mysql_thread_id
    WHERE trx_rows_locked > 0 AND trx_state <> 'LOCK WAIT'
        AND trx_mysql_thread_id <> connection_id()
    ORDER BY db <=> database() DESC, trx_started LIMIT 1""")

#: Where SQLite locks its file: https://www.sqlite.org/fileformat.html#the_lock_byte_page
_SQLITE_BYTES = range(0x40000000, 0x40000200)
#: And where it locks that of shared memory which it has beside one with a write-ahead log.
_SQLITE_WAL_BYTES = range(120, 128)
#: Pid, inode and first byte in a line such as
#: ``1: POSIX  ADVISORY  WRITE 4711 fe:00:2192809 1073741824 1073742335``.
_LOCK = re.compile(r"^\d+: POSIX +\w+ +\w+ (\d+) \w+:\w+:(\d+) (\d+) ", re.MULTILINE)


def holder_of_lock(
    path: Path | None, connected: Callable[[float], AbstractContextManager[sa.Connection]]
) -> str:
    """Return who holds a lock, as the beginning of a sentence that gives the next step.

    :param path: of SQLite's file
    :param connected: gives a connection that is cut off at a moment of the monotonic clock
    """
    if path is not None:
        return _holder_on_sqlite(path)
    found = None
    with suppress(exc.SQLAlchemyError), connected(time.monotonic() + CONNECT_SECONDS) as connection:
        found = _holder_on_server(connection)
    return found or "The database does not tell which one: find it"


def _holder_on_server(connection: sa.Connection) -> str | None:
    """Return which session holds the lock, ``None`` where the database does not tell.

    :raises sqlalchemy.exc.SQLAlchemyError: it does not allow the question
    """
    is_postgresql = connection.dialect.name == "postgresql"
    found = connection.execute(_POSTGRESQL if is_postgresql else _MYSQL).first()
    if found is None:
        return None
    whose = f"{found.user_name}, {found.program}" if found.program else f"{found.user_name}"
    held = "It is held by" if is_postgresql else "It is probably held by"
    return (
        f"{held} connection {found.id} of the database ({whose}), {found.doing or 'idle'} for "
        f"{found.query_seconds or 0:.0f} s in a transaction of {found.seconds or 0:.0f} s. "
        "End that one"
    )


def _holder_on_sqlite(path: Path) -> str:
    """Return which process holds the lock of a SQLite file, if the kernel tells."""
    pids = _pids_with_locks(path)
    if os.getpid() in pids:
        return (
            "It is held by this very process, so probably by a transaction of the application "
            "that is still open. Commit it before changing settings"
        )
    names = [f"{pid} ({name})" for pid in sorted(pids) if (name := _process_name(pid))]
    if not names:
        return "SQLite does not tell which process holds it: find it, and end its transaction"
    return f"It is held by process {', '.join(names)}. End its transaction"


def owner_of_file(path: Path) -> str:
    """Return, as a sentence after another, who may write a SQLite file which this user may not."""
    user = user_name(os.geteuid())
    # SQLite makes a journal beside the file, so the directory counts as well.
    for place in (path, path.parent):
        try:
            found = place.stat()
        except FileNotFoundError:
            continue
        except PermissionError:
            return f" This process runs as {user}, who may not enter a directory of {path}."
        except OSError:
            return ""
        if not os.access(place, os.W_OK, effective_ids=True):
            if found.st_uid == os.geteuid():
                return (
                    f" {place} belongs to {user}, as which this process runs, but is read-only: by "
                    f"its mode, {stat.S_IMODE(found.st_mode):o}, or with its file system."
                )
            owner = user_name(found.st_uid)
            return (
                f" {place} belongs to user {owner}, and this process runs as {user}: run it as "
                f"{owner}, or give {user} the file and its directory with `chown`."
            )
    return "" if path.parent.exists() else f" There is no directory {path.parent}: make it."


def user_name(uid: int) -> str:
    """Return the name of a user, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _pids_with_locks(path: Path) -> set[int]:
    """Return the processes that hold a lock on a SQLite file, as Linux knows them."""
    locked: dict[str, range] = {}
    with suppress(OSError):
        locked[str(path.stat().st_ino)] = _SQLITE_BYTES
    with suppress(OSError):
        locked[str(Path(f"{path}-shm").stat().st_ino)] = _SQLITE_WAL_BYTES
    try:
        locks = _LOCK.findall(Path("/proc/locks").read_text())
    except OSError:
        return set()
    return {int(pid) for pid, inode, start in locks if int(start) in locked.get(inode, ())}


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
