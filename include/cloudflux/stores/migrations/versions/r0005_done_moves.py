"""Find what was done with one object: for taking moves back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.create_index(
        "ix_ledger_done_key",
        "ledger",
        [sa.literal_column("hashtextextended(key, 0)")],
        unique=False,
        schema="cloudflux",
        postgresql_where=sa.text("state = 'done'"),
    )
