"""Drift as it was measured at each scoring: of features, and of realised against forecast accesses."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime

from sqlalchemy import Engine, delete, insert, select

from cloudflux.domain.drift import DriftKind, DriftMeasure
from cloudflux.stores.tables import DriftRow


class DriftLog:
    """The drift of every scored day."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, day: date, model_version: str | None, measures: Iterable[DriftMeasure], at: datetime) -> int:
        """Record a day's figures in place of those that were there; returns how many. ``None``: the rules spoke."""
        rows = [
            {
                "day": day,
                "kind": str(measure.kind),
                "subject": measure.subject,
                "value": measure.value,
                "objects": measure.objects,
                "forecast_day": measure.forecast_day,
                "model_version": model_version,
                "measured_at": at,
            }
            for measure in measures
        ]
        with self._engine.begin() as connection:
            connection.execute(delete(DriftRow).where(DriftRow.day == day))
            if rows:
                connection.execute(insert(DriftRow), rows)
        return len(rows)

    def days(self, first: date, last: date) -> dict[date, list[DriftMeasure]]:
        """Give what was measured from ``first`` to ``last``, by day, in the order of kind and subject."""
        wanted = (
            select(DriftRow)
            .where(DriftRow.day.between(first, last))
            .order_by(DriftRow.day, DriftRow.kind, DriftRow.subject)
        )
        found: dict[date, list[DriftMeasure]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(wanted):
                found.setdefault(row.day, []).append(
                    DriftMeasure(DriftKind(row.kind), row.subject, row.value, row.objects, row.forecast_day)
                )
        return found
