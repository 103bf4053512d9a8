"""What is expected of a batch in the light of what else is known: the time, earlier days, the objects there are.

These need more than the batch. Most are warnings: logs are best effort and may come days late (Amazon S3 User Guide,
"Logging requests with server access logging"), a shop sells more before Christmas, and an inventory is a day or a week
old. What says that it is from the future is not late but wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from statistics import median
from types import MappingProxyType
from typing import Final, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from cloudflux.quality.suites import Expectation, Severity, no_row_where, no_rows
from cloudflux.quality.tables import BATCH, source_of

OLDEST_NEWS: Final[Mapping[str, timedelta]] = MappingProxyType(
    {
        # Most access logs come within hours, and are collected every hour; the rest of the time is for a weekend's
        # quiet bucket.
        "access_events": timedelta(days=2),
        "daily_access": timedelta(days=3),  # the same, and a day is dated by its beginning
        "inventory": timedelta(days=8),  # the providers report daily or weekly
    }
)
"""How old the newest row of a batch may be, by dataset; of an inventory each bucket's report or listing, since its rows
are dated by the run that read them."""
CLOCK_SKEW: Final = timedelta(hours=1)
"""How far a provider's clock may be ahead of ours."""
LEAST_OF_USUAL: Final = 0.25
MOST_OF_USUAL: Final = 4.0
"""A day's rows relative to the usual, of each bucket and of all together: less, or more, is strange. A day of the week
differs from the same day of other weeks by much less than this, and what is looked for is a bucket that stopped logging
or vanished from the inventory, and rows that came twice."""
_ALL_BUCKETS: Final = "all buckets"
WEEKS_BACK: Final = 4
_LEAST_WEEKS: Final = 2
"""One week is no pattern."""
_NEWEST_DAYS: Final = 14
"""Days of a batch whose volume is looked at: a file that comes later than that adds little to a day long published."""
UNKNOWN_SHARE: Final = 0.1
"""Share of the objects read that the newest inventory need not know: what was written since it was taken, and read
by a batch that does not hold the write. More means that a bucket is missing from the inventories."""
_EXAMPLES: Final = 3
_MARK: Final = "hash(provider, bucket, key)"
"""Stands for an object: its name would take more memory."""

Rows: TypeAlias = pads.Dataset | pa.Table


