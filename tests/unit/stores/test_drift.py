"""The store of measured drift, on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Engine

from cloudflux.domain.drift import DriftKind, DriftMeasure
from cloudflux.stores.drift import DriftLog

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY = date(2026, 11, 1)


def test_a_days_figures_are_replaced_when_it_is_measured_again(engine: Engine) -> None:
    log = DriftLog(engine)
    age = DriftMeasure(DriftKind.FEATURE, "age_days", 0.3, 500)
    ratio = DriftMeasure(DriftKind.REALISED_READS, "7", 1.2, 400, DAY - timedelta(days=7))
    assert log.record(DAY, "4", [age, ratio], AT) == 2
    assert log.record(DAY - timedelta(days=1), None, [ratio], AT) == 1
    assert log.days(DAY, DAY) == {DAY: [age, ratio]}
    again = DriftMeasure(DriftKind.FEATURE, "age_days", 0.1, 500)
    log.record(DAY, "5", [again], AT + timedelta(hours=1))
    assert log.days(DAY - timedelta(days=5), DAY) == {DAY - timedelta(days=1): [ratio], DAY: [again]}
    assert log.record(DAY, "5", [], AT) == 0
    assert log.days(DAY, DAY) == {}
