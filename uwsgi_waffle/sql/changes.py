"""What a writer does to the settings, and the statements by which it does.

The statements are made once, with named parameters: SQLAlchemy takes about as long to make one as a
database on the same machine takes to run it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from uwsgi_waffle.errors import invalid_setting
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Record

from .declared import CHANGE, NAMESPACE, SETTING

__all__ = [
    "MAX_COMMENT_LENGTH",
    "Edit",
    "RowChange",
    "Signature",
    "is_storable",
    "move",
    "replace",
    "write_history",
    "write_settings",
]

#: Longest comment that the history stores, in characters.
MAX_COMMENT_LENGTH = 10_000
_MAX_ACTOR_LENGTH = 200
_NOT_STORED = re.compile("[\0\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Return whether every database stores a text as it is."""
    return not _NOT_STORED.search(text)


@dataclass(frozen=True, slots=True)
class RowChange:
    """What a writer does to one setting; texts as they are stored.

    :ivar is_default: the setting goes back to its default, so its row is deleted
    :ivar is_secret: the history shows it masked, whatever is declared later
    """

    old: str = field(repr=False)  # secrets among them
    new: str = field(repr=False)
    is_default: bool = False
    is_secret: bool = False

    @property
    def stored(self) -> str | None:
        """What the setting's row holds from then on; ``None`` where it has none."""
        return None if self.is_default else self.new


@dataclass(frozen=True, slots=True)
class Signature:
    """Who makes a change, why, and through which interface, for the history.

    :raises InvalidSetting: some database would not store the actor or the comment as it is
    """

    actor: str | None = None
    comment: str | None = None
    source: str = "python"

    def __post_init__(self) -> None:
        for name, most in (("actor", _MAX_ACTOR_LENGTH), ("comment", MAX_COMMENT_LENGTH)):
            text: object = getattr(self, name)
            problem = ""
            if text is None:
                continue
            if not isinstance(text, str):
                problem = f"it must be a text, not {type(text).__name__}"
            elif len(text) > most:
                problem = f"it has {len(text):,} characters; the most is {most:,}"
            elif not is_storable(text):
                what = "NUL, or half of a surrogate pair"
                problem = f"it holds a character that no database stores ({what})"
            if problem:
                raise invalid_setting(problem, name)


#: Given the present record, returns what to do to it.
Edit = Callable[[Record], Mapping[str, RowChange]]


# -- statements ---------------------------------------------------------------------------------

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
    lines = [
        {
            **line,
            "name": name,
            "old": change.old,
            "new": change.new,
            "is_default": change.is_default,
            "is_secret": change.is_secret,
        }
        for name, change in changes.items()
    ]
    connection.execute(_LOG, lines)
