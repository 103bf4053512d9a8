"""The tables of the control plane, as SQLAlchemy 2 models. Alembic's revisions make them; a test compares the two.

Our tables live in two schemas of their own, so that the database may be shared: ``cloudflux``, and ``staging`` for what
came from Kafka and no inventory has confirmed yet.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Numeric,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

CONTROL: Final = "cloudflux"
STAGING: Final = "staging"

_At = Annotated[datetime, mapped_column(DateTime(timezone=True))]
_Usd = Annotated[Decimal, mapped_column(Numeric(20, 10))]
# byte order: prefixes of object keys are found by index, whatever the server's locale
_Key = Annotated[str, mapped_column(Text(collation="C"))]
_RowId = Annotated[int, mapped_column(BigInteger, Identity(always=True), primary_key=True)]


class Base(DeclarativeBase):
    """What all tables share."""

    metadata = MetaData(
        schema=CONTROL,
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        },
    )
    type_annotation_map = {str: Text, int: BigInteger, float: Double, date: Date, dict[str, Any]: JSONB}  # noqa: RUF012  # SQLAlchemy's own form


class SourceFileRow(Base):
    """A log file whose events are published."""

    __tablename__ = "source_files"

    provider: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[_Key] = mapped_column(primary_key=True)
    etag: Mapped[str] = mapped_column(primary_key=True)
    file_id: Mapped[str]
    size_bytes: Mapped[int | None]
    last_modified_at: Mapped[_At | None]
    lines: Mapped[int | None]
    events: Mapped[int | None]
    quarantined: Mapped[int | None]
    part: Mapped[str | None]
    """The part of the lake that its rows are in."""
    days: Mapped[list[date] | None] = mapped_column(ARRAY(Date))
    """The days that its rows fall on."""
    published_at: Mapped[_At | None]
    """Null while its rows are being swapped in: a run that was cut off there is found by it."""


class QuarantineRow(Base):
    """One line of a log file (line 0: the whole file) that could not be read."""

    __tablename__ = "quarantine"
    __table_args__ = (Index(None, "reason"),)

    source_file: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    provider: Mapped[str]
    bucket: Mapped[str]
    key: Mapped[str]
    reason: Mapped[str]
    raw: Mapped[str]
    day: Mapped[date]


class CoverageRow(Base):
    """How much of one bucket's UTC day its access logs tell."""

    __tablename__ = "coverage"
    __table_args__ = (Index(None, "day"),)

    provider: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    coverage: Mapped[float]
    """0 to 1."""
    records: Mapped[int]
    """Log records of any operation."""
    quarantined: Mapped[int]
    hours_with_records: Mapped[int]
    reason: Mapped[str]
    """What is missing, in words; empty when nothing is."""
    measured_at: Mapped[_At]


class FormatNoticeRow(Base):
    """Something in a provider's files that was not there, or not so, before."""

    __tablename__ = "format_notices"

    provider: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[str] = mapped_column(primary_key=True)
    """The bucket that holds the file."""
    format: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    detail: Mapped[str]
    source: Mapped[str]
    """The first file that showed it."""
    times: Mapped[int]
    """Batches that showed it."""
    first_seen_at: Mapped[_At]
    last_seen_at: Mapped[_At]


class DriftRow(Base):
    """One figure of how far the scored objects, or what came of earlier forecasts, are from what was learnt."""

    __tablename__ = "drift"

    day: Mapped[date] = mapped_column(primary_key=True)
    """Of the scoring."""
    kind: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]
    objects: Mapped[int]
    forecast_day: Mapped[date | None]
    model_version: Mapped[str | None]
    """Null: the rules spoke."""
    measured_at: Mapped[_At]


class InventoryReportRow(Base):
    """An inventory report of a provider that was read into a published snapshot, or a live listing in its place."""

    __tablename__ = "inventory_reports"
    __table_args__ = (Index(None, "day"),)

    provider: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    """Of the snapshot."""
    format: Mapped[str]
    manifest: Mapped[str]
    """Bucket and key of the manifest; empty for a live listing."""
    taken_at: Mapped[_At]
    """When the provider took it."""
    objects: Mapped[int]
    bytes: Mapped[int]
    noncurrent_objects: Mapped[int]
    noncurrent_bytes: Mapped[int]
    quarantined: Mapped[int]
    published_at: Mapped[_At]


