"""Make the first tables, and the triggers that keep the record append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.execute("CREATE SCHEMA IF NOT EXISTS staging")
    op.create_table(
        "plans",
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decisions_day", sa.Date(), nullable=False),
        sa.Column("horizon_days", sa.BigInteger(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("max_objects", sa.BigInteger(), nullable=False),
        sa.Column("max_bytes", sa.BigInteger(), nullable=False),
        sa.Column("max_one_time_usd", sa.Numeric(), nullable=False),
        sa.Column("min_saving_usd", sa.Numeric(), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("saving_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("one_time_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("before_usd_month", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("after_usd_month", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("scored_objects", sa.BigInteger(), nullable=False),
        sa.Column("left_out", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("plan_id", name=op.f("pk_plans")),
        schema="cloudflux",
    )
    op.create_index(op.f("ix_plans_created_at"), "plans", ["created_at"], unique=False, schema="cloudflux")
    op.create_table(
        "quarantine",
        sa.Column("source_file", sa.Text(), nullable=False),
        sa.Column("line", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("source_file", "line", name=op.f("pk_quarantine")),
        schema="cloudflux",
    )
    op.create_index(op.f("ix_quarantine_reason"), "quarantine", ["reason"], unique=False, schema="cloudflux")
    op.create_table(
        "savings",
        sa.Column("report_id", sa.Text(), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("moves_done", sa.BigInteger(), nullable=False),
        sa.Column("moves_failed", sa.BigInteger(), nullable=False),
        sa.Column("before_usd_month", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("after_usd_month", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("projected_usd_month", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("realised_usd_month", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("one_time_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("report_id", name=op.f("pk_savings")),
        schema="cloudflux",
    )
    op.create_index(op.f("ix_savings_reported_at"), "savings", ["reported_at"], unique=False, schema="cloudflux")
    op.create_table(
        "source_files",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("last_modified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lines", sa.BigInteger(), nullable=True),
        sa.Column("events", sa.BigInteger(), nullable=True),
        sa.Column("quarantined", sa.BigInteger(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("provider", "bucket", "key", "etag", name=op.f("pk_source_files")),
        schema="cloudflux",
    )
    op.create_table(
        "validations",
        sa.Column("validation_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("checks", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("validated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("validation_id", name=op.f("pk_validations")),
        schema="cloudflux",
    )
    op.create_index(
        op.f("ix_validations_dataset_validated_at"),
        "validations",
        ["dataset", "validated_at"],
        unique=False,
        schema="cloudflux",
    )
    op.create_table(
        "dead_letters",
        sa.Column("dead_letter_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("payload_bytes", sa.BigInteger(), nullable=False),
        sa.Column("produced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("dead_letter_id", name=op.f("pk_dead_letters")),
        schema="staging",
    )
    op.create_index(op.f("ix_dead_letters_reason"), "dead_letters", ["reason"], unique=False, schema="staging")
    op.create_index(
        op.f("ix_dead_letters_topic_partition_offset"),
        "dead_letters",
        ["topic", "partition", "offset"],
        unique=False,
        schema="staging",
    )
    op.create_table(
        "ingestion_events",
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("size_gb", sa.Double(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("produced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("staged_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("file_id", "timestamp", "source", name=op.f("pk_ingestion_events")),
        schema="staging",
    )
    op.create_index(
        op.f("ix_ingestion_events_staged_at"), "ingestion_events", ["staged_at"], unique=False, schema="staging"
    )
    op.create_table(
        "kafka_offsets",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("next_offset >= 0", name=op.f("ck_kafka_offsets_next_offset_not_negative")),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("pk_kafka_offsets")),
        schema="staging",
    )
    op.create_table(
        "offset_gaps",
        sa.Column("gap_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.BigInteger(), nullable=False),
        sa.Column("from_offset", sa.BigInteger(), nullable=False),
        sa.Column("to_offset", sa.BigInteger(), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("gap_id", name=op.f("pk_offset_gaps")),
        schema="staging",
    )
    op.create_table(
        "plan_states",
        sa.Column("plan_state_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["cloudflux.plans.plan_id"], name=op.f("fk_plan_states_plans")),
        sa.PrimaryKeyConstraint("plan_state_id", name=op.f("pk_plan_states")),
        schema="cloudflux",
    )
    op.create_index(op.f("ix_plan_states_plan_id"), "plan_states", ["plan_id"], unique=False, schema="cloudflux")
    op.create_table(
        "planned_moves",
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("move_no", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("last_modified_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("class_since_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("from_class", sa.Text(), nullable=False),
        sa.Column("to_class", sa.Text(), nullable=False),
        sa.Column("saving_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("one_time_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("monthly_saving_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("payback_days", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["cloudflux.plans.plan_id"], name=op.f("fk_planned_moves_plans")),
        sa.PrimaryKeyConstraint("plan_id", "move_no", name=op.f("pk_planned_moves")),
        schema="cloudflux",
    )
    op.create_table(
        "ledger",
        sa.Column("ledger_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("move_no", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("from_class", sa.Text(), nullable=False),
        sa.Column("to_class", sa.Text(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("one_time_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("expected_saving_usd", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("step > 0", name=op.f("ck_ledger_step_positive")),
        sa.ForeignKeyConstraint(
            ["plan_id", "move_no"],
            ["cloudflux.planned_moves.plan_id", "cloudflux.planned_moves.move_no"],
            name=op.f("fk_ledger_planned_moves"),
        ),
        sa.PrimaryKeyConstraint("ledger_id", name=op.f("pk_ledger")),
        sa.UniqueConstraint("plan_id", "move_no", "state", name=op.f("uq_ledger_plan_id_move_no_state")),
        sa.UniqueConstraint("plan_id", "move_no", "step", name=op.f("uq_ledger_plan_id_move_no_step")),
        schema="cloudflux",
    )
    op.create_index(op.f("ix_ledger_state_at"), "ledger", ["state", "at"], unique=False, schema="cloudflux")
    op.execute(
        """
        CREATE FUNCTION cloudflux.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% of %.% is forbidden: it is a record of what happened',
                TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )
    for table, verbs in (
        ("ledger", "UPDATE OR DELETE OR TRUNCATE"),
        ("plan_states", "UPDATE OR DELETE OR TRUNCATE"),
        # what was approved is what is carried out; the moves of an old preview may be deleted
        ("planned_moves", "UPDATE"),
    ):
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE {verbs} ON cloudflux.{table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION cloudflux.refuse_change()"
        )
        # ALWAYS: also in a session that poses as a replica
        op.execute(f"ALTER TABLE cloudflux.{table} ENABLE ALWAYS TRIGGER {table}_append_only")
