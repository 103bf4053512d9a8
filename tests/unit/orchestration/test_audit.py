"""The audit at the tasks' edge: what it compares a batch with, and that its result is kept whatever it is."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from foreign_warnings import GREAT_EXPECTATIONS
from unit.quality.audited_rows import a_daily_access, an_event, an_object

from cloudflux.domain.errors import AuditFailed
from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import SCHEMAS
from cloudflux.orchestration import edge

pytestmark = GREAT_EXPECTATIONS

NOW = datetime(2026, 3, 12, 12, tzinfo=UTC)
TODAY = NOW.date()


class Engine:
    """A database that is not there."""

    def dispose(self) -> None:
        pass


class Edge:
    """The edge with a lake in a folder and results in memory."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import cloudflux.stores.validations

        self.lake = Lake(str(folder), shards=2)
        self.recorded: list[tuple[str, str, bool, int, Any]] = []
        edge_of = self

        class Validations:
            def __init__(self, engine: Engine) -> None:
                self.engine = engine

            def record(self, suite: str, batch: str, passed: bool, checks: Any, at: datetime, **more: Any) -> int:
                edge_of.recorded.append((suite, batch, passed, more["rows"], more["result"]))
                return 1

        monkeypatch.setattr(edge, "lake", lambda: self.lake)
        monkeypatch.setattr(edge, "engine", Engine)
        monkeypatch.setattr(edge, "now", lambda: NOW)
        monkeypatch.setattr(cloudflux.stores.validations, "Validations", Validations)

    def publish(self, dataset: str, rows: list[dict[str, Any]]) -> None:
        self.lake.stage_shards(dataset, pa.Table.from_pylist(rows, schema=SCHEMAS[dataset]), "before")
        self.lake.publish(dataset, "before")


@pytest.fixture
def at_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edge:
    return Edge(tmp_path, monkeypatch)


def rows_of(dataset: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMAS[dataset])


def on(day: date, number: int, **overrides: Any) -> dict[str, Any]:
    return an_event(number, at=datetime(day.year, day.month, day.day, 9, tzinfo=UTC), day=day, **overrides)


def test_result_is_kept_before_the_error_when_an_audit_fails(at_edge: Edge) -> None:
    report = edge.audit("access_events", rows_of("access_events", [on(TODAY, 1, kind="peek")]), "run-1")
    ((suite, batch, passed, rows, result),) = at_edge.recorded
    assert (suite, batch, passed, rows) == ("access_events", "run-1", False, 1)
    assert result["success"] is False
    with pytest.raises(AuditFailed, match="peek"):
        report.raise_if_failed()


def test_events_are_compared_with_the_newest_inventory_when_there_is_one(
    at_edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    events = rows_of("access_events", [on(TODAY, 1), on(TODAY, 2)])
    assert edge.audit("access_events", events, "run-1").warnings == ()
    at_edge.publish("inventory", [an_object(number, day=TODAY - timedelta(days=2)) for number in (1, 2)])
    assert edge.audit("access_events", events, "run-2").warnings == ()
    at_edge.publish("inventory", [an_object(1, day=TODAY - timedelta(days=1))])
    with caplog.at_level(logging.WARNING):
        report = edge.audit("access_events", events, "run-3")
    assert report.passed
    assert "run-3" in caplog.text
    assert "aws:b/k2" in caplog.text


@pytest.mark.parametrize(("dataset", "row"), [("daily_access", a_daily_access), ("inventory", an_object)])
def test_a_day_is_compared_with_what_is_published_of_its_weekday(at_edge: Edge, dataset: str, row: Any) -> None:
    yesterday = TODAY - timedelta(days=1)
    batch = rows_of(dataset, [row(1, day=yesterday)])
    assert edge.audit(dataset, batch, "run-1").warnings == ()
    for week in (1, 2, 3):
        at_edge.publish(dataset, [row(number, day=yesterday - timedelta(weeks=week)) for number in range(9)])
    (warning,) = edge.audit(dataset, batch, "run-2").warnings
    assert "'rows': 1, 'usual': 9" in warning.examples[0]


def test_other_datasets_need_no_lake_when_they_are_audited(at_edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "lake", None)
    report = edge.audit("decisions", SCHEMAS["decisions"].empty_table(), "run-1")
    assert (report.passed, len(at_edge.recorded)) == (True, 1)