class ValidationRow(Base):
    """One audit of one batch."""

    __tablename__ = "validations"
    __table_args__ = (Index(None, "dataset", "validated_at"),)

    validation_id: Mapped[_RowId]
    dataset: Mapped[str]
    batch: Mapped[str]
    passed: Mapped[bool]
    checks: Mapped[list[Any]] = mapped_column(JSONB)
    rows: Mapped[int | None]
    result: Mapped[dict[str, Any] | None]
    """Great Expectations' own result, from which the Data Docs are built."""
    validated_at: Mapped[_At]


class PlanRow(Base):
    """A migration plan without its moves."""

    __tablename__ = "plans"
    __table_args__ = (Index(None, "created_at"),)

    plan_id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    created_at: Mapped[_At]
    decisions_day: Mapped[date]
    horizon_days: Mapped[int]
    dry_run: Mapped[bool]
    state: Mapped[str]
    expires_at: Mapped[_At]
    kind: Mapped[str] = mapped_column(server_default="placement")
    undoes: Mapped[str | None] = mapped_column(ForeignKey("cloudflux.plans.plan_id"))
    """The plan whose moves this one takes back."""
    guardrails: Mapped[dict[str, Any]] = mapped_column(JSONB)
    groups: Mapped[list[Any]] = mapped_column(JSONB)
    moves_sha256: Mapped[str]
    """Of all planned moves, in order; empty in plans that an earlier release stored."""
    objects: Mapped[int]
    bytes: Mapped[int]
    saving_usd: Mapped[_Usd]
    one_time_usd: Mapped[_Usd]
    before_usd_month: Mapped[_Usd]
    after_usd_month: Mapped[_Usd]
    scored_objects: Mapped[int]
    left_out: Mapped[int]
    canaries: Mapped[int] = mapped_column(server_default="0")
    held_out: Mapped[int] = mapped_column(server_default="0")
    above_caps: Mapped[list[Any]] = mapped_column(JSONB, server_default="[]")


class PlannedMoveRow(Base):
    """One move of a plan. A trigger forbids UPDATE: what was approved is what is carried out."""

    __tablename__ = "planned_moves"

    plan_id: Mapped[str] = mapped_column(ForeignKey(PlanRow.plan_id), primary_key=True)
    move_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    provider: Mapped[str]
    bucket: Mapped[str]
    key: Mapped[str]
    version_id: Mapped[str | None]
    etag: Mapped[str]
    size_bytes: Mapped[int]
    last_modified_at: Mapped[_At]
    class_since_at: Mapped[_At]
    from_class: Mapped[str]
    to_class: Mapped[str]
    saving_usd: Mapped[_Usd]
    one_time_usd: Mapped[_Usd]
    monthly_saving_usd: Mapped[_Usd]
    payback_days: Mapped[float | None]
    reason: Mapped[str]
    role: Mapped[str] = mapped_column(server_default="move")
    undoes_move_no: Mapped[int | None]


class PlanStateRow(Base):
    """A plan entered a state. A trigger forbids UPDATE, DELETE and TRUNCATE: approvals stay provable."""

    __tablename__ = "plan_states"
    __table_args__ = (Index(None, "plan_id"),)

    plan_state_id: Mapped[_RowId]
    plan_id: Mapped[str] = mapped_column(ForeignKey(PlanRow.plan_id))
    state: Mapped[str]
    by: Mapped[str]
    at: Mapped[_At]
    note: Mapped[str]


