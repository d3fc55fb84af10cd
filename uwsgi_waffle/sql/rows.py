"""The statements of a change.

Made once, with named parameters: SQLAlchemy takes about as long to make a statement as a database
on the same machine takes to run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from uwsgi_waffle.values.position import Position

from .changes import RowChange
from .schema import CHANGE, NAMESPACE, SETTING

__all__ = ["move", "replace", "write_history", "write_settings"]

_IS_MINE = NAMESPACE.c.name == sa.bindparam("mine")
_IS_AT = tuple(
    NAMESPACE.c[name] == sa.bindparam(f"old_{name}") for name in ("lineage", "revision", "stamp")
)
_MOVE = (
    sa.update(NAMESPACE)
    .where(_IS_MINE)
    .values(revision=sa.bindparam("new_revision"), stamp=sa.bindparam("new_stamp"))
)
_ITS_SETTINGS = SETTING.c.namespace == sa.bindparam("mine")
_UPDATE = (
    sa.update(SETTING)
    .where(_ITS_SETTINGS, SETTING.c.name == sa.bindparam("its_name"))
    .values(value=sa.bindparam("new_value"), revision=sa.bindparam("new_revision"))
)
_INSERT, _LOG = sa.insert(SETTING), sa.insert(CHANGE)


@lru_cache
def _replace(limits: tuple[sa.ColumnElement[bool], ...]) -> sa.Update:
    return _MOVE.where(*_IS_AT, *limits)


def replace(
    connection: sa.Connection,
    namespace: str,
    old: Position,
    new: Position,
    limits: tuple[sa.ColumnElement[bool], ...],
) -> bool:
    """Lock a namespace's row and move it on, where it is at a position; return whether it was."""
    was = {"old_lineage": old.lineage, "old_revision": old.revision, "old_stamp": old.stamp}
    moved = {"mine": namespace, "new_revision": new.revision, "new_stamp": new.stamp}
    return connection.execute(_replace(limits), {**was, **moved}).rowcount == 1


def move(connection: sa.Connection, namespace: str, position: Position) -> None:
    """Move a namespace's row, which is locked."""
    moved = {"new_revision": position.revision, "new_stamp": position.stamp}
    connection.execute(_MOVE, {"mine": namespace, **moved})


def write_settings(
    connection: sa.Connection, namespace: str, revision: int, changes: Mapping[str, RowChange]
) -> None:
    """Write the rows of some settings, and delete those of settings that are at their default."""
    rows = [
        {"namespace": namespace, "revision": revision, "name": name, "value": change.new}
        for name, change in changes.items()
        if not change.is_default
    ]
    if len(rows) == len(changes) == 1:  # nearly always
        if not _was_updated(connection, rows[0]):
            connection.execute(_INSERT, rows)
        return
    names = SETTING.c.name.in_(list(changes))
    connection.execute(sa.delete(SETTING).where(_ITS_SETTINGS, names), {"mine": namespace})
    if rows:
        connection.execute(_INSERT, rows)


def _was_updated(connection: sa.Connection, row: Mapping[str, Any]) -> bool:
    """Write one row where there is one, and return whether there was."""
    which = {"mine": row["namespace"], "its_name": row["name"]}
    values = {"new_value": row["value"], "new_revision": row["revision"]}
    return connection.execute(_UPDATE, {**which, **values}).rowcount == 1


def write_history(
    connection: sa.Connection, line: Mapping[str, Any], changes: Mapping[str, RowChange]
) -> None:
    """Add the lines of a revision to the history.

    :param line: what they have in common
    """
    lines = [{**line, "name": name, **asdict(change)} for name, change in changes.items()]
    connection.execute(_LOG, lines)
