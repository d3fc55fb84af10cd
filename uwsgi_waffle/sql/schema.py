"""The four tables, for SQLite, PostgreSQL, MariaDB and MySQL.

Migrations may own them (``WAFFLE_AUTO_CREATE = False``): :data:`metadata` is what alembic compares
against.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Index,
    MetaData,
    String,
    Table,
    Text,
    false,
    inspect,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateColumn

__all__ = [
    "CHANGE",
    "HOST",
    "NAMESPACE",
    "SETTING",
    "create_missing",
    "metadata",
    "missing_tables",
]

metadata = MetaData()

#: MySQL's own TEXT ends at 64 KiB, and its DATETIME at whole seconds.
_JSON = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_INSTANT = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
#: Names compare byte by byte everywhere, as they do in Python.
_MYSQL: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}
_NAMESPACE_NAME = String(100)
_SETTING_NAME = String(150)

_HEX_64_BITS = String(16)

#: One row for each application. Its lock orders the writers; its revision orders everything else.
NAMESPACE = Table(
    "waffle_namespace",
    metadata,
    Column("name", _NAMESPACE_NAME, primary_key=True),
    Column("lineage", _HEX_64_BITS, nullable=False),
    Column("revision", BigInteger, nullable=False),
    # Random, made by the commit that made the revision.
    Column("stamp", _HEX_64_BITS, nullable=False, server_default=""),
    # What signs the messages between hosts: the present key, then the one before it, in hex.
    Column("keys", String(200), nullable=False, server_default=""),
    # History up to this revision has been pruned, so it cannot be rolled back to.
    Column("pruned", BigInteger, nullable=False, server_default="0"),
    **_MYSQL,
)

#: One row for each setting that differs from its default.
SETTING = Table(
    "waffle_setting",
    metadata,
    Column("namespace", _NAMESPACE_NAME, primary_key=True),
    Column("name", _SETTING_NAME, primary_key=True),
    Column("value", _JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    **_MYSQL,
)

#: One row for each setting that a revision changed; ``is_default`` where it went back to default.
CHANGE = Table(
    "waffle_change",
    metadata,
    Column("namespace", _NAMESPACE_NAME, primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("name", _SETTING_NAME, primary_key=True),
    Column("old", _JSON, nullable=False),
    Column("new", _JSON, nullable=False),
    Column("is_default", Boolean, nullable=False, server_default=false()),
    Column("actor", String(200), nullable=True),
    Column("comment", Text, nullable=True),
    Column("source", String(20), nullable=False),
    Column("stamp", _HEX_64_BITS, nullable=False, server_default=""),
    # Whether it was a secret then; NULL where a release before 0.2.0 has written the row.
    Column("is_secret", Boolean, nullable=True),
    Column("at", _INSTANT, nullable=False),
    Index("waffle_change_by_name", "namespace", "name", "revision"),
    **_MYSQL,
)

#: One row for each host that listens, so that one is missed whose report Redis does not hold.
HOST = Table(
    "waffle_host",
    metadata,
    Column("namespace", _NAMESPACE_NAME, primary_key=True),
    Column("id", _HEX_64_BITS, primary_key=True),
    Column("name", String(255), nullable=False),
    # Why it cannot report to Redis, "" where it can.
    Column("reason", String(500), nullable=False),
    # When it registered last: seconds since the epoch by the database's clock.
    Column("seen_at", BigInteger, nullable=False, server_default="0"),
    **_MYSQL,
)


def create_missing(connection: Connection) -> None:
    """Create what is missing; each column that was added later has a default, or may be NULL."""
    metadata.create_all(connection)
    inspector = inspect(connection)
    for table in metadata.tables.values():
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                compiled = CreateColumn(column).compile(connection)
                quoted = connection.dialect.identifier_preparer.format_table(table)
                connection.exec_driver_sql(f"ALTER TABLE {quoted} ADD COLUMN {compiled}")


def missing_tables(connection: Connection) -> list[str]:
    """Return the names of the tables that do not exist."""
    inspector = inspect(connection)
    return [name for name in metadata.tables if not inspector.has_table(name)]
