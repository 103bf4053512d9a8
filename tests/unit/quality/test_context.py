"""What is expected in the light of the time, of other days and of the objects there are."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from foreign_warnings import GREAT_EXPECTATIONS
from unit.quality.audited_rows import AT, DAY, a_daily_access, an_event, an_object, table_of

from cloudflux.domain.errors import AuditFailed
from cloudflux.quality import AuditContext, AuditReport, Severity, audit

pytestmark = GREAT_EXPECTATIONS

ROWS = {"access_events": an_event, "daily_access": a_daily_access, "inventory": an_object}


def report_on(dataset: str, rows: list[dict[str, Any]], **context: Any) -> AuditReport:
    known = {"now": AT + timedelta(hours=2)} | context
    return audit(dataset, table_of(dataset, rows), "batch-1", AuditContext(**known))


@pytest.mark.parametrize("dataset", ["access_events", "daily_access"])
@pytest.mark.parametrize(("age", "fresh"), [(timedelta(0), True), (timedelta(days=30), False)])
def test_old_news_is_a_warning_when_nothing_newer_is_there(dataset: str, age: timedelta, fresh: bool) -> None:
    report = report_on(dataset, [ROWS[dataset](number) for number in range(3)], now=AT + age)
    assert report.passed
    assert [check.severity for check in report.warnings] == ([] if fresh else [Severity.WARNING])
    assert all("The newest" in check.description and "2026" in check.examples[0] for check in report.warnings)
    report.raise_if_failed()


def test_old_report_is_a_warning_that_names_the_bucket_though_the_snapshot_is_of_today() -> None:
    now = AT + timedelta(minutes=5)
    taken_at = {
        ("aws", "fresh"): now - timedelta(days=7.9),
        ("aws", "stale"): now - timedelta(days=8.1),
        ("azure", "stale"): now - timedelta(days=30),
    }
    report = report_on("inventory", [an_object()], now=now, taken_at=taken_at)
    assert report.passed
    (warning,) = report.warnings
    assert "report or listing is at most 8 days old" in warning.description
    assert warning.examples == (
        "{'bucket': 'aws:stale', 'taken_at': '2026-02-21 21:11 UTC'}",
        "{'bucket': 'azure:stale', 'taken_at': '2026-01-30 23:35 UTC'}",
    )
    assert report_on("inventory", [], now=now, taken_at=taken_at).warnings == ()


def test_a_batch_is_fresh_when_one_of_its_rows_is_new() -> None:
    old = {"at": AT - timedelta(days=90), "day": DAY - timedelta(days=90)}
    assert report_on("access_events", [an_event(1, **old), an_event(2)]).warnings == ()


@pytest.mark.parametrize(
    ("dataset", "future"),
    [
        ("access_events", {"at": AT + timedelta(days=9), "day": DAY + timedelta(days=9)}),
        ("daily_access", {"day": DAY + timedelta(days=9)}),
        ("inventory", {"day": DAY + timedelta(days=9)}),
    ],
)
def test_batch_is_refused_when_it_is_from_the_future(dataset: str, future: dict[str, Any]) -> None:
    report = report_on(dataset, [ROWS[dataset](1), ROWS[dataset](2, **future)])
    with pytest.raises(AuditFailed, match=r"future .*1 of 2 rows.*2026, 3, 10"):
        report.raise_if_failed()


def test_clocks_may_differ_a_little_when_an_event_is_from_the_future() -> None:
    assert report_on("access_events", [an_event()], now=AT - timedelta(minutes=30)).passed


def published(counts: dict[date, int], dataset: str = "daily_access", **overrides: Any) -> Any:
    def rows(days: Collection[date]) -> pa.Table:
        made = [
            ROWS[dataset](number, day=day, **overrides)
            for day, count in counts.items()
            if day in days
            for number in range(count)
        ]
        return table_of(dataset, made)

    return rows


def weeks_before(*counts: int | None) -> dict[date, int]:
    return {DAY - timedelta(weeks=week): n for week, n in enumerate(counts, start=1) if n is not None}


@pytest.mark.parametrize("dataset", ["daily_access", "inventory"])
@pytest.mark.parametrize(
    ("rows", "before", "strange"),
    [
        (2, (10, 9, 10, 1000), True),
        (3, (10, 9, 10, 1000), False),
        (40, (10, 9, 10, 1000), False),
        (41, (10, 9, 10, 1000), True),
        (1, (10, 10, None, None), True),
        (1, (10, None, None, None), False),
        (1, (None, None, None, None), False),
    ],
)
def test_volume_is_a_warning_when_it_is_far_from_the_same_weekday(
    dataset: str, rows: int, before: tuple[int | None, ...], strange: bool
) -> None:
    report = report_on(
        dataset,
        [ROWS[dataset](number) for number in range(rows)],
        now=AT + timedelta(days=1),
        # other weekdays must not count
        published_rows=published(weeks_before(*before) | {DAY - timedelta(days=n): 10**6 for n in (1, 2, 3)}, dataset),
    )
    assert report.passed
    assert [check.description for check in report.warnings if "same weekday" not in check.description] == []
    assert len(report.warnings) == strange
    if strange:
        assert f"'rows': {rows}, 'usual': 10" in report.warnings[0].examples[0]


def test_a_day_may_have_few_rows_when_it_is_not_over() -> None:
    early = datetime(2026, 3, 1, 6, tzinfo=UTC)
    assert report_on("daily_access", [a_daily_access()], now=early, published_rows=published(weeks_before(9, 9))).passed
    report = report_on("daily_access", [a_daily_access()], now=early, published_rows=published(weeks_before(9, 9)))
    assert report.warnings == ()


def of_two_buckets(dataset: str, days: Collection[date], *, small: int, large: int = 100) -> list[dict[str, Any]]:
    return [
        ROWS[dataset](number, day=day, bucket=bucket)
        for day in days
        for bucket, count in (("large", large), ("small", small))
        for number in range(count)
    ]


@pytest.mark.parametrize("dataset", ["daily_access", "inventory"])
@pytest.mark.parametrize(("rows", "strange"), [(0, True), (2, True), (3, False), (40, False), (41, True)])
def test_bucket_is_named_when_its_own_volume_is_strange(dataset: str, rows: int, strange: bool) -> None:
    report = report_on(
        dataset,
        of_two_buckets(dataset, [DAY], small=rows),
        now=AT + timedelta(days=1),
        published_rows=lambda days: table_of(dataset, of_two_buckets(dataset, days, small=10)),
    )
    assert report.passed
    assert [f"'bucket': 'aws:small', 'rows': {rows}, 'usual': 10" in one.examples[0] for one in report.warnings] == (
        [True] if strange else []
    )


def test_bucket_is_no_surprise_when_it_is_new() -> None:
    report = report_on(
        "inventory",
        of_two_buckets("inventory", [DAY], small=90),
        now=AT + timedelta(days=1),
        published_rows=lambda days: table_of("inventory", of_two_buckets("inventory", days, small=0)),
    )
    assert report.warnings == ()


def test_snapshot_with_few_rows_is_strange_though_its_day_is_not_over() -> None:
    report = report_on(
        "inventory",
        [an_object()],
        now=datetime(2026, 3, 1, 6, tzinfo=UTC),
        published_rows=published(weeks_before(9, 9), "inventory"),
    )
    assert [check.examples[0] for check in report.warnings] == [
        "{'day': datetime.date(2026, 3, 1), 'bucket': 'aws:b', 'rows': 1, 'usual': 9}"
    ]


def test_only_the_days_that_are_compared_are_asked_for_when_volume_is_checked() -> None:
    asked: list[Collection[date]] = []

    def rows(days: Collection[date]) -> pa.Table:
        asked.append(days)
        return table_of("daily_access", [])

    report_on("daily_access", [a_daily_access()], published_rows=rows)
    assert asked == [[DAY - timedelta(weeks=week) for week in (4, 3, 2, 1)]]


def reads(*numbers: int, **overrides: Any) -> list[dict[str, Any]]:
    return [an_event(number, **overrides) for number in numbers]


KNOWN = table_of("inventory", [an_object(number) for number in range(9)])


@pytest.mark.parametrize(
    ("events", "strange"),
    [
        (reads(*range(9), 100), False),
        (reads(*range(9), 100, 101), True),
        (reads(*range(9), *[100] * 20), False),  # objects count, not requests
        (reads(*range(9), 100, 101) + reads(101, kind="write"), False),
        (reads(*range(9), 100, 101) + reads(101, kind="delete"), False),
        (reads(*range(9), 100, 101) + reads(101, kind="tier"), True),
        (reads(*range(9)) + reads(100, 101, excluded=True), False),
        (reads(*range(9), 100) + reads(101, bucket="c"), True),
    ],
)
def test_unknown_objects_are_a_warning_when_they_are_many(events: list[dict[str, Any]], strange: bool) -> None:
    report = report_on("access_events", events, known_objects=KNOWN)
    assert report.passed
    assert len(report.warnings) == strange
    if strange:
        assert "unknown to the newest inventory" in report.warnings[0].description
        assert "aws:b/k100" in report.warnings[0].examples[0]


def test_unknown_objects_are_no_surprise_when_published_events_wrote_them() -> None:
    events = reads(*range(9), 100, 101)
    asked: list[Collection[date]] = []

    def written(days: Collection[date]) -> pa.Table:
        asked.append(days)
        return table_of("access_events", reads(101, kind="write") + reads(7))

    assert report_on("access_events", events, known_objects=KNOWN, published_events=written).warnings == ()
    assert asked == [[DAY]]


def test_nothing_is_unknown_when_there_is_no_inventory_yet() -> None:
    report = report_on("access_events", reads(1), known_objects=KNOWN.slice(0, 0))
    assert report.warnings == ()
    assert not [check for check in report.checks if "inventory" in check.description]


def test_everything_is_compared_in_files_when_it_lies_in_files(tmp_path: Path) -> None:
    pq.write_table(KNOWN, tmp_path / "known.parquet")
    folder = tmp_path / "o'dd day=2020-01-01"
    folder.mkdir()
    events = table_of("access_events", reads(*range(9), 100, 101))
    for number in range(2):
        pq.write_table(events.slice(number * 5, 5 + number), folder / f"{number}.parquet")
    batch = pads.dataset(sorted(folder.iterdir()), schema=events.schema)
    known = pads.dataset(tmp_path / "known.parquet")
    now = AT + timedelta(hours=1)
    report = audit(
        "access_events", batch, "b", AuditContext(now=now, known_objects=known, published_events=lambda _: batch)
    )
    assert (report.passed, report.rows, len(report.warnings)) == (True, 11, 1)
    fewer = batch.filter(pads.field("key") != "k101")
    assert audit("access_events", fewer, "b", AuditContext(now=now, known_objects=known)).rows == 10


@pytest.mark.parametrize("dataset", sorted(ROWS))
def test_nothing_is_expected_of_no_rows(dataset: str) -> None:
    report = report_on(dataset, [], known_objects=KNOWN, published_rows=published(weeks_before(9, 9), "inventory"))
    assert [check for check in report.checks if not check.passed] == []
    assert (report.passed, report.rows) == (True, 0)
