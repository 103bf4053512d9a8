"""Keep where a log file's rows are, coverage, notices of changed formats, inventory reports, audits' results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("source_files", sa.Column("part", sa.Text(), nullable=True), schema="cloudflux")
    op.add_column("source_files", sa.Column("days", sa.ARRAY(sa.Date()), nullable=True), schema="cloudflux")
    op.alter_column("source_files", "published_at", nullable=True, schema="cloudflux")
    op.add_column("validations", sa.Column("rows", sa.BigInteger(), nullable=True), schema="cloudflux")
    op.add_column(
        "validations", sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True), schema="cloudflux"
    )
    op.create_table(
        "coverage",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("coverage", sa.Double(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("hours_with_records", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("provider", "bucket", "day", name=op.f("pk_coverage")),
        schema="cloudflux",
    )
    op.create_index(op.f("ix_coverage_day"), "coverage", ["day"], unique=False, schema="cloudflux")
    op.create_table(
        "format_notices",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("provider", "bucket", "format", "kind", "name", name=op.f("pk_format_notices")),
        schema="cloudflux",
    )
    op.create_table(
        "inventory_reports",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("noncurrent_objects", sa.BigInteger(), nullable=False),
        sa.Column("noncurrent_bytes", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("provider", "bucket", "day", name=op.f("pk_inventory_reports")),
        schema="cloudflux",
    )
    op.create_index(op.f("ix_inventory_reports_day"), "inventory_reports", ["day"], unique=False, schema="cloudflux")
