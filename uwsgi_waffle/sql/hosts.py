"""Hosts that cannot report on Redis, noted in SQL, which all hosts of a database share.

Redis may refuse a host's reports: it is full, read-only, or forbids them by an ACL. Without a note
the other hosts would not know of that host, and call a state proved that it does not serve.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from .schema import HOST
from .store import Store

__all__ = ["MuteHost", "MuteHosts"]

_MAX_REASON_LENGTH = 500


@dataclass(frozen=True, slots=True)
class MuteHost:
    """A host that cannot report on Redis.

    :ivar id: 16 hexadecimal digits that identify it
    :ivar name: its host name
    :ivar reason: why it cannot report
    """

    id: str
    name: str
    reason: str


class MuteHosts:
    """The hosts of one namespace that cannot report on Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mine = HOST.c.namespace == store.namespace

    def note(self, host: MuteHost) -> None:
        """Note that a host cannot report.

        :raises StoreUnavailable: the database did not answer, or does not allow it
        """

        def transaction(connection: sa.Connection) -> None:
            self._delete(connection, host.id)
            row = {"namespace": self._store.namespace, "id": host.id, "name": host.name[:255]}
            reason = host.reason[:_MAX_REASON_LENGTH]
            connection.execute(sa.insert(HOST), {**row, "reason": reason})
            self._store.database.commit(connection)

        self._store.database.write(transaction)

    def forget(self, host_id: str) -> None:
        """Remove a host that can report again, ends, or is gone for good.

        :raises StoreUnavailable: the database did not answer, or does not allow it
        """

        def transaction(connection: sa.Connection) -> None:
            self._delete(connection, host_id)
            self._store.database.commit(connection)

        self._store.database.write(transaction)

    def read(self) -> list[MuteHost]:
        """Return the hosts that cannot report.

        :raises StoreUnavailable: the database did not answer
        """
        statement = sa.select(HOST.c.id, HOST.c.name, HOST.c.reason).where(self._mine)

        def read(connection: sa.Connection) -> list[MuteHost]:
            return [MuteHost(*row) for row in connection.execute(statement)]

        return self._store.database.read(read, without_tables=[])

    def _delete(self, connection: sa.Connection, host_id: str) -> None:
        connection.execute(sa.delete(HOST).where(self._mine, HOST.c.id == host_id))
