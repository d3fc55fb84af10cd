"""The four tables, for SQLite, PostgreSQL, MariaDB and MySQL, and which release has added what.

Statements are made of these. Those of :mod:`.schema` have what MySQL and MariaDB need besides, and
are what tables are made of there.

A release that adds a column marks it, gives it a default or lets it be NULL, so that the release
before can still write, gets an entry in :data:`RELEASES` and a script in ``migrations``. What a
release has added is never changed after it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    MetaData,
    String,
    Table,
    Text,
    false,
)

__all__ = ["CHANGE", "HOST", "INSTANT", "JSON", "NAMESPACE", "RELEASES", "SETTING", "metadata"]

metadata = MetaData()

#: The releases that have added something, in order.
RELEASES = ("0.1.0", "0.2.0")
_IN_0_1_0: dict[str, Any] = {"since": "0.1.0"}
_IN_0_2_0: dict[str, Any] = {"since": "0.2.0"}

#: Types that are others in MySQL and MariaDB.
JSON = Text()
INSTANT = DateTime()
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
    Column("stamp", _HEX_64_BITS, nullable=False, server_default="", info=_IN_0_2_0),
    # What signs the messages between hosts: the present key, then the one before it, in hex.
    Column("keys", String(200), nullable=False, server_default="", info=_IN_0_2_0),
    # History up to this revision has been pruned, so it cannot be rolled back to.
    Column("pruned", BigInteger, nullable=False, server_default="0"),
    info=_IN_0_1_0,
)

#: One row for each setting that differs from its default.
SETTING = Table(
    "waffle_setting",
    metadata,
    Column("namespace", _NAMESPACE_NAME, primary_key=True),
    Column("name", _SETTING_NAME, primary_key=True),
    Column("value", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    info=_IN_0_1_0,
)

#: One row for each setting that a revision changed; ``is_default`` where it went back to default.
CHANGE = Table(
    "waffle_change",
    metadata,
    Column("namespace", _NAMESPACE_NAME, primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("name", _SETTING_NAME, primary_key=True),
    Column("old", JSON, nullable=False),
    Column("new", JSON, nullable=False),
    Column("is_default", Boolean, nullable=False, server_default=false()),
    Column("actor", String(200), nullable=True),
    Column("comment", Text, nullable=True),
    Column("source", String(20), nullable=False),
    Column("stamp", _HEX_64_BITS, nullable=False, server_default="", info=_IN_0_2_0),
    # Whether it was a secret then; NULL where a release before 0.2.0 has written the row.
    Column("is_secret", Boolean, nullable=True, info=_IN_0_2_0),
    Column("at", INSTANT, nullable=False),
    Index("waffle_change_by_name", "namespace", "name", "revision"),
    info=_IN_0_1_0,
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
    info=_IN_0_2_0,
)
