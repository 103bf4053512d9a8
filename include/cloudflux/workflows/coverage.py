"""Measure coverage: how much of each bucket's days its access logs tell, and what that means for decisions.

Every figure follows from what is published, so measuring again gives the same figures, or better ones: a late file
changes its day, what is usual on the four weeks after it, and vouches for the silent days before it. Therefore the days
of a batch are measured, and always those of the last month with them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Protocol

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cloudflux.config import BucketSettings, Estate
from cloudflux.domain.coverage import (
    HOURS,
    LOOKBACK_DAYS,
    NEVER,
    WINDOW_DAYS,
    CoveredDay,
    DayCoverage,
    LoggedHours,
    LoggedPast,
    RecentCoverage,
    coverage_of,
    in_words,
    recent_coverage,
)

SETTLES: Final[Mapping[str, timedelta]] = {
    # Best effort, most records within a few hours: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ServerLogs.html
    "s3_server_access": timedelta(hours=6),
    # Within minutes as a rule, without a promise:
    # https://docs.aws.amazon.com/awscloudtrail/latest/userguide/get-and-view-cloudtrail-log-files.html
    "cloudtrail": timedelta(hours=1),
    # PT1H.json is appended to for its hour and some minutes more.
    "azure_resource": timedelta(hours=2),
    # Up to an hour late: https://learn.microsoft.com/azure/storage/common/storage-analytics-logging
    "azure_classic": timedelta(hours=2),
    # Made hourly, timeliness not guaranteed; audit entries come within seconds:
    # https://docs.cloud.google.com/storage/docs/access-logs
    "gcs_usage": timedelta(hours=3),
    "gcs_audit": timedelta(hours=1),
}
"""How long after a request its record may take to come, by log format."""

_REMEASURED_DAYS: Final = WINDOW_DAYS + 1
_DAYS_AT_ONCE: Final = 64
"""Days that are measured together: bounds the arrays to some 25 KB a bucket."""

_HOURS_SQL: Final = """
SELECT place, day, hour, sum(records)::BIGINT AS records
FROM log_hours JOIN buckets USING (provider, bucket) WHERE hour BETWEEN 0 AND 23 GROUP BY ALL
"""
_FILES_SQL: Final = """
SELECT source, day, (sum(records) / count(DISTINCT source_file))::DOUBLE AS lines_a_file
FROM log_hours JOIN buckets USING (provider, bucket) GROUP BY ALL
"""
_QUARANTINE_SQL: Final = """
SELECT source, day, count(*) FILTER (line > 0) AS lines, count(DISTINCT key) FILTER (line = 0) AS files
FROM quarantine JOIN sources USING (provider, bucket) WHERE starts_with(key, prefix) GROUP BY ALL
"""


class Lake(Protocol):
    """What measuring needs of the lake."""

    def dataset(self, dataset: str, *, days: Collection[date] | tuple[date, date] | None = None) -> Any:
        """Give published rows as a lazy ``pyarrow.dataset.Dataset``; a tuple of two days is an inclusive range."""


class CoverageLog(Protocol):
    """The coverage of every bucket and day."""

    def record(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Record rows by provider, bucket and day, replacing those that are there."""

    def past(self) -> Mapping[tuple[str, str], LoggedPast]:
        """Tell the past of every bucket with any log record."""

    def newest_file(self, provider: str, bucket: str, prefix: str) -> datetime | None:
        """Tell when the newest published log file below a prefix was written."""

    def days(self, first: date, last: date) -> Mapping[tuple[str, str], Sequence[CoveredDay]]:
        """Give what was measured of every bucket, by day."""


