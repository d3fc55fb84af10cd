"""What release 0.2.0 adds: stamps, message keys, marks of secrets, and the hosts that listen."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "waffle_0_2_0"
down_revision = "waffle_0_1_0"
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}


def upgrade() -> None:
    """Add columns, each with a default by which release 0.1.0 can still write, and a table."""
    stamp = sa.String(16)
    op.add_column("waffle_namespace", sa.Column("stamp", stamp, nullable=False, server_default=""))
    op.add_column(
        "waffle_namespace", sa.Column("keys", sa.String(200), nullable=False, server_default="")
    )
    op.add_column("waffle_change", sa.Column("stamp", stamp, nullable=False, server_default=""))
    op.add_column("waffle_change", sa.Column("is_secret", sa.Boolean))
    op.create_table(
        "waffle_host",
        sa.Column("namespace", sa.String(100), primary_key=True),
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False, server_default="0"),
        **_OPTIONS,
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("waffle_host")
    op.drop_column("waffle_change", "is_secret")
    op.drop_column("waffle_change", "stamp")
    op.drop_column("waffle_namespace", "keys")
    op.drop_column("waffle_namespace", "stamp")
