"""The reports of projected and realised savings, and the moves that realised savings are measured by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
from sqlalchemy import Engine, RowMapping, select, text

from cloudflux.domain.reports import SavingsReport
from cloudflux.stores.bulk import to_json
from cloudflux.stores.tables import LedgerRow, PlanRow, SavingsRow

_FIGURES = (
    "day", "objects", "moves_done", "moves_failed", "before_usd_month", "after_usd_month", "projected_usd_month",
    "realised_usd_month", "one_time_usd", "plan_id",
)  # fmt: skip


class Savings:
    """All savings reports."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, report: SavingsReport) -> None:
        """Record a report; one with the same ``report_id`` is replaced. Money is kept to ten places."""
        columns = ("report_id", "reported_at", *_FIGURES, "details")
        values = ", ".join(f":{name}" for name in columns[:-1])
        updates = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
        with self._engine.begin() as connection:
            connection.execute(
                text(
                    f"INSERT INTO cloudflux.savings ({', '.join(columns)}) VALUES ({values}, CAST(:details AS jsonb)) "  # noqa: S608  # our own names
                    f"ON CONFLICT (report_id) DO UPDATE SET {updates}"
                ),
                {name: getattr(report, name) for name in ("report_id", *_FIGURES)}
                | {"reported_at": report.at, "details": to_json(report.details)},
            )

    def latest(self, plan_id: str | None = None) -> SavingsReport | None:
        """Give the newest report of a plan, or of all plans together; None when there is none."""
        of_plan = SavingsRow.plan_id.is_(None) if plan_id is None else SavingsRow.plan_id == plan_id
        newest = select(SavingsRow).where(of_plan).order_by(SavingsRow.reported_at.desc(), SavingsRow.report_id)
        with self._engine.connect() as connection:
            row = connection.execute(newest.limit(1)).mappings().one_or_none()
        return None if row is None else _report(row)

    def latest_of_plans(self) -> list[SavingsReport]:
        """Give each plan's newest report, the newest plan first."""
        wanted = (
            select(SavingsRow)
            .distinct(SavingsRow.plan_id)
            .where(SavingsRow.plan_id.is_not(None))
            .order_by(SavingsRow.plan_id, SavingsRow.reported_at.desc(), SavingsRow.report_id)
        )
        with self._engine.connect() as connection:
            reports = [_report(row) for row in connection.execute(wanted).mappings()]
        return sorted(reports, key=lambda report: (report.day, report.plan_id or ""), reverse=True)

    def recent(self, limit: int) -> list[SavingsReport]:
        """Give the newest reports, newest first."""
        wanted = select(SavingsRow).order_by(SavingsRow.reported_at.desc(), SavingsRow.report_id).limit(limit)
        with self._engine.connect() as connection:
            return [_report(row) for row in connection.execute(wanted).mappings()]


# lake.shards.SHARD_SQL in PostgreSQL's words: the digest's last eight bytes, read little-endian, without a sign
_SHARD: Final = """
CREATE OR REPLACE FUNCTION pg_temp.shard_of(provider text, bucket text, key text, shards bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT mod(
        (('x' || string_agg(substr(digest, place, 2), '' ORDER BY place DESC))::bit(64)::bigint)::numeric
            + CASE WHEN substr(digest, 31, 1) >= '8' THEN 18446744073709551616 ELSE 0 END,
        shards)::bigint
    FROM md5(convert_to(provider, 'UTF8') || '\\x00'::bytea || convert_to(bucket, 'UTF8') || '\\x00'::bytea
             || convert_to(key, 'UTF8')) AS digest,
        generate_series(17, 31, 2) AS place
    GROUP BY digest
$$
"""

