"""What release 0.2.0 adds: stamps, message keys, marks of secrets, and the hosts that listen."""

from __future__ import annotations

from alembic import op

from uwsgi_waffle.sql import tables

revision = "waffle_0_2_0"
down_revision = "waffle_0_1_0"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is missing of it."""
    tables.upgrade(op, "0.2.0")


def downgrade() -> None:
    """Drop it, with what it holds."""
    tables.downgrade(op, "0.2.0")
