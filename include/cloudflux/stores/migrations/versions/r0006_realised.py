"""Savings reports name their plan, and may have no realised figure yet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("savings", sa.Column("plan_id", sa.Text(), nullable=True), schema="cloudflux")
    # what earlier releases called realised was what the done moves were expected to save
    op.execute(
        """
        UPDATE cloudflux.savings SET
            plan_id = details ->> 'plan_id',
            details = details || jsonb_build_object('carried_out_usd_month', realised_usd_month::text)
        """
    )
    op.alter_column("savings", "realised_usd_month", nullable=True, schema="cloudflux")
    op.execute("UPDATE cloudflux.savings SET realised_usd_month = NULL")
    op.create_index(op.f("ix_savings_plan_id_reported_at"), "savings", ["plan_id", "reported_at"], schema="cloudflux")
