"""Maintenance of the database: pruning the history, new keys, a database behind its hosts.

None of it changes a value. What all hosts must see makes a revision, as a host only moves to a
later one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

import sqlalchemy as sa

from uwsgi_waffle.values.cipher import SEALED_PREFIX, Cipher
from uwsgi_waffle.values.position import MAX_REVISION, Position
from uwsgi_waffle.values.snapshot import Record

from .declared import CHANGE, NAMESPACE, SETTING
from .limits import LONG_SECONDS
from .store import Store, new_key

__all__ = ["Pruned", "Rotated", "prune", "resync", "rotate_keys"]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning did, or would do.

    :ivar up_to: the mark, which is the oldest revision to roll back to
    :ivar removed: how many lines of history were removed
    :ivar kept: how many are left
    """

    up_to: int
    removed: int
    kept: int


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation of keys did.

    :ivar record: the record after it, with the new message key and the one before it
    :ivar values: how many present values were sealed with the first encryption key
    :ivar history: how many lines of history were
    """

    record: Record
    values: int
    history: int


# -- the history ------------------------------------------------------------------------------


def prune(
    store: Store,
    *,
    keep: int | None = None,
    before: datetime | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Remove the changes before a mark, except the last one of each setting.

    With those, a rollback to any revision from the mark on gives the right values. Present values
    are not part of the history, so they stay.

    :param keep: how many of the latest revisions stay
    :param before: remove what is older than this moment, by the clocks of the writers
    :raises StoreUnavailable: the database did not answer
    """

    def transaction(connection: sa.Connection) -> Pruned:
        newest, pruned = _locked_bounds(connection, store)
        mark = min(max(_mark(connection, store, newest, keep, before), pruned), newest)
        total = _count(connection, store)
        removed = _forget(connection, store, mark)
        if dry_run:
            connection.rollback()
        else:
            connection.execute(sa.update(NAMESPACE).where(store.is_mine).values(pruned=mark))
            connection.commit()
        return Pruned(mark, removed, total - removed)

    return store.database.write(transaction, seconds=LONG_SECONDS)


def _locked_bounds(connection: sa.Connection, store: Store) -> tuple[int, int]:
    """Lock out writers, and return the newest revision and the present mark."""
    store.touch(connection)
    bounds = sa.select(NAMESPACE.c.revision, NAMESPACE.c.pruned).where(store.is_mine)
    found = connection.execute(bounds).first()
    return (found.revision, found.pruned) if found is not None else (0, 0)


def _mark(
    connection: sa.Connection,
    store: Store,
    newest: int,
    keep: int | None,
    before: datetime | None,
) -> int:
    """Return the revision up to which the history is removed."""
    mine = CHANGE.c.namespace == store.namespace
    marks = [0]
    if keep is not None:
        # Counted, as a resync leaves a gap in the numbers.
        latest = sa.select(CHANGE.c.revision).where(mine).distinct()
        latest = (
            latest.order_by(CHANGE.c.revision.desc())
            .offset(min(max(keep - 1, 0), MAX_REVISION))
            .limit(1)
        )
        oldest_kept: int | None = connection.execute(latest).scalar()
        marks.append(newest if keep == 0 else (oldest_kept or 1) - 1)
    if before is not None:
        moment = before.astimezone(timezone.utc).replace(tzinfo=None)
        young = sa.select(sa.func.min(CHANGE.c.revision)).where(mine, CHANGE.c.at >= moment)
        first_young: int | None = connection.execute(young).scalar()
        marks.append(newest if first_young is None else first_young - 1)
    return max(marks)


def _forget(connection: sa.Connection, store: Store, mark: int) -> int:
    """Delete, of each setting, all changes up to the mark but the last, and return how many.

    With a statement for each setting, as MySQL does not delete from a table that it selects from.
    """
    mine = CHANGE.c.namespace == store.namespace
    last = (
        sa.select(CHANGE.c.name, sa.func.max(CHANGE.c.revision).label("revision"))
        .where(mine, CHANGE.c.revision <= mark)
        .group_by(CHANGE.c.name)
    )
    removed = 0
    for name, revision in connection.execute(last).all():
        older = sa.and_(mine, CHANGE.c.name == name, CHANGE.c.revision < revision)
        removed += connection.execute(sa.delete(CHANGE).where(older)).rowcount
    return removed