class LedgerRow(Base):
    """One move entered one state. Triggers forbid UPDATE, DELETE and TRUNCATE, and moves that no plan has."""

    __tablename__ = "ledger"
    __table_args__ = (
        UniqueConstraint("plan_id", "move_no", "state"),
        # of two that append to one move at once only one gets the step
        UniqueConstraint("plan_id", "move_no", "step"),
        CheckConstraint("step > 0", name="step_positive"),
        Index(None, "state", "at"),
        # what was done with one object; by a digest, as a key may be longer than an index takes
        Index("ix_ledger_done_key", text("hashtextextended(key, 0)"), postgresql_where=text("state = 'done'")),
    )

    ledger_id: Mapped[_RowId]
    plan_id: Mapped[str]
    move_no: Mapped[int]
    step: Mapped[int]
    provider: Mapped[str]
    bucket: Mapped[str]
    key: Mapped[str]
    version_id: Mapped[str | None]
    state: Mapped[str]
    at: Mapped[_At]
    from_class: Mapped[str]
    to_class: Mapped[str]
    etag: Mapped[str]
    size_bytes: Mapped[int]
    detail: Mapped[str]
    request_id: Mapped[str | None]
    one_time_usd: Mapped[_Usd]
    expected_saving_usd: Mapped[_Usd]
    actor: Mapped[str]
    object_state: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """What the object was: before the move in `submitted`, after it in `done`."""
    cost_usd: Mapped[_Usd | None]
    recorded_at: Mapped[_At] = mapped_column(server_default=func.now())


class SavingsRow(Base):
    """One report of projected and realised savings: of a plan, or of all of them."""

    __tablename__ = "savings"
    __table_args__ = (Index(None, "reported_at"), Index(None, "plan_id", "reported_at"))

    report_id: Mapped[str] = mapped_column(primary_key=True)
    reported_at: Mapped[_At]
    day: Mapped[date]
    objects: Mapped[int]
    moves_done: Mapped[int]
    moves_failed: Mapped[int]
    before_usd_month: Mapped[_Usd]
    after_usd_month: Mapped[_Usd]
    projected_usd_month: Mapped[_Usd]
    realised_usd_month: Mapped[_Usd | None]
    """Null while no day since the moves is measured."""
    one_time_usd: Mapped[_Usd]
    plan_id: Mapped[str | None]
    """Null: over all plans."""
    details: Mapped[dict[str, Any]]


class IngestionEventRow(Base):
    """A file that a producer announced. Its identity is (file_id, timestamp, source): a retry adds no row."""

    __tablename__ = "ingestion_events"
    __table_args__ = (Index(None, "staged_at"), {"schema": STAGING})

    file_id: Mapped[str] = mapped_column(primary_key=True)
    timestamp: Mapped[_At] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    size_gb: Mapped[float]
    content_type: Mapped[str]
    user_id: Mapped[str]
    topic: Mapped[str]
    partition: Mapped[int]
    offset: Mapped[int]
    produced_at: Mapped[_At | None]
    staged_at: Mapped[_At]


class DeadLetterRow(Base):
    """A message that is not valid, with the reason and its bytes."""

    __tablename__ = "dead_letters"
    __table_args__ = (Index(None, "topic", "partition", "offset"), Index(None, "reason"), {"schema": STAGING})

    dead_letter_id: Mapped[_RowId]
    topic: Mapped[str]
    partition: Mapped[int]
    offset: Mapped[int]
    reason: Mapped[str]
    detail: Mapped[str]
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    """Its first 64 KiB."""
    payload_bytes: Mapped[int]
    """Of the whole payload."""
    produced_at: Mapped[_At | None]
    recorded_at: Mapped[_At]


class KafkaOffsetRow(Base):
    """Up to where a partition is drained: ``next_offset`` is the first one not yet stored."""

    __tablename__ = "kafka_offsets"
    __table_args__ = (CheckConstraint("next_offset >= 0", name="next_offset_not_negative"), {"schema": STAGING})

    topic: Mapped[str] = mapped_column(primary_key=True)
    partition: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    next_offset: Mapped[int]
    updated_at: Mapped[_At]


class OffsetGapRow(Base):
    """Messages that the broker deleted before they were drained, and that somebody chose to do without."""

    __tablename__ = "offset_gaps"
    __table_args__ = {"schema": STAGING}  # noqa: RUF012  # SQLAlchemy's own form

    gap_id: Mapped[_RowId]
    topic: Mapped[str]
    partition: Mapped[int]
    from_offset: Mapped[int]
    to_offset: Mapped[int]
    """The first offset after the gap."""
    accepted_at: Mapped[_At]