@dataclass(frozen=True, slots=True)
class _Logged:
    """The buckets that have access logs, by their places in the arrays, and the log sources."""

    buckets: tuple[BucketSettings, ...]
    sources: tuple[tuple[tuple[str, str, str], ...], ...]
    """Each one's (provider, log bucket, prefix): Azure's reads and writes are one source of two containers."""
    source_of: tuple[int, ...]

    def bucket_table(self) -> pa.Table:
        return pa.table(
            {
                "provider": [str(bucket.provider) for bucket in self.buckets],
                "bucket": [bucket.bucket for bucket in self.buckets],
                "place": pa.array(range(len(self.buckets)), pa.int64()),
                "source": pa.array(self.source_of, pa.int64()),
            }
        )

    def source_table(self) -> pa.Table:
        rows = [(number, *location) for number, source in enumerate(self.sources) for location in source]
        number, provider, bucket, prefix = zip(*rows, strict=True)
        return pa.table(
            {"source": pa.array(number, pa.int64()), "provider": provider, "bucket": bucket, "prefix": prefix}
        )


def measure(
    lake: Lake,
    coverage_log: CoverageLog,
    estate: Estate,
    *,
    days: Collection[date],
    collected_until: datetime,
    clock: Callable[[], datetime],
) -> dict[str, Any]:
    """Measure and record the coverage of some days and of the last month's, of every bucket of the estate.

    days : those that a batch touched. collected_until : the newest time at which all log sources had been listed.
    Gives counts (``days``, ``buckets``, ``without_logs``, ``bucket_days``), how many bucket days are ``low``, which is
    below their bucket's ``min_coverage``, and the ``lowest`` figure with its bucket, day and reason. Of these, days
    whose logs have still to come and those before a bucket's first record are left out.
    """
    today = collected_until.astimezone(UTC).date()
    wanted = sorted({day for day in days if day <= today} | {today - timedelta(n) for n in range(_REMEASURED_DAYS)})
    logged = _logged(estate)
    judged: list[tuple[float, date, str, str]] = []
    recorded = low = 0
    for block in _blocks(wanted):
        measured_at = clock()
        rows = _without_logs(estate, block, measured_at)
        if logged.buckets:
            # Asked anew for each block: what the block before it holds may be a bucket's first record.
            measured = _Block.of(block, logged, coverage_log.past()).measured(lake, coverage_log, collected_until)
            rows += measured.rows(measured_at)
            judged += measured.judged()
            low += measured.low()
        recorded += coverage_log.record(rows)
    figure, day, name, reason = min(judged, default=(None, None, None, ""))
    return {
        "days": len(wanted),
        "buckets": len(estate.buckets),
        "without_logs": len(estate.buckets) - len(logged.buckets),
        "bucket_days": recorded,
        "low": low,
        "lowest": figure,
        "lowest_bucket": name,
        "lowest_day": day.isoformat() if day else None,
        "lowest_reason": reason,
    }


def recent(coverage_log: CoverageLog, estate: Estate, day: date) -> dict[tuple[str, str], RecentCoverage]:
    """Tell of every bucket of the estate, by (provider, bucket), how much of the month before ``day`` its logs tell."""
    measured = coverage_log.days(day - timedelta(days=WINDOW_DAYS), day - timedelta(days=1))
    past = coverage_log.past()
    found: dict[tuple[str, str], RecentCoverage] = {}
    for bucket in estate.buckets:
        name = (str(bucket.provider), bucket.bucket)
        first = past[name].first_day if name in past and bucket.logs else None
        found[name] = recent_coverage(measured.get(name, ()), first, day, settle_time(bucket))
    return found


def settle_time(bucket: BucketSettings) -> timedelta:
    """Tell how long after a request the record of it may take to come."""
    return max((SETTLES[source.format] for source in bucket.logs), default=timedelta(0))


def _logged(estate: Estate) -> _Logged:
    buckets = tuple(bucket for bucket in estate.buckets if bucket.logs)
    of_bucket = [
        tuple(sorted({(str(bucket.provider), source.bucket, source.prefix) for source in bucket.logs}))
        for bucket in buckets
    ]
    sources = tuple(sorted(set(of_bucket)))
    places = {source: number for number, source in enumerate(sources)}
    return _Logged(buckets, sources, tuple(places[source] for source in of_bucket))


