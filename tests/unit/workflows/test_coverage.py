"""Measuring coverage from the lake, and what a gap means for decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cloudflux.config import BucketSettings, Estate, LogSource
from cloudflux.domain.coverage import CoveredDay, LoggedPast
from cloudflux.domain.tiers import Provider
from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import LOG_HOURS, QUARANTINE
from cloudflux.workflows.coverage import SETTLES, measure, recent

TODAY = date(2026, 11, 20)
NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
FIRST = TODAY - timedelta(days=70)
YESTERDAY = TODAY - timedelta(days=1)


class MemoryCoverage:
    """The coverage log, in memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, date], Mapping[str, Any]] = {}
        self.newest: dict[tuple[str, str, str], datetime] = {}

    def record(self, rows: Iterable[Mapping[str, Any]]) -> int:
        given = list(rows)
        self.rows |= {(row["provider"], row["bucket"], row["day"]): row for row in given}
        return len(given)

    def past(self) -> dict[tuple[str, str], LoggedPast]:
        found = {}
        for name in {key[:2] for key in self.rows}:
            counts = {key[2]: row["records"] for key, row in self.rows.items() if key[:2] == name}
            spoke = [day for day, count in counts.items() if count]
            if spoke:
                lived = [count for day, count in counts.items() if min(spoke) <= day <= max(spoke)]
                found[name] = LoggedPast(min(spoke), max(spoke), median_low(lived))
        return found

    def newest_file(self, provider: str, bucket: str, prefix: str) -> datetime | None:
        return self.newest.get((provider, bucket, prefix))

    def days(self, first: date, last: date) -> dict[tuple[str, str], list[CoveredDay]]:
        found: dict[tuple[str, str], list[CoveredDay]] = {}
        for (provider, bucket, day), row in sorted(self.rows.items()):
            if first <= day <= last:
                found.setdefault((provider, bucket), []).append(
                    CoveredDay(day, row["coverage"], row["reason"], row["measured_at"])
                )
        return found

    def of(self, day: date, bucket: str = "media") -> Mapping[str, Any]:
        return next(row for (_, name, at), row in self.rows.items() if (name, at) == (bucket, day))


def a_bucket(name: str = "media", **overrides: Any) -> BucketSettings:
    return BucketSettings(
        **{
            "provider": Provider.AWS,
            "bucket": name,
            "logs": LogSource(bucket="logs", prefix=f"{name}/", format="s3_server_access"),
            "price_book": "aws-us-east-1",
            "connection_id": "aws_default",
        }
        | overrides
    )


def hours(
    counts: Sequence[Sequence[int]], first: date = FIRST, bucket: str = "media", source_file: str = "f1"
) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "provider": "aws",
                "bucket": bucket,
                "day": first + timedelta(days=number),
                "hour": hour,
                "records": count,
                "source_file": source_file,
            }
            for number, day in enumerate(counts)
            for hour, count in enumerate(day)
            if count
        ],
        LOG_HOURS,
    )


def publish(lake: Lake, dataset: str, table: pa.Table, part: str) -> None:
    lake.stage_rows(dataset, table, part, part)
    lake.publish_files(dataset, part)


def steady(an_hour: int = 120, days: int = 70) -> list[list[int]]:
    return [[an_hour] * 24 for _ in range(days)] + [[an_hour] * 3]  # today so far


def measured(
    lake: Lake, log: MemoryCoverage, *buckets: BucketSettings, days: Sequence[date] = (), until: datetime = NOW
) -> dict[str, Any]:
    estate = Estate(buckets=buckets or (a_bucket(),))
    return measure(lake, log, estate, days=days, collected_until=until, clock=lambda: until)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path), 2)


