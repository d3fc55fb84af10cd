"""Who changed what, when and why, with values as the declaration types them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from uwsgi_waffle.values.cipher import Cipher, Undecipherable
from uwsgi_waffle.values.declaration import Declaration
from uwsgi_waffle.values.position import MAX_REVISION
from uwsgi_waffle.values.settings import MASK

from .changes import is_storable
from .declared import CHANGE, NAMESPACE
from .limits import DEAD_SECONDS
from .store import Store

__all__ = ["Change", "History"]


@dataclass(frozen=True, slots=True)
class Change:
    """One setting changed by one revision.

    :ivar old: the value before; typed where today's declaration accepts it, else as plain JSON
    :ivar new: the value after, likewise
    :ivar is_default: the setting went back to its default, which was *new* then
    :ivar actor: who changed it, if given
    :ivar comment: why, if given
    :ivar source: through which interface: ``python``, ``cli``, ``api`` or ``page``
    :ivar at: when, in UTC
    """

    revision: int
    name: str
    old: Any
    new: Any
    actor: str | None
    comment: str | None
    at: datetime
    source: str
    is_default: bool


class History:
    """The history of one namespace."""

    def __init__(self, store: Store, declaration: Declaration, cipher: Cipher) -> None:
        self._store = store
        self._declaration = declaration
        self._cipher = cipher
        self._mine = CHANGE.c.namespace == store.namespace

    def changes(
        self, name: str | None = None, limit: int | None = 50, *, reveal: bool = False
    ) -> list[Change]:
        """Return changes, newest first; secrets are masked unless *reveal*.

        :param name: a declared setting, or one that was declared earlier
        :param limit: how many at most, ``None`` for all
        :raises ValueError: the limit is negative, which databases take in different ways
        :raises StoreUnavailable: the database did not answer
        """
        if limit is not None and limit < 0:
            message = f"limit = {limit}: give how many changes at most, or None for all."
            raise ValueError(message)
        if name is not None and not is_storable(name):
            return []  # some databases refuse to look for it
        if limit is not None:
            limit = min(limit, MAX_REVISION)  # databases have no room for more
        statement = self._select()
        if name is not None:
            statement = statement.where(CHANGE.c.name == name)
        newest_first = statement.order_by(CHANGE.c.revision.desc(), CHANGE.c.name).limit(limit)
        return self._read(newest_first, reveal=reveal)

    def changes_after(
        self, revision: int, name: str | None = None, *, reveal: bool = False
    ) -> list[Change]:
        """Return the changes of later revisions, oldest first; else as :meth:`changes`.

        :raises StoreUnavailable: the database did not answer
        """
        if name is not None and not is_storable(name):
            return []
        statement = self._select().where(CHANGE.c.revision > revision)
        if name is not None:
            statement = statement.where(CHANGE.c.name == name)
        oldest_first = statement.order_by(CHANGE.c.revision, CHANGE.c.name)
        return self._read(oldest_first, reveal=reveal)

    def latest(self) -> dict[str, Change]:
        """Return the last change of each setting that was ever changed; secrets are masked.

        :raises StoreUnavailable: the database did not answer
        """
        changes = self._read(self._select().join(*_last_changes(self._mine)))
        return {change.name: change for change in changes}

    def timeline(
        self, limit: int, *, names: Collection[str] | None = None, before: int | None = None
    ) -> list[Change]:
        """Return the changes of the latest revisions, each whole, newest first; secrets are masked.

        :param limit: how many revisions at most
        :param names: only changes of these settings, and revisions that have some; ``None`` for all
        :param before: only revisions older than this one
        :raises StoreUnavailable: the database did not answer
        """
        wanted = [self._mine]
        if names is not None:
            wanted.append(CHANGE.c.name.in_(list(names)))
        revisions = sa.select(CHANGE.c.revision).distinct().where(*wanted)
        if before is not None:
            revisions = revisions.where(CHANGE.c.revision < before)
        # A join, as MySQL takes no LIMIT within IN.
        newest = revisions.order_by(CHANGE.c.revision.desc()).limit(limit).subquery()
        statement = self._select().join(newest, CHANGE.c.revision == newest.c.revision)
        statement = statement.where(*wanted).order_by(CHANGE.c.revision.desc(), CHANGE.c.name)
        return self._read(statement)

    def rows_at(self, revision: int) -> dict[str, str | None] | None:
        """Return what each setting that was ever changed held at a revision.

        :return: name -> stored text, ``None`` for the default; or ``None`` where that revision was
            not reached yet, or its history was pruned
        :raises StoreUnavailable: the database did not answer
        """
        bounds = sa.select(NAMESPACE.c.revision, NAMESPACE.c.pruned).where(self._store.is_mine)
        ever = sa.select(CHANGE.c.name).distinct().where(self._mine)
        last, is_last = _last_changes(self._mine, CHANGE.c.revision <= revision)
        then = sa.select(CHANGE.c.name, CHANGE.c.new, CHANGE.c.is_default).where(self._mine)

        def read(connection: sa.Connection) -> dict[str, str | None] | None:
            limits = connection.execute(bounds).first()
            newest, pruned = (limits.revision, limits.pruned) if limits is not None else (0, 0)
            if not pruned <= revision <= newest:
                return None
            rows: dict[str, str | None] = dict.fromkeys(connection.execute(ever).scalars())
            for row in connection.execute(then.join(last, is_last)):
                rows[row.name] = None if row.is_default else row.new
            return rows

        nothing: dict[str, str | None] | None = {} if revision == 0 else None
        return self._store.database.read(read, without_tables=nothing)

    def stamps_from(self, revision: int) -> dict[int, str]:
        """Return revision -> stamp of each revision from that one on which changed a setting.

        :raises StoreUnavailable: the database did not answer
        """
        statement = (
            sa.select(CHANGE.c.revision, CHANGE.c.stamp)
            .distinct()
            .where(self._mine, CHANGE.c.revision >= revision)
        )

        def read(connection: sa.Connection) -> dict[int, str]:
            return {row.revision: row.stamp for row in connection.execute(statement)}

        return self._store.database.read(read, without_tables={})

    def _select(self) -> sa.Select[Any]:
        columns = [CHANGE.c[name] for name in (*Change.__dataclass_fields__, "is_secret")]
        return sa.select(*columns).where(self._mine)

    def _read(self, statement: sa.Select[Any], *, reveal: bool = False) -> list[Change]:
        def read(connection: sa.Connection) -> list[Change]:
            found = connection.execute(statement).mappings()
            return [self._change(row, reveal=reveal) for row in found]

        return self._store.database.read(read, without_tables=[], seconds=DEAD_SECONDS)

    def _change(self, row: Mapping[Any, Any], *, reveal: bool) -> Change:
        columns = dict(row)
        is_secret = self._is_secret(row["name"], was_secret=columns.pop("is_secret"))
        shows = reveal or not is_secret
        columns["old"] = self._value(row["name"], row["old"], reveal=reveal, shows=shows)
        columns["new"] = self._value(row["name"], row["new"], reveal=reveal, shows=shows)
        columns["at"] = row["at"].replace(tzinfo=timezone.utc)
        return Change(**columns)

    def _is_secret(self, name: str, *, was_secret: bool | None) -> bool:
        """Return whether values of a setting are secret, which they stay once they were.

        Of a row that does not tell, and whose setting is no longer declared, it cannot be known.
        """
        if name in self._declaration.names:
            return bool(was_secret) or name in self._declaration.secrets
        return was_secret is not False

    def _value(self, name: str, text: str, *, reveal: bool, shows: bool) -> Any:
        """Return a stored text as a value, or a mask."""
        if not shows or (self._cipher.is_sealed(text) and not reveal):
            return MASK
        try:
            plain = self._cipher.open(text)
        except Undecipherable:
            return MASK
        return self._declaration.value_from_json(name, plain)


def _last_changes(
    *which: sa.ColumnElement[bool],
) -> tuple[sa.Subquery, sa.ColumnElement[bool]]:
    """Return the last change of each setting among some, and how to join it to the changes."""
    last = (
        sa.select(CHANGE.c.name, sa.func.max(CHANGE.c.revision).label("revision"))
        .where(*which)
        .group_by(CHANGE.c.name)
        .subquery()
    )
    return last, sa.and_(CHANGE.c.name == last.c.name, CHANGE.c.revision == last.c.revision)
