"""Looking after what is stored: pruning the history, new keys, a database behind its hosts.

None of it changes a value. What the hosts must take notice of is a revision of its own, as a host
takes a record only if its revision is later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

import sqlalchemy as sa

from uwsgi_waffle.errors import ConfigError, InvalidSetting
from uwsgi_waffle.values.cipher import SEALED_PREFIX, Cipher, Undecipherable
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Record

from .schema import CHANGE, NAMESPACE, SETTING
from .store import Store

__all__ = ["Pruned", "Rotated", "create_tables", "prune", "resync", "rotate_keys"]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning did, or would do.

    :ivar up_to: the mark: the revisions before it cannot be rolled back to any more
    :ivar removed: how many lines of history went
    :ivar kept: how many are left
    """

    up_to: int
    removed: int
    kept: int


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation of keys did.

    :ivar record: the record after it
    :ivar values: how many present values were sealed anew
    :ivar history: how many lines of history were
    """

    record: Record
    values: int
    history: int


def create_tables(store: Store) -> None:
    """Create the tables that are missing.

    :raises StoreUnavailable: the database did not answer, or does not allow it
    """
    store.database.create_tables()


# -- the history ------------------------------------------------------------------------------


def prune(
    store: Store,
    *,
    keep: int | None = None,
    before: datetime | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Forget old history, but for the last change of each setting before the mark.

    With that one, a rollback to any revision from the mark on stays right. Present values are not
    history, so none is touched.

    :param keep: how many of the latest revisions stay
    :param before: forget what is older than this moment, by the clocks of those who wrote
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

    return store.database.write(transaction)


def _locked_bounds(connection: sa.Connection, store: Store) -> tuple[int, int]:
    """Keep writers out, and return the newest revision and the present mark."""
    connection.execute(
        sa.update(NAMESPACE).where(store.is_mine).values(pruned=NAMESPACE.c.pruned + 0)
    )
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
    """Return the revision up to which the history goes."""
    mine = CHANGE.c.namespace == store.namespace
    marks = [0]
    if keep is not None:
        # Counted, not subtracted: a resync leaves a gap in the numbers.
        latest = sa.select(CHANGE.c.revision).where(mine).distinct()
        latest = latest.order_by(CHANGE.c.revision.desc()).offset(max(keep - 1, 0)).limit(1)
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

    One statement for each setting: MySQL does not delete from a table that it selects from.
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
    """Move SQL past every revision that a host has seen of it; values are those of SQL.

    A database that was emptied gets a lineage, so that the defaults are served.

    :param seen: the position of each host
    :return: the record after it, ``None`` where nobody has seen a later revision
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
    """Seal every secret anew with the first key, in one transaction: values and history.

    Where keys are being introduced, that seals what was stored open.

    :param beyond: a lineage and a revision that hosts have seen, which the new one must pass
    :raises ConfigError: there is no key to seal with
    :raises InvalidSetting: a value that none of the keys opens; nothing was changed
    :raises StoreUnavailable: the database did not answer
    """
    if not cipher.seals:
        message = (
            "WAFFLE_ENCRYPTION_KEYS is not set, so there is no key to seal with. Set it to the new "
            "key, followed by the old ones."
        )
        raise ConfigError(message, key="WAFFLE_ENCRYPTION_KEYS")
    secrets = frozenset(secret_names)
    counts = [0, 0]

    def amend(connection: sa.Connection, _record: Record) -> bool:
        counts[0] = _rotate(connection, store, cipher, secrets, SETTING, ("value",))
        counts[1] = _rotate(connection, store, cipher, secrets, CHANGE, ("old", "new"))
        return any(counts)

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
    """Seal the columns of a table's rows anew, and return of how many rows."""
    mine = table.c.namespace == store.namespace
    keys = [column for column in table.primary_key if column.name != "namespace"]
    # A setting that is not declared secret any more may have been when it was stored.
    sealed = (table.c[name].startswith(SEALED_PREFIX) for name in columns)
    chosen = sa.select(*keys, *(table.c[name] for name in columns)).where(
        mine, sa.or_(table.c.name.in_(secrets), *sealed)
    )
    updates = [
        {
            **{name: _reseal(cipher, row["name"], row[name]) for name in columns},
            **{f"key_{column.name}": row[column.name] for column in keys},
        }
        for row in connection.execute(chosen).mappings()
    ]
    if updates:
        same = (column == sa.bindparam(f"key_{column.name}") for column in keys)
        values: dict[str, sa.BindParameter[str]] = {name: sa.bindparam(name) for name in columns}
        connection.execute(sa.update(table).where(mine, *same).values(values), updates)
    return len(updates)


def _reseal(cipher: Cipher, name: str, text: str) -> str:
    try:
        return cipher.rotate(text)
    except Undecipherable as error:
        finding = {"type": "value_error", "loc": (name,), "msg": str(error)}
        raise InvalidSetting([finding]) from None
