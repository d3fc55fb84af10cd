"""How long SQL may take: for a connection, for a lock, and for a whole transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

__all__ = [
    "ABANDONED_SECONDS",
    "CONNECT_SECONDS",
    "DEAD_SECONDS",
    "LOCK_SECONDS",
    "LONG_SECONDS",
    "MOST_CONNECTIONS",
    "POOL_SECONDS",
    "READ_SECONDS",
    "SETTLE_SECONDS",
    "TRANSACTION_LIMITS",
    "WRITE_SECONDS",
    "limit_session",
]

#: The most connections of one process.
MOST_CONNECTIONS = 10
#: Seconds to wait for a connection to be made, where the driver would wait for ever.
CONNECT_SECONDS = 5
#: Seconds to wait for a connection that another thread of this process uses.
POOL_SECONDS = 5
#: Seconds to wait for another transaction's lock.
LOCK_SECONDS = 5
#: Seconds after which the database ends a transaction of ours that does nothing, as its process
#: was stopped or its host is gone, so that others are not locked out for ever.
ABANDONED_SECONDS = 10
#: Seconds that a change of settings may take, all its attempts together.
WRITE_SECONDS = 15
#: Seconds to find out whether a commit was made whose answer was lost; more than the database
#: takes to end that transaction, if it is still open.
SETTLE_SECONDS = 15
#: Seconds that a question may take.
READ_SECONDS = 10
#: Seconds without an answer after which a connection counts as broken.
DEAD_SECONDS = 60
#: Seconds that maintenance may take, which goes through the whole history.
LONG_SECONDS = 600

#: Set by a condition of the first statement, for its transaction only: that takes no further
#: statement, and leaves nothing in a session that a pooler lends to other applications.
_POSTGRESQL = sa.text(
    f"set_config('lock_timeout', '{LOCK_SECONDS}s', true) || "
    f"set_config('idle_in_transaction_session_timeout', '{ABANDONED_SECONDS}s', true) <> ''"
)
#: The last one is MariaDB's own. MySQL has none of its kind.
_MYSQL = (
    f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}, lock_wait_timeout = {LOCK_SECONDS} "
    f"/*M!100300 , idle_transaction_timeout = {ABANDONED_SECONDS} */"
)


def limit_session(dialect: str, driver_connection: Any) -> None:
    """Limit how long a new session waits for locks, where the database has that by session."""
    if dialect in ("mysql", "mariadb"):
        cursor = driver_connection.cursor()
        cursor.execute(_MYSQL)
        cursor.close()


#: Dialect -> conditions, always true, by which a transaction's first statement limits it.
TRANSACTION_LIMITS: Mapping[str, tuple[sa.ColumnElement[bool], ...]] = {
    "postgresql": (_POSTGRESQL,)  # type: ignore[dict-item]  # WHERE takes text
}