def _blocks(days: Sequence[date]) -> Iterator[Sequence[date]]:
    """Cut sorted days into runs that span at most ``_DAYS_AT_ONCE`` days."""
    begin = 0
    for number, day in enumerate(days):
        if (day - days[begin]).days >= _DAYS_AT_ONCE:
            yield days[begin:number]
            begin = number
    yield days[begin:]


def _without_logs(estate: Estate, days: Sequence[date], measured_at: datetime) -> list[dict[str, Any]]:
    return [
        {
            "provider": str(bucket.provider),
            "bucket": bucket.bucket,
            "day": day,
            "coverage": 0.0,
            "records": 0,
            "quarantined": 0,
            "hours_with_records": 0,
            "reason": "the estate names no access logs of it",
            "measured_at": measured_at,
        }
        for bucket in estate.buckets
        if not bucket.logs
        for day in days
    ]


@dataclass(frozen=True, slots=True)
class _Block:
    """Some days that are measured together, with the days before them that they are compared with."""

    days: Sequence[date]
    """Those to measure, sorted."""
    logged: _Logged
    past: Sequence[LoggedPast | None]
    """Of each bucket."""

    @classmethod
    def of(cls, days: Sequence[date], logged: _Logged, past: Mapping[tuple[str, str], LoggedPast]) -> _Block:
        return cls(days, logged, [past.get((str(bucket.provider), bucket.bucket)) for bucket in logged.buckets])

    @property
    def first(self) -> date:
        return self.days[0] - timedelta(days=LOOKBACK_DAYS)

    @property
    def last(self) -> date:
        return self.days[-1]

    def measured(self, lake: Lake, coverage_log: CoverageLog, collected_until: datetime) -> _Measured:
        records, quarantined = self._read(lake)
        settled_until = np.array(
            [_hours_between(self.first, collected_until - settle_time(bucket)) for bucket in self.logged.buckets]
        )
        first_day = self._first_day(records)
        hours = LoggedHours(
            records=records,
            first_day=first_day,
            usual_day=np.array(
                [past.usual_records if past and past.first_day < self.first else np.nan for past in self.past]
            ),
            source=np.array(self.logged.source_of),
            settled_until=settled_until,
            delivered_until=self._delivered_until(records, coverage_log),
            quarantined=quarantined,
        )
        begins = [None if place == NEVER else self.first + timedelta(days=int(place)) for place in first_day]
        return _Measured(self, coverage_of(hours), begins, quarantined, settled_until)

    def _read(self, lake: Lake) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Give the records by bucket, day and hour, and the quarantined lines by source and day."""
        span = (self.last - self.first).days + 1
        records = np.zeros((len(self.logged.buckets), span, HOURS), dtype=np.int64)
        quarantined = np.zeros((len(self.logged.sources), span))
        lines_a_file = np.ones_like(quarantined)
        with duckdb.connect(config={"threads": 2}) as connection:
            connection.register("buckets", self.logged.bucket_table())
            connection.register("sources", self.logged.source_table())
            connection.register("log_hours", lake.dataset("log_hours", days=(self.first, self.last)))
            connection.register("quarantine", lake.dataset("quarantine", days=(self.days[0], self.last)))
            found = _columns(connection, _HOURS_SQL)
            records[found["place"], self._places(found["day"]), found["hour"]] = found["records"]
            found = _columns(connection, _FILES_SQL)
            lines_a_file[found["source"], self._places(found["day"])] = found["lines_a_file"]
            found = _columns(connection, _QUARANTINE_SQL)
            at = (found["source"], self._places(found["day"]))
            # A file that could not be read at all holds as many lines as the source's other files of the day.
            quarantined[at] = found["lines"] + found["files"] * lines_a_file[at]
        return records, quarantined

    def _places(self, days: NDArray[np.datetime64]) -> NDArray[np.int64]:
        return (days.astype("datetime64[D]") - np.datetime64(self.first)).astype(np.int64)

    def _first_day(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        spoke = np.asarray(records.any(axis=2))
        first = np.where(records.any(axis=(1, 2)), spoke.argmax(axis=1), NEVER).astype(np.int64)
        known = [(past.first_day - self.first).days if past else NEVER for past in self.past]
        return np.minimum(first, np.array(known, dtype=np.int64))

    def _delivered_until(self, records: NDArray[np.int64], coverage_log: CoverageLog) -> NDArray[np.float64]:
        """Tell when the newest file of each source was written; not of one whose records reach the last day anyway."""
        speaks = np.zeros(len(self.logged.sources), dtype=np.bool_)
        np.logical_or.at(speaks, np.array(self.logged.source_of), records[:, -1].any(axis=1))
        until = np.full(len(self.logged.sources), -np.inf)
        for number in np.flatnonzero(~speaks):
            written = [coverage_log.newest_file(*location) for location in self.logged.sources[number]]
            until[number] = max((_hours_between(self.first, at) for at in written if at), default=-np.inf)
        return until


@dataclass(frozen=True, slots=True)
class _Measured:
    """What measuring a block came to."""

    block: _Block
    figures: DayCoverage
    begins: Sequence[date | None]
    """The first logged day of each bucket."""
    quarantined: NDArray[np.float64]
    settled_until: NDArray[np.float64]

    def rows(self, measured_at: datetime) -> list[dict[str, Any]]:
        """Give one row for each bucket and day, as the log records it."""
        spoke = (self.figures.records > 0).sum(axis=2)
        totals = self.figures.records.sum(axis=2)
        return [
            {
                "provider": str(bucket.provider),
                "bucket": bucket.bucket,
                "day": day,
                "coverage": float(self.figures.coverage[number, place]),
                "records": int(totals[number, place]),
                "quarantined": round(float(self.quarantined[self.block.logged.source_of[number], place])),
                "hours_with_records": int(spoke[number, place]),
                "reason": self._words(number, place),
                "measured_at": measured_at,
            }
            for number, bucket in enumerate(self.block.logged.buckets)
            for day, place in self._places()
        ]

    def judged(self) -> list[tuple[float, date, str, str]]:
        """Give figure, day, bucket and reason of the lowest complete day of each bucket."""
        found = []
        for number, bucket in enumerate(self.block.logged.buckets):
            complete = self._complete(number)
            if complete:
                figure, day, place = min((float(self.figures.coverage[number, at]), day, at) for day, at in complete)
                found.append((figure, day, f"{bucket.provider}:{bucket.bucket}", self._words(number, place)))
        return found

    def low(self) -> int:
        """Count the complete days whose figure is below what their bucket asks for."""
        return sum(
            float(self.figures.coverage[number, place]) < bucket.min_coverage
            for number, bucket in enumerate(self.block.logged.buckets)
            for _, place in self._complete(number)
        )

    def _complete(self, bucket: int) -> list[tuple[date, int]]:
        """Give the measured days whose logs should all have come, from the bucket's first record on."""
        return [
            (day, place)
            for day, place in self._places()
            if self.figures.known[bucket, place] and (place + 1) * HOURS <= self.settled_until[bucket]
        ]

    def _places(self) -> list[tuple[date, int]]:
        return [(day, (day - self.block.first).days) for day in self.block.days]

    def _words(self, bucket: int, place: int) -> str:
        return in_words(self.figures, bucket, place, first=self.begins[bucket])


def _columns(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, NDArray[Any]]:
    table = connection.sql(query).to_arrow_table()
    return {name: table[name].to_numpy() for name in table.column_names}


def _hours_between(first: date, at: datetime) -> float:
    return (at - datetime(first.year, first.month, first.day, tzinfo=UTC)) / timedelta(hours=1)
