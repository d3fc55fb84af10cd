"""The tables of release 0.1.0."""

from __future__ import annotations

from alembic import op

from uwsgi_waffle.sql import tables

revision = "waffle_0_1_0"
down_revision = None
branch_labels = ("waffle",)
depends_on = None


def upgrade() -> None:
    """Add what is missing of it."""
    tables.upgrade(op, "0.1.0")


def downgrade() -> None:
    """Drop it, with what it holds."""
    tables.downgrade(op, "0.1.0")