@dataclass(frozen=True, slots=True)
class AuditContext:
    """What an audit may know beside the batch. Whatever is left out, the expectations that need it are left out too."""

    now: datetime
    """Aware; the clock is read by the caller."""
    published_rows: Callable[[Collection[date]], Rows] | None = None
    """Gives the published rows of the batch's dataset on some days: ``day``, ``provider`` and ``bucket`` are read."""
    taken_at: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    """When what an inventory was read from was made, by (provider, bucket): the report or the live listing."""
    known_objects: Rows | None = None
    """The newest inventory snapshot: ``provider``, ``bucket`` and ``key`` are read."""
    published_events: Callable[[Collection[date]], Rows] | None = None
    """Gives the published access events of the batch's days: what they write or delete need not be in the snapshot."""
    log_files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Bucket and key of log files by the ``source_file`` of their events, for the quarantine."""


def expectations_in(suite: str, context: AuditContext, connection: duckdb.DuckDBPyConnection) -> list[Expectation]:
    """Give what is expected of the batch in this connection; the tables that it is compared with are made there."""
    found: list[Expectation] = []
    if suite in OLDEST_NEWS:
        found += _freshness(suite, context, connection)
    if suite in ("daily_access", "inventory") and context.published_rows is not None:
        found += _volume(suite, context.published_rows, context.now, connection)
    if suite == "access_events" and context.known_objects is not None:
        found += _references(context.known_objects, context.published_events, connection)
    return found


def _freshness(suite: str, context: AuditContext, connection: duckdb.DuckDBPyConnection) -> Iterator[Expectation]:
    now = context.now
    oldest, latest = now - OLDEST_NEWS[suite], now + CLOCK_SKEW
    days = OLDEST_NEWS[suite].days
    if suite == "access_events":
        newest, bound, last = 'max("at")', _instant(oldest), _instant(latest)
        yield no_row_where(f"no event is from the future ({_told(now)} now)", f'"at" > {last}')
        what = "event"
    else:
        newest, bound, last = "max(day)", _day(oldest), _day(latest)
        yield no_row_where(f"no day is in the future ({_told(now)} now)", f"day > {last}", "provider, bucket, key, day")
        what = "day"
    if suite == "inventory":
        if context.taken_at:
            yield _report_ages(context.taken_at, now, connection)
        return
    yield no_rows(
        f"Warning only. The newest {what} is at most {days} days old ({_told(now)} now)",
        f"SELECT {newest} AS newest FROM {{batch}} HAVING {newest} < {bound}",  # noqa: S608  # ours
        Severity.WARNING,
    )


def _report_ages(
    taken_at: Mapping[tuple[str, str], datetime], now: datetime, connection: duckdb.DuckDBPyConnection
) -> Expectation:
    connection.execute("CREATE TABLE inventories (bucket VARCHAR, taken_at TIMESTAMPTZ)")
    connection.executemany(
        "INSERT INTO inventories VALUES (?, ?)", [(":".join(bucket), at) for bucket, at in sorted(taken_at.items())]
    )
    days = OLDEST_NEWS["inventory"].days
    return no_rows(
        f"Warning only. Each bucket's report or listing is at most {days} days old ({_told(now)} now)",
        "SELECT bucket, strftime(taken_at AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M UTC') AS taken_at FROM inventories "  # noqa: S608  # our own
        f"WHERE inventories.taken_at < {_instant(now - OLDEST_NEWS['inventory'])} "
        "AND EXISTS (SELECT 1 FROM {batch}) ORDER BY bucket",
        Severity.WARNING,
    )


def _volume(
    suite: str,
    published_rows: Callable[[Collection[date]], Rows],
    now: datetime,
    connection: duckdb.DuckDBPyConnection,
) -> Iterator[Expectation]:
    days = [day for day in days_of_batch(connection) if day <= now.date()][-_NEWEST_DAYS:]
    weeks = [timedelta(weeks=number) for number in range(1, WEEKS_BACK + 1)]
    known: dict[date, dict[str, int]] = {}
    compared = sorted({day - week for day in days for week in weeks})
    if compared:
        with source_of(connection, published_rows(compared), "published") as published:
            for day, name, rows in connection.execute(_ROWS_OF_BUCKETS.format(rows=published)).fetchall():
                known.setdefault(day, {})[name] = rows
    usual: list[tuple[date, str, int, float]] = []
    for day in days:
        weeks_known = [known[day - week] for week in weeks if day - week in known]
        if len(weeks_known) < _LEAST_WEEKS:
            continue
        # a day of use that is not over has few rows, which says nothing yet; a snapshot is whole at any hour
        is_over = day < now.date() or suite == "inventory"
        for name in sorted(set().union(*weeks_known)):
            rows_usual = median(counts.get(name, 0) for counts in weeks_known)
            if rows_usual:  # else the bucket is new
                usual.append((day, name, round(rows_usual), rows_usual * LEAST_OF_USUAL if is_over else 0.0))
    connection.execute("CREATE TABLE usual_rows (day DATE, bucket VARCHAR, usual BIGINT, least DOUBLE)")
    if not usual:
        return
    connection.executemany("INSERT INTO usual_rows VALUES (?, ?, ?, ?)", usual)
    yield no_rows(
        "Warning only. A day has between a quarter and four times the usual rows, of each bucket and of all buckets: "
        "the median of the same weekday in the four weeks before",
        "SELECT day, usual_rows.bucket, coalesce(found.rows, 0) AS rows, usual FROM usual_rows "  # noqa: S608  # our own
        f"LEFT JOIN ({_ROWS_OF_BUCKETS.replace('{rows}', '{batch}')}) AS found USING (day, bucket) "
        f"WHERE coalesce(found.rows, 0) < least OR found.rows > {MOST_OF_USUAL} * usual "
        f"ORDER BY usual_rows.bucket = '{_ALL_BUCKETS}', day, usual_rows.bucket",
        Severity.WARNING,
    )


_ROWS_OF_BUCKETS: Final = (
    f"SELECT day, CASE WHEN grouping(bucket) = 1 THEN '{_ALL_BUCKETS}' ELSE provider || ':' || bucket END AS bucket, "  # noqa: S608  # our own
    "count(*) AS rows FROM {rows} GROUP BY GROUPING SETS ((day, provider, bucket), (day))"
)


def _references(
    known_objects: Rows,
    published_events: Callable[[Collection[date]], Rows] | None,
    connection: duckdb.DuckDBPyConnection,
) -> Iterator[Expectation]:
    # Objects are compared by hashes of eight bytes: their names would fill the memory, and a share does not change
    # by the one in a thousand millions that is taken for another.
    with source_of(connection, known_objects, "known") as known:
        if not connection.execute(f"SELECT EXISTS (SELECT 1 FROM {known})").fetchall()[0][0]:  # noqa: S608  # our own
            return
        changed = f"SELECT {_MARK} AS mark FROM {BATCH} WHERE kind IN ('write', 'delete')"  # noqa: S608  # our own
        connection.execute(f"CREATE TABLE changed_objects AS {changed}")
        if published_events is not None:
            with source_of(connection, published_events(days_of_batch(connection)), "events") as events:
                written = changed.replace(BATCH, events)
                connection.execute(f"INSERT INTO changed_objects {written}")
        connection.execute(
            f"CREATE TABLE read_objects AS SELECT DISTINCT {_MARK} AS mark FROM {BATCH} "  # noqa: S608  # our own
            "WHERE kind = 'read' AND NOT excluded"
        )
        connection.execute(
            "CREATE TABLE unknown_objects AS SELECT mark FROM read_objects ANTI JOIN changed_objects USING (mark) "  # noqa: S608  # our own
            f"ANTI JOIN (SELECT {_MARK} AS mark FROM {known}) USING (mark)"
        )
    ((objects, unknown),) = connection.execute(
        "SELECT (SELECT count(*) FROM read_objects), (SELECT count(*) FROM unknown_objects)"
    ).fetchall()
    named: list[tuple[str]] = []
    if unknown > UNKNOWN_SHARE * objects:
        named = connection.execute(
            f"SELECT any_value(provider || ':' || bucket || '/' || key) FROM {BATCH} WHERE {_MARK} IN "  # noqa: S608  # our own
            f"(SELECT mark FROM unknown_objects ORDER BY mark LIMIT {_EXAMPLES}) GROUP BY {_MARK} ORDER BY ALL"
        ).fetchall()
    connection.execute("CREATE TABLE object_references (objects BIGINT, unknown BIGINT, examples VARCHAR)")
    counted = (objects, unknown, ", ".join(name for (name,) in named))
    connection.execute("INSERT INTO object_references VALUES (?, ?, ?)", counted)
    yield no_rows(
        f"Warning only. At most {UNKNOWN_SHARE:.0%} of the objects read are unknown to the newest inventory and were "
        "neither written nor deleted in these days",
        "SELECT unknown, objects, examples FROM object_references "  # noqa: S608  # our own
        f"WHERE unknown > {UNKNOWN_SHARE} * objects AND EXISTS (SELECT 1 FROM {{batch}})",
        Severity.WARNING,
    )


def days_of_batch(connection: duckdb.DuckDBPyConnection) -> Sequence[date]:
    """Give the days that the batch has rows of, in order."""
    rows = connection.execute(f"SELECT DISTINCT day FROM {BATCH} WHERE day IS NOT NULL ORDER BY day").fetchall()  # noqa: S608  # our own
    return [row[0] for row in rows]


def _instant(at: datetime) -> str:
    return f"TIMESTAMPTZ '{at.isoformat()}'"


def _day(at: datetime) -> str:
    return f"DATE '{at.date().isoformat()}'"


def _told(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
