"""The hosts that listen, registered in SQL, which all hosts of a database share.

Hosts report what they serve to Redis, which may lose a report, or refuse to take it: it is full,
read-only, or forbids it by an ACL. By this list the other hosts know whose report is missing, and
do not call a state proved that such a host may not serve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from .schema import HOST
from .store import Store

__all__ = ["FORGET_SECONDS", "HostRegistry", "RegisteredHost"]

#: Seconds after which a host is forgotten that neither registers again nor reports to Redis.
FORGET_SECONDS = 300
_MAX_REASON_LENGTH = 500


@dataclass(frozen=True, slots=True)
class RegisteredHost:
    """A host that listens.

    :ivar id: 16 hexadecimal digits that identify it
    :ivar name: its host name
    :ivar reason: why it cannot report to Redis, ``""`` where it can
    """

    id: str
    name: str
    reason: str


class HostRegistry:
    """The hosts of one namespace that listen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mine = HOST.c.namespace == store.namespace

    def register(self, host_id: str, name: str, reason: str = "") -> None:
        """Register a host, for :data:`FORGET_SECONDS` from now.

        :param reason: why it cannot report to Redis
        :raises StoreUnavailable: the database did not answer, or does not allow it
        """
        row = {"namespace": self._store.namespace, "id": host_id, "name": name[:255]}
        insert = sa.insert(HOST).values(
            **row, reason=reason[:_MAX_REASON_LENGTH], seen_at=_database_seconds()
        )

        def transaction(connection: sa.Connection) -> None:
            self._delete(connection, host_id)
            connection.execute(insert)
            self._store.database.commit(connection)

        self._store.database.write(transaction)

    def forget(self, host_id: str) -> None:
        """Remove a host that ends, or is gone for good.

        :raises StoreUnavailable: the database did not answer, or does not allow it
        """

        def transaction(connection: sa.Connection) -> None:
            self._delete(connection, host_id)
            self._store.database.commit(connection)

        self._store.database.write(transaction)

    def read(self) -> list[RegisteredHost]:
        """Return the hosts that have registered lately.

        :raises StoreUnavailable: the database did not answer
        """
        statement = sa.select(HOST.c.id, HOST.c.name, HOST.c.reason).where(*self._are_recent())

        def read(connection: sa.Connection) -> list[RegisteredHost]:
            return [RegisteredHost(*row) for row in connection.execute(statement)]

        return self._store.database.read(read, without_tables=[])

    def count(self) -> int:
        """Return how many hosts have registered lately.

        :raises StoreUnavailable: the database did not answer
        """
        statement = sa.select(sa.func.count()).select_from(HOST).where(*self._are_recent())

        def read(connection: sa.Connection) -> int:
            return int(connection.execute(statement).scalar_one())

        return self._store.database.read(read, without_tables=0)

    def release(self) -> None:
        """Close the connection that this process holds; the next question makes a new one."""
        self._store.database.close()

    def _are_recent(self) -> tuple[sa.ColumnElement[bool], ...]:
        # A release that writes no time notes only hosts that cannot report.
        is_recent = HOST.c.seen_at >= _database_seconds() - FORGET_SECONDS
        return self._mine, sa.or_(HOST.c.seen_at == 0, is_recent)

    def _delete(self, connection: sa.Connection, host_id: str) -> None:
        connection.execute(sa.delete(HOST).where(self._mine, HOST.c.id == host_id))


class _database_seconds(FunctionElement[int]):  # noqa: N801  # it stands in SQL, as functions do
    """Whole seconds since the epoch by the database's clock."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(_database_seconds, "sqlite")
def _sqlite_seconds(*_: Any, **__: Any) -> str:
    return "CAST(strftime('%s', 'now') AS INTEGER)"


@compiles(_database_seconds, "postgresql")
def _postgresql_seconds(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS BIGINT)"


@compiles(_database_seconds, "mysql", "mariadb")
def _mysql_seconds(*_: Any, **__: Any) -> str:
    return "UNIX_TIMESTAMP()"
