"""Making the tables, release by release; :mod:`.declared` holds what each release has added.

A start, ``flask waffle init-db`` and the scripts for Alembic run the same steps, under one lock. A
step adds what is missing, so it does no harm where another of them has run it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import nullcontext
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable, ExecutableDDLElement

from .declared import RELEASES, metadata
from .locks import one_at_a_time

__all__ = ["create_missing", "downgrade", "missing_tables", "upgrade"]


def create_missing(connection: sa.Connection) -> None:
    """Run the steps of all releases, under the lock of the caller."""
    for release in RELEASES:
        for statement in _statements(release, connection.dialect.name, connection):
            connection.execute(statement)


def missing_tables(connection: sa.Connection) -> list[str]:
    """Return the names of the tables that do not exist."""
    inspector = sa.inspect(connection)
    return [name for name in metadata.tables if not inspector.has_table(name)]


def upgrade(op: Any, release: str) -> None:
    """Run the step of a release, as a script of Alembic.

    :param op: Alembic's, which may print the statements only
    """
    connection = None if op.get_context().as_sql else op.get_bind()
    with nullcontext() if connection is None else one_at_a_time(connection):
        for statement in _statements(release, op.get_context().dialect.name, connection):
            op.execute(statement)


def downgrade(op: Any, release: str) -> None:
    """Drop what a release has added, and what that holds; used as :func:`upgrade` is."""
    for item in reversed(_additions(release, metadata.tables.values())):
        if isinstance(item, sa.Table):
            op.drop_table(item.name)
        else:
            op.drop_column(item.table.name, item.name)


def _statements(
    release: str, dialect: str, connection: sa.Connection | None
) -> Iterator[ExecutableDDLElement]:
    """Yield what adds what a release has added; all of it where there is no connection."""
    inspector = None if connection is None else sa.inspect(connection)
    for item in _additions(release, _tables(dialect)):
        if isinstance(item, sa.Table):
            if inspector is None or not inspector.has_table(item.name):
                table = _as_of(release, item)
                yield CreateTable(table)
                yield from map(CreateIndex, table.indexes)
        else:
            table_name = item.table.name
            found = [] if inspector is None else inspector.get_columns(table_name)
            if item.name not in {column["name"] for column in found}:
                yield _AddColumn(item)


def _tables(dialect: str) -> Collection[sa.Table]:
    """Return the tables as they are made in a database."""
    if dialect not in ("mysql", "mariadb"):
        return metadata.tables.values()
    from . import schema

    return schema.metadata.tables.values()


def _additions(release: str, tables: Collection[sa.Table]) -> list[sa.Table | sa.Column[Any]]:
    """Return the tables that a release has added, and the columns of other tables."""
    found: list[sa.Table | sa.Column[Any]] = []
    for table in tables:
        if table.info["since"] == release:
            found.append(table)
        else:
            found += [c for c in table.columns if c.info.get("since") == release]
    return found


def _as_of(release: str, table: sa.Table) -> sa.Table:
    """Return a table with those of its columns that the release which added it had."""
    table = table.to_metadata(sa.MetaData())
    for column in table.columns:
        column.system = column.info.get("since", release) != release  # CREATE TABLE leaves it out
    return table


class _AddColumn(ExecutableDDLElement):
    """``ALTER TABLE ... ADD COLUMN``, which SQLAlchemy leaves to Alembic."""

    def __init__(self, column: sa.Column[Any]) -> None:
        self.column = column


@compiles(_AddColumn)
def _add_column(element: _AddColumn, compiler: Any, **_: Any) -> str:
    table = compiler.preparer.format_table(element.column.table)
    return f"ALTER TABLE {table} ADD COLUMN {compiler.process(CreateColumn(element.column))}"