def test_the_last_month_is_covered_when_logs_came_as_usual(lake: Lake) -> None:
    publish(lake, "log_hours", hours(steady()), "a")
    log = MemoryCoverage()
    result = measured(lake, log, days=[FIRST])
    assert result["days"] == 32
    assert result["bucket_days"] == 32
    assert (result["low"], result["lowest"]) == (0, 1.0)
    assert log.of(YESTERDAY) | {"measured_at": None} == {
        "provider": "aws",
        "bucket": "media",
        "day": YESTERDAY,
        "coverage": 1.0,
        "records": 24 * 120,
        "quarantined": 0,
        "hours_with_records": 24,
        "reason": "",
        "measured_at": None,
    }
    today = log.of(TODAY)
    assert today["coverage"] == pytest.approx(2 / 24)
    assert today["reason"] == "what was requested from 02:00 UTC on is still to be delivered"
    again = dict(log.rows)
    assert measured(lake, log, days=[FIRST]) == result
    assert log.rows == again


def test_decisions_are_withheld_by_a_gap_and_released_when_late_files_fill_it(lake: Lake) -> None:
    counts = steady()
    for lost in counts[50:60]:
        lost[4:] = [0] * 20
    publish(lake, "log_hours", hours(counts), "a")
    log = MemoryCoverage()
    result = measured(lake, log)
    lost_day = FIRST + timedelta(days=50)
    assert result["low"] == 10
    assert (result["lowest_bucket"], result["lowest_day"]) == ("aws:media", lost_day.isoformat())
    assert result["lowest"] == pytest.approx(4 / 24)
    assert result["lowest_reason"] == "no records from 04:00 to 24:00 UTC, where 120 an hour are usual"

    estate = Estate(buckets=(a_bucket(),))
    told = recent(log, estate, TODAY)["aws", "media"]
    assert told.coverage == pytest.approx((20 + 10 * 4 / 24) / 30)
    assert "2026-10-31 (17 %: no records from 04:00 to 24:00 UTC" in (told.withheld(0.8) or "")

    filled = [[0] * 4 + [120] * 20 for _ in range(10)]
    publish(lake, "log_hours", hours(filled, lost_day, source_file="late"), "b")
    assert measured(lake, log, days=[lost_day])["low"] == 0
    assert recent(log, estate, TODAY)["aws", "media"].withheld(0.8) is None


def test_a_bucket_is_covered_from_its_second_day_on_when_logs_come_in_three_hours(lake: Lake) -> None:
    counts = [[40 if hour in (6, 12, 18) else 0 for hour in range(24)] for _ in range(14)]
    publish(lake, "log_hours", hours(counts, TODAY - timedelta(days=14)), "a")
    log = MemoryCoverage()
    log.newest["aws", "logs", "media/"] = NOW
    measured(lake, log)
    told = recent(log, Estate(buckets=(a_bucket(),)), TODAY)["aws", "media"]
    assert told.days == 14
    assert told.coverage == pytest.approx((13 + 3 / 24) / 14)
    assert log.of(TODAY - timedelta(days=20))["reason"] == "its logs begin on 2026-11-06"


def test_a_silent_bucket_is_covered_when_another_one_shows_that_the_source_is_alive(lake: Lake) -> None:
    source = LogSource(bucket="logs", prefix="all/", format="s3_server_access")
    buckets = [a_bucket(name, logs=source) for name in ("busy", "quiet")] + [a_bucket("alone")]
    quiet = [[0] * 24 for _ in range(60)]
    quiet[3][7] = quiet[33][9] = 1
    publish(lake, "log_hours", hours(steady(), bucket="busy"), "a")
    publish(lake, "log_hours", hours(quiet, bucket="quiet"), "b")
    publish(lake, "log_hours", hours(quiet, bucket="alone"), "c")
    log = MemoryCoverage()
    measured(lake, log, *buckets)
    assert log.of(YESTERDAY, "quiet")["coverage"] == 1.0
    assert log.of(YESTERDAY, "alone")["coverage"] == 0.0
    assert "nothing was delivered" in log.of(YESTERDAY, "alone")["reason"]
    log.newest["aws", "logs", "alone/"] = NOW
    measured(lake, log, *buckets)
    assert log.of(YESTERDAY, "alone")["coverage"] == 1.0


