"""The hosts that listen, registered in SQL, which all hosts of a database share.

Hosts report what they serve to Redis, which may lose a report, or refuse to take it: it is full,
read-only, or forbids it by an ACL. By this list the other hosts know whose report is missing, and
do not call a state proved that such a host may not serve.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from .declared import HOST
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
        row["reason"] = reason[:_MAX_REASON_LENGTH]

        def transaction(connection: sa.Connection) -> None:
            self._delete(connection, host_id)
            connection.execute(sa.insert(HOST).values(**row, seen_at=_now(connection)))
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
        hosts = sa.select(HOST.c.id, HOST.c.name, HOST.c.reason)

        def read(connection: sa.Connection) -> list[RegisteredHost]:
            recent = connection.execute(hosts.where(*self._are_recent(connection)))
            return [RegisteredHost(*row) for row in recent.all()]

        return self._store.database.read(read, without_tables=[])

    def count(self) -> int:
        """Return how many hosts have registered lately.

        :raises StoreUnavailable: the database did not answer
        """
        hosts = sa.select(sa.func.count()).select_from(HOST)

        def read(connection: sa.Connection) -> int:
            recent = connection.execute(hosts.where(*self._are_recent(connection)))
            return int(recent.scalar_one())

        return self._store.database.read(read, without_tables=0)

    def release(self) -> None:
        """Close the connection that this process holds; the next question makes a new one."""
        self._store.database.close()

    def _are_recent(self, connection: sa.Connection) -> tuple[sa.ColumnElement[bool], ...]:
        # A release that writes no time notes only hosts that cannot report.
        is_recent = HOST.c.seen_at >= _now(connection) - FORGET_SECONDS
        return self._mine, sa.or_(HOST.c.seen_at == 0, is_recent)

    def _delete(self, connection: sa.Connection, host_id: str) -> None:
        connection.execute(sa.delete(HOST).where(self._mine, HOST.c.id == host_id))


#: Dialect -> whole seconds since the epoch by the database's clock.
_NOW = {
    "sqlite": "CAST(strftime('%s', 'now') AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) AS BIGINT)",
    "mysql": "UNIX_TIMESTAMP()",
    "mariadb": "UNIX_TIMESTAMP()",
}


def _now(connection: sa.Connection) -> sa.ColumnElement[int]:
    return sa.literal_column(_NOW[connection.dialect.name], sa.BigInteger)
