"""How much of each bucket's UTC days the access logs tell, as it was measured last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import Engine, func, select

from cloudflux.domain.coverage import CoveredDay, LoggedPast
from cloudflux.stores.bulk import copy_rows, storable, temporary_copy_of
from cloudflux.stores.tables import CoverageRow, SourceFileRow

_TABLE: Final = "cloudflux.coverage"
_COLUMNS: Final = (
    "provider",
    "bucket",
    "day",
    "coverage",
    "records",
    "quarantined",
    "hours_with_records",
    "reason",
    "measured_at",
)
_KEY: Final = ("provider", "bucket", "day")


class CoverageLog:
    """The coverage of every bucket and day."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Record one row per provider, bucket and day, in the table's columns; a row that is there is replaced.

        Returns how many were given.
        """
        listed, keys = ", ".join(_COLUMNS), ", ".join(_KEY)
        replaced = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in _KEY)
        with (
            self._engine.begin() as connection,
            temporary_copy_of(connection, _TABLE, _COLUMNS, name="coverage_in"),
        ):
            copy_rows(connection, "coverage_in", _COLUMNS, ([_cell(row[name]) for name in _COLUMNS] for row in rows))
            # In the order of the key: two that record at once wait for one another, and never in a circle.
            return connection.exec_driver_sql(
                f"INSERT INTO {_TABLE} ({listed}) SELECT {listed} FROM coverage_in ORDER BY {keys} "  # noqa: S608  # ours
                f"ON CONFLICT ({keys}) DO UPDATE SET {replaced}"
            ).rowcount

    def past(self) -> dict[tuple[str, str], LoggedPast]:
        """Tell of every bucket (provider, bucket) with any log record its first and last logged day and a usual day."""
        spoke = (
            select(
                CoverageRow.provider,
                CoverageRow.bucket,
                func.min(CoverageRow.day).label("first_day"),
                func.max(CoverageRow.day).label("last_day"),
            )
            .where(CoverageRow.records > 0)
            .group_by(CoverageRow.provider, CoverageRow.bucket)
            .subquery()
        )
        usual = (
            select(spoke, func.percentile_disc(0.5).within_group(CoverageRow.records).label("usual"))
            .join(CoverageRow, (CoverageRow.provider == spoke.c.provider) & (CoverageRow.bucket == spoke.c.bucket))
            .where(CoverageRow.day.between(spoke.c.first_day, spoke.c.last_day))
            .group_by(*spoke.c)
        )
        with self._engine.connect() as connection:
            return {
                (row.provider, row.bucket): LoggedPast(row.first_day, row.last_day, float(row.usual))
                for row in connection.execute(usual)
            }

    def days(self, first: date, last: date) -> dict[tuple[str, str], list[CoveredDay]]:
        """Give what was measured of every bucket (provider, bucket) from ``first`` to ``last``, by day."""
        wanted = (
            select(CoverageRow)
            .where(CoverageRow.day.between(first, last))
            .order_by(CoverageRow.provider, CoverageRow.bucket, CoverageRow.day)
        )
        found: dict[tuple[str, str], list[CoveredDay]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(wanted):
                found.setdefault((row.provider, row.bucket), []).append(
                    CoveredDay(row.day, row.coverage, row.reason, row.measured_at)
                )
        return found

    def newest_file(self, provider: str, bucket: str, prefix: str) -> datetime | None:
        """Tell when the newest published log file below a log bucket's prefix was written, or None."""
        newest = select(func.max(SourceFileRow.last_modified_at)).where(
            SourceFileRow.provider == provider,
            SourceFileRow.bucket == bucket,
            func.starts_with(SourceFileRow.key, prefix),
        )
        with self._engine.connect() as connection:
            return connection.execute(newest).scalar_one()


def _cell(value: object) -> object:
    return storable(value) if isinstance(value, str) else value
