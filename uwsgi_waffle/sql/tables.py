"""Making tables, and the columns that those of an earlier release lack."""

from __future__ import annotations

import sqlalchemy as sa

from .schema import metadata

__all__ = ["create_missing", "missing_tables"]


def create_missing(connection: sa.Connection) -> None:
    """Create what is missing; each column that was added later has a default, or may be NULL."""
    metadata.create_all(connection)
    inspector = sa.inspect(connection)
    for table in metadata.tables.values():
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                compiled = sa.schema.CreateColumn(column).compile(connection)
                quoted = connection.dialect.identifier_preparer.format_table(table)
                connection.exec_driver_sql(f"ALTER TABLE {quoted} ADD COLUMN {compiled}")


def missing_tables(connection: sa.Connection) -> list[str]:
    """Return the names of the tables that do not exist."""
    inspector = sa.inspect(connection)
    return [name for name in metadata.tables if not inspector.has_table(name)]
