"""The reports of projected and realised savings."""

from __future__ import annotations

from sqlalchemy import Engine, RowMapping, select, text

from cloudflux.domain.reports import SavingsReport
from cloudflux.stores.bulk import to_json
from cloudflux.stores.tables import SavingsRow

_FIGURES = (
    "day", "objects", "moves_done", "moves_failed", "before_usd_month", "after_usd_month", "projected_usd_month",
    "realised_usd_month", "one_time_usd",
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

    def latest(self) -> SavingsReport | None:
        """Give the newest report, None when there is none."""
        found = self.recent(1)
        return found[0] if found else None

    def recent(self, limit: int) -> list[SavingsReport]:
        """Give the newest reports, newest first."""
        wanted = select(SavingsRow).order_by(SavingsRow.reported_at.desc(), SavingsRow.report_id).limit(limit)
        with self._engine.connect() as connection:
            return [_report(row) for row in connection.execute(wanted).mappings()]


def _report(row: RowMapping) -> SavingsReport:
    return SavingsReport(
        report_id=row["report_id"],
        at=row["reported_at"],
        details=row["details"],
        **{name: row[name] for name in _FIGURES},
    )
