"""Moving at scale: guardrails as one value, roles of moves, what objects were before and after, undoing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OLD_CAPS = ("max_objects", "max_bytes", "max_one_time_usd", "min_saving_usd")


def upgrade() -> None:
    """Apply this revision."""
    usd = sa.Numeric(precision=20, scale=10)
    for column in (
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("kind", sa.Text(), server_default="placement", nullable=False),
        sa.Column("undoes", sa.Text(), nullable=True),
        sa.Column("guardrails", postgresql.JSONB(), nullable=True),
        sa.Column("groups", postgresql.JSONB(), nullable=True),
        sa.Column("moves_sha256", sa.Text(), nullable=True),
        sa.Column("canaries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("held_out", sa.BigInteger(), server_default="0", nullable=False),
    ):
        op.add_column("plans", column, schema="cloudflux")
    op.execute(
        """
        UPDATE cloudflux.plans SET
            expires_at = created_at + interval '14 days',
            groups = '[]',
            moves_sha256 = '',
            guardrails = jsonb_build_object(
                'max_objects', max_objects, 'max_bytes', max_bytes,
                'max_one_time_usd', max_one_time_usd::text, 'min_saving_usd', min_saving_usd::text)
        """
    )
    for name in ("expires_at", "guardrails", "groups", "moves_sha256"):
        op.alter_column("plans", name, nullable=False, schema="cloudflux")
    for name in _OLD_CAPS:
        op.drop_column("plans", name, schema="cloudflux")
    op.create_foreign_key(
        op.f("fk_plans_plans"),
        "plans",
        "plans",
        ["undoes"],
        ["plan_id"],
        source_schema="cloudflux",
        referent_schema="cloudflux",
    )
    op.add_column(
        "planned_moves", sa.Column("role", sa.Text(), server_default="move", nullable=False), schema="cloudflux"
    )
    op.add_column("planned_moves", sa.Column("undoes_move_no", sa.BigInteger(), nullable=True), schema="cloudflux")
    op.alter_column("planned_moves", "payback_days", nullable=True, schema="cloudflux")
    op.add_column("ledger", sa.Column("object_state", postgresql.JSONB(), nullable=True), schema="cloudflux")
    op.add_column("ledger", sa.Column("cost_usd", usd, nullable=True), schema="cloudflux")
