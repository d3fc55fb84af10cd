"""The tables of release 0.1.0. A database that has them already: ``alembic stamp waffle_0_1_0``."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "waffle_0_1_0"
down_revision = None
branch_labels = ("waffle",)
depends_on = None

_JSON = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_INSTANT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_OPTIONS: dict[str, Any] = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}


def upgrade() -> None:
    """Create the three tables."""
    op.create_table(
        "waffle_namespace",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("lineage", sa.String(16), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("pruned", sa.BigInteger, nullable=False, server_default="0"),
        **_OPTIONS,
    )
    op.create_table(
        "waffle_setting",
        sa.Column("namespace", sa.String(100), primary_key=True),
        sa.Column("name", sa.String(150), primary_key=True),
        sa.Column("value", _JSON, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        **_OPTIONS,
    )
    op.create_table(
        "waffle_change",
        sa.Column("namespace", sa.String(100), primary_key=True),
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(150), primary_key=True),
        sa.Column("old", _JSON, nullable=False),
        sa.Column("new", _JSON, nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("actor", sa.String(200), nullable=True),
        sa.Column("comment", sa.Text, nullable=True),
        sa.Column("source", sa.String(20), nullable=False),
        sa.Column("at", _INSTANT, nullable=False),
        **_OPTIONS,
    )
    op.create_index("waffle_change_by_name", "waffle_change", ["namespace", "name", "revision"])


def downgrade() -> None:
    """Drop the tables, and with them all settings and their history."""
    for name in ("waffle_change", "waffle_setting", "waffle_namespace"):
        op.drop_table(name)