# a move without a payback is one to a class that its owner has pinned: all others pay back, or are not planned
_MEASURED: Final = """
WITH mine AS (
    SELECT m.*, p.created_at FROM cloudflux.planned_moves m JOIN cloudflux.plans p USING (plan_id)
    WHERE p.plan_id = ANY(%(plan_ids)s) AND p.kind = 'placement'
        AND pg_temp.shard_of(m.provider, m.bucket, m.key, %(shards)s) = %(shard)s
), done AS (
    SELECT DISTINCT ON (provider, bucket, key) provider, bucket, key, to_class, etag, at
    FROM cloudflux.ledger WHERE state = 'done' AND (provider, bucket, key) IN (SELECT provider, bucket, key FROM mine)
    ORDER BY provider, bucket, key, ledger_id DESC
), halfway AS (
    SELECT plan_id, percentile_disc(0.5) WITHIN GROUP (ORDER BY at) AS at
    FROM cloudflux.ledger WHERE state = 'done' AND plan_id = ANY(%(plan_ids)s) GROUP BY plan_id
), moved_on AS (
    SELECT mine.plan_id, mine.move_no, min(l.at) AS at
    FROM mine JOIN cloudflux.ledger l USING (provider, bucket, key)
    WHERE mine.role = 'hold_out' AND l.state = 'done' AND l.at > mine.created_at GROUP BY 1, 2
), taken_back AS (
    SELECT p.undoes AS plan_id, m.undoes_move_no AS move_no, sum(l.cost_usd) AS cost_usd
    FROM cloudflux.plans p JOIN cloudflux.planned_moves m USING (plan_id)
        JOIN cloudflux.ledger l USING (plan_id, move_no)
    WHERE p.undoes = ANY(%(plan_ids)s) AND l.state = 'done' GROUP BY 1, 2
)
SELECT mine.plan_id, mine.provider, mine.bucket, mine.key, mine.size_bytes, mine.class_since_at, mine.from_class,
    mine.to_class, mine.role = 'hold_out' AS held_out, mine.payback_days IS NULL AS pinned,
    mine.monthly_saving_usd::float8 AS monthly_saving_usd,
    mine.one_time_usd::float8 AS planned_cost_usd,
    CASE WHEN mine.role = 'hold_out' THEN halfway.at ELSE l.at END AS done_at, u.at AS undone_at,
    l.cost_usd::float8 AS cost_usd, taken_back.cost_usd::float8 AS undo_cost_usd,
    coalesce(done.to_class, mine.from_class) AS expected_class, coalesce(done.etag, mine.etag) AS expected_etag,
    done.at AS expected_since_at, moved_on.at AS moved_on_at
FROM mine
    LEFT JOIN cloudflux.ledger l ON l.plan_id = mine.plan_id AND l.move_no = mine.move_no AND l.state = 'done'
    LEFT JOIN cloudflux.ledger u ON u.plan_id = mine.plan_id AND u.move_no = mine.move_no AND u.state = 'undone'
    LEFT JOIN done ON done.provider = mine.provider AND done.bucket = mine.bucket AND done.key = mine.key
    LEFT JOIN halfway ON halfway.plan_id = mine.plan_id
    LEFT JOIN moved_on ON moved_on.plan_id = mine.plan_id AND moved_on.move_no = mine.move_no
    LEFT JOIN taken_back ON taken_back.plan_id = mine.plan_id AND taken_back.move_no = mine.move_no
WHERE l.at IS NOT NULL OR (mine.role = 'hold_out' AND halfway.at IS NOT NULL)
ORDER BY mine.plan_id, mine.move_no
"""

_ROWS: Final = 10_000


class MeasuredMoves:
    """The moves that are done, those undone since, and what was held out: what realised savings are measured by."""

    def __init__(self, engine: Engine, schema: pa.Schema) -> None:
        """Take the schema of the tables to give: columns of the query by their names."""
        self._engine = engine
        self._schema = schema

    def plans_with_moves_since(self, since: datetime) -> list[str]:
        """Name the plans (no undoes) of which a move was done at or after a time, oldest first."""
        done = select(LedgerRow.plan_id).where(LedgerRow.state == "done", LedgerRow.at >= since)
        wanted = (
            select(PlanRow.plan_id)
            .where(PlanRow.plan_id.in_(done), PlanRow.kind == "placement")
            .order_by(PlanRow.created_at, PlanRow.plan_id)
        )
        with self._engine.connect() as connection:
            return list(connection.execute(wanted).scalars())

    def measured_moves(self, plan_ids: Sequence[str], shard: int, shards: int) -> pa.Table:
        """Give the done, undone and held-out moves of some plans whose objects lie in a shard of the lake."""
        batches = list(self._batches({"plan_ids": list(plan_ids), "shard": shard, "shards": shards}))
        return pa.Table.from_batches(batches, schema=self._schema)

    def _batches(self, wanted: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(_SHARD)
            found = connection.execution_options(yield_per=_ROWS).exec_driver_sql(_MEASURED, wanted)
            for rows in found.mappings().partitions():
                columns = [pa.array([row[field.name] for row in rows], field.type) for field in self._schema]
                yield pa.RecordBatch.from_arrays(columns, schema=self._schema)


def _report(row: RowMapping) -> SavingsReport:
    return SavingsReport(
        report_id=row["report_id"],
        at=row["reported_at"],
        details=row["details"],
        **{name: row[name] for name in _FIGURES},
    )
