"""Plans tell of moves that exceed one of their caps alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column(
        "plans",
        sa.Column("above_caps", postgresql.JSONB(), server_default="[]", nullable=False),
        schema="cloudflux",
    )