def test_nothing_is_covered_when_a_bucket_has_no_logs_or_no_record(lake: Lake) -> None:
    log = MemoryCoverage()
    buckets = (a_bucket("none", logs=()), a_bucket("empty"))
    result = measured(lake, log, *buckets)
    assert (result["without_logs"], result["lowest"]) == (1, None)
    assert log.of(YESTERDAY, "none")["reason"] == "the estate names no access logs of it"
    assert log.of(YESTERDAY, "empty")["reason"] == "no log record of it has been collected yet"
    for name in ("none", "empty"):
        told = recent(log, Estate(buckets=buckets), TODAY)["aws", name]
        assert "no access log record of the bucket has been collected yet" in (told.withheld(0.8) or "")
        assert told.withheld(0.0) is None


def test_quarantined_lines_lower_the_figure_of_the_buckets_of_their_source(lake: Lake) -> None:
    publish(lake, "log_hours", hours(steady()), "a")
    publish(lake, "log_hours", hours(steady(), bucket="other"), "b")

    def bad(line: int, key: str) -> dict[str, Any]:
        return {
            "source_file": "f",
            "provider": "aws",
            "bucket": "logs",
            "key": key,
            "line": line,
            "reason": "torn",
            "raw": "x",
            "day": YESTERDAY,
        }

    lines = [bad(line, "media/torn") for line in range(1, 24 * 40 + 1)] + [bad(0, "other/noise")]
    publish(lake, "quarantine", pa.Table.from_pylist(lines, QUARANTINE), "q")
    log = MemoryCoverage()
    measured(lake, log, a_bucket(), a_bucket("other"))
    assert log.of(YESTERDAY)["coverage"] == pytest.approx(0.75)
    assert log.of(YESTERDAY)["quarantined"] == 24 * 40
    assert log.of(YESTERDAY)["reason"] == "25 % of the lines are quarantined"
    # The whole file counts as as many lines as the day's other one.
    assert log.of(YESTERDAY, "other")["coverage"] == pytest.approx(0.5)


def test_a_long_history_is_measured_in_blocks_and_a_long_silence_by_its_past(lake: Lake) -> None:
    counts = steady(10, days=200)
    counts[120:] = [[0] * 24 for _ in counts[120:]]
    first = TODAY - timedelta(days=200)
    publish(lake, "log_hours", hours(counts, first), "a")
    once = [[0] * 24 for _ in range(200)]
    once[5][3] = once[40][3] = 1
    publish(lake, "log_hours", hours(once, first, "archive"), "b")
    log = MemoryCoverage()
    buckets = (a_bucket(), a_bucket("archive"))
    for prefix in ("media/", "archive/"):
        log.newest["aws", "logs", prefix] = NOW
    result = measured(lake, log, *buckets, days=[first + timedelta(days=n) for n in range(200)])
    assert result["days"] == 201
    assert log.of(first + timedelta(days=119))["coverage"] == 1.0
    assert log.of(YESTERDAY)["coverage"] < 0.001, "a silence of three months after steady use is not believed"
    assert log.of(YESTERDAY, "archive")["coverage"] == 1.0


def test_every_log_format_has_a_time_to_settle() -> None:
    formats = LogSource.model_fields["format"].annotation.__args__  # type: ignore[union-attr]  # a Literal, always annotated
    assert set(SETTLES) == set(formats)


def test_buckets_with_two_requests_an_hour_are_covered_when_nothing_was_lost(lake: Lake) -> None:
    rng = np.random.default_rng(1)
    names = [f"bucket-{number:03d}" for number in range(50)]
    for name in names:
        publish(lake, "log_hours", hours(rng.poisson(2.0, (70, 24)).tolist(), bucket=name), name)
    log = MemoryCoverage()
    result = measured(lake, log, *(a_bucket(name) for name in names))
    assert result["bucket_days"] == 50 * 31
    figures = [told.coverage for told in recent(log, Estate(buckets=tuple(map(a_bucket, names))), TODAY).values()]
    assert min(figures) > 0.9