def _count(connection: sa.Connection, store: Store) -> int:
    statement = sa.select(sa.func.count()).where(CHANGE.c.namespace == store.namespace)
    total: int = connection.execute(statement).scalar_one()
    return total


# -- a database behind its hosts ---------------------------------------------------------------


def resync(store: Store, seen: Collection[Position]) -> Record | None:
    """Move SQL past every revision that a host has seen of it, with SQL's values.

    A database that was emptied gets a new lineage, so that the hosts serve the defaults.

    :param seen: the position of each host
    :return: the record after it, ``None`` where no host has seen a later revision
    :raises StoreUnavailable: the database did not answer
    """
    present = store.peek()
    if not present.exists:
        if any(position.exists for position in seen):
            store.create_namespace()
            return store.read()
        return None
    ahead = [position for position in seen if present.is_behind(position)]
    if not ahead:
        return None
    latest = max(ahead, key=lambda position: position.revision)
    return store.amend(lambda _connection, _record: True, beyond=latest)


# -- keys --------------------------------------------------------------------------------------


def rotate_keys(
    store: Store, cipher: Cipher, secret_names: Iterable[str], *, beyond: Position
) -> Rotated:
    """Make a new message key, and seal secrets and their history with the first encryption key.

    All in one transaction. Without encryption keys, secrets stay as they are stored. The message
    key before the new one stays valid until the next rotation, so that a host that has only that
    one still understands the others, and they understand it.

    :param beyond: a position that a host has seen, whose revision the new one must exceed
    :raises InvalidSetting: none of the encryption keys opens a value; nothing was changed
    :raises StoreUnavailable: the database did not answer
    """
    key = new_key()
    secrets = frozenset(secret_names if cipher.seals else ())
    counts = [0, 0]

    def amend(connection: sa.Connection, record: Record) -> bool:
        counts[0] = _rotate(connection, store, cipher, secrets, SETTING, ("value",))
        counts[1] = _rotate(connection, store, cipher, secrets, CHANGE, ("old", "new"))
        before = [one for one in record.keys if one != key][:1]
        keys = {"keys": " ".join([key, *before])}
        connection.execute(sa.update(NAMESPACE).where(store.is_mine).values(keys))
        return True

    record = store.amend(amend, beyond=beyond)
    return Rotated(record, *counts)


def _rotate(  # noqa: PLR0913, PLR0917  # what, where and how
    connection: sa.Connection,
    store: Store,
    cipher: Cipher,
    secrets: frozenset[str],
    table: sa.Table,
    columns: tuple[str, ...],
) -> int:
    """Seal the columns of a table's rows again, and return how many rows were sealed."""
    mine = table.c.namespace == store.namespace
    keys = [column for column in table.primary_key if column.name != "namespace"]
    # What is sealed may be a setting that is no longer declared secret.
    sealed = (table.c[name].startswith(SEALED_PREFIX) for name in columns)
    chosen = sa.select(*keys, *(table.c[name] for name in columns)).where(
        mine, sa.or_(table.c.name.in_(secrets), *sealed)
    )
    updates = [
        {
            **{name: cipher.seal(cipher.open_setting(row["name"], row[name])) for name in columns},
            **{f"key_{column.name}": row[column.name] for column in keys},
        }
        for row in connection.execute(chosen).mappings()
    ]
    if updates:
        same = (column == sa.bindparam(f"key_{column.name}") for column in keys)
        values: dict[str, sa.BindParameter[str]] = {name: sa.bindparam(name) for name in columns}
        connection.execute(sa.update(table).where(mine, *same).values(values), updates)
    return len(updates)
