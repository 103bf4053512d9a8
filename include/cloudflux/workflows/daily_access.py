"""From access events to daily access: whole days, each request once, memory flat in the size of the day."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date
from typing import Any, Final, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow.fs import LocalFileSystem

from cloudflux.lake.schemas import ACCESS_EVENTS

_MEMORY: Final = "256MB"
"""What an aggregation may hold before it spills to a temporary folder."""
_EVENTS_AT_ONCE: Final = 5_000_000
"""Days of events are aggregated together up to this many: keeps the scans few. Of more, in one day, the hashes are not
sorted in memory, 8 bytes each and twice, but grouped by DuckDB, which spills."""
_BATCH_ROWS: Final = 65_536

# Delivery is best effort and sometimes doubled: the provider's request id tells a doubled line. One request may be
# logged as several operations on several objects (a copy), so these belong to its identity. Doubled lines are few:
# they are found by a hash of that identity, and only what shares a hash is grouped by the identity itself.
_IDENTITY: Final = "hash(request_id, operation, key, bucket, provider, day)"
_IDENTITIES: Final = "SELECT {identity} AS h FROM {events} WHERE kind IN ('read', 'write')"
_DOUBLED: Final = "CREATE TEMP TABLE doubled AS SELECT h FROM ({identities}) GROUP BY h HAVING count(*) > 1"
# S3 logs the source of a copy without its user agent ("-"), under the request id of the copy itself: without this every
# object that we move to another class would look as if somebody had read it. Looked for on the same day, so that a day
# is the same whichever others are made with it.
_OURS: Final = """
CREATE TEMP TABLE ours AS
SELECT DISTINCT provider, day, request_id FROM {events}
WHERE excluded AND kind IN ('write', 'part') AND contains(operation, 'COPY')
"""
# The rows that share a hash with another one, which are few.
_AGAIN: Final = """
CREATE TEMP TABLE again AS
SELECT provider, bucket, key, day, kind, operation, request_id, bytes_sent, {excluded} AS excluded
FROM {events} WHERE kind IN ('read', 'write') AND {identity} IN (FROM doubled)
"""
_DAILY: Final = """
WITH requests AS ({requests}), daily AS (
    SELECT provider, bucket, key, day,
        {count} FILTER (kind = 'read' AND NOT excluded) AS reads,
        {count} FILTER (kind = 'write' AND NOT excluded) AS writes,
        {bytes} FILTER (kind = 'read' AND NOT excluded) AS bytes_read,
        {count} FILTER (kind = 'read' AND excluded) AS excluded_reads,
        {count} FILTER (kind = 'write' AND excluded) AS excluded_writes
    FROM requests GROUP BY provider, bucket, key, day
)
SELECT provider, bucket, key, day, coalesce(reads, 0)::BIGINT AS reads, coalesce(writes, 0)::BIGINT AS writes,
    least(coalesce(bytes_read, 0), 9e18)::BIGINT AS bytes_read,
    coalesce(excluded_reads, 0)::BIGINT AS excluded_reads, coalesce(excluded_writes, 0)::BIGINT AS excluded_writes,
    (md5_number_lower(provider || chr(0) || bucket || chr(0) || key) % {shards})::INTEGER AS shard
FROM daily ORDER BY day, shard, provider, bucket, key
"""
_EACH: Final = """
    SELECT provider, bucket, key, day, kind, bytes_sent, {excluded} AS excluded
    FROM {events} WHERE kind IN ('read', 'write')
"""
# All rows are counted as they stream by. What came more than once is taken off again, and added once.
_ONCE: Final = """
    SELECT *, 1 AS times FROM ({each})
    UNION ALL
    SELECT provider, bucket, key, day, kind, bytes_sent, excluded, -1 FROM again
    UNION ALL
    SELECT provider, bucket, key, day, min(kind), max(bytes_sent), bool_and(excluded), 1 FROM again
    GROUP BY provider, bucket, key, day, request_id, operation
"""


class Lake(Protocol):
    """The lake's partitions."""

    @property
    def shards(self) -> int:
        """How many shards a day has."""

    def dataset(self, dataset: str, *, days: Collection[date], parts: Callable[[date, str], bool] | None = None) -> Any:
        """Give the published rows of some days, as a ``pyarrow.dataset.Dataset``; of the chosen parts only."""

    def staged(self, dataset: str, batch: str, *, days: Collection[date] | None = None) -> Any:
        """Give what a batch has staged, as a ``pyarrow.dataset.Dataset``."""

    def stage_sorted(self, dataset: str, batches: Iterable[pa.RecordBatch], batch: str) -> list[tuple[date, int]]:
        """Stage rows that come sorted by day, shard and the dataset's keys."""


def rebuild_daily_access(
    lake: Lake,
    days: Sequence[date],
    batch: str,
    *,
    replaced: Collection[str] = (),
    kept: Collection[tuple[date, str]] = (),
) -> list[tuple[date, int]]:
    """Stage the daily access of whole days from all their events; give the partitions (day, shard) that have rows.

    These are the events that are published, without those of the files that the batch replaces, and those that the
    batch has staged. ``kept`` are the batch's own parts (day, name): an earlier attempt may have published some.
    """
    own = set(kept)
    written: list[tuple[date, int]] = []
    for some, held in _some_at_once(lake, days, batch):
        with _aggregating() as connection:
            others = lake.dataset("access_events", days=some, parts=lambda day, part: (day, part) not in own)
            mine = lake.dataset("access_events", days=some, parts=lambda day, part: (day, part) in own)
            sources = [_readable(connection, others, "others", sorted(replaced))]
            sources += [
                _readable(connection, rows, name)
                for name, rows in (("mine", mine), ("staged", lake.staged("access_events", batch, days=some)))
            ]
            events = f"({' UNION ALL '.join(source for source in sources if source)})"
            _find_doubled(connection, events, in_memory=held <= _EVENTS_AT_ONCE)
            connection.execute(_OURS.format(events=events))
            rows = connection.sql(_daily_sql(connection, events, lake.shards)).to_arrow_reader(_BATCH_ROWS)
            written += lake.stage_sorted("daily_access", rows, batch)
    return written


def _find_doubled(connection: duckdb.DuckDBPyConnection, events: str, *, in_memory: bool) -> None:
    """Make the table ``doubled`` of the hashes that more than one event has.

    Sorting eight bytes an event takes half as long as grouping them, but a day may have more than memory should hold.
    """
    identities = _IDENTITIES.format(identity=_IDENTITY, events=events)
    if not in_memory:
        connection.execute(_DOUBLED.format(identities=identities))
        return
    hashes = connection.sql(identities).fetchnumpy()["h"]
    hashes.sort()
    doubled = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    connection.register("doubled", pa.table({"h": pa.array(doubled, pa.uint64())}))


def _daily_sql(connection: duckdb.DuckDBPyConnection, events: str, shards: int) -> str:
    doubled, ours = connection.sql("SELECT (SELECT count(*) FROM doubled), (SELECT count(*) FROM ours)").fetchall()[0]
    copied = "(kind = 'read' AND contains(operation, 'COPY') AND (provider, day, request_id) IN (FROM ours))"
    excluded = f"(excluded OR {copied})" if ours else "excluded"
    each = _EACH.format(events=events, excluded=excluded)
    if doubled:
        connection.execute(_AGAIN.format(events=events, excluded=excluded, identity=_IDENTITY))
    return _DAILY.format(
        requests=_ONCE.format(each=each) if doubled else each,
        count="sum(times)" if doubled else "count(*)",
        bytes="sum(bytes_sent * times)" if doubled else "sum(bytes_sent)",
        shards=int(shards),
    )


class _aggregating:  # noqa: N801  # reads as a phrase: with _aggregating()
    """A DuckDB connection that spills to a temporary folder of its own."""

    def __enter__(self) -> duckdb.DuckDBPyConnection:
        self._folder = tempfile.TemporaryDirectory(prefix="cloudflux-daily-")
        self._connection = duckdb.connect(
            config={
                "threads": 2,
                "memory_limit": _MEMORY,
                "temp_directory": self._folder.name,
                "preserve_insertion_order": False,
            }
        )
        self._connection.register("no_events", ACCESS_EVENTS.empty_table())
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._folder.cleanup()


def _readable(
    connection: duckdb.DuckDBPyConnection, events: pads.Dataset, name: str, without: Sequence[str] = ()
) -> str:
    """Give the query of the events: by DuckDB itself where they are local files, by Arrow elsewhere; "" for none.

    Rows of the source files ``without`` are left out.
    """
    files = getattr(events, "files", None)
    if not files:
        return "" if name != "staged" else "SELECT * FROM no_events"
    if isinstance(events.filesystem, LocalFileSystem):
        listed = ", ".join(_quoted(file) for file in files)
        query = f"SELECT * FROM read_parquet([{listed}], hive_partitioning = false)"  # noqa: S608  # quoted
    else:
        connection.register(name, events)
        query = f"SELECT * FROM {name}"  # noqa: S608  # one of three names
    if without:
        query += f" WHERE source_file NOT IN ({', '.join(_quoted(file) for file in without)})"
    return query


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _some_at_once(lake: Lake, days: Sequence[date], batch: str) -> Iterator[tuple[list[date], int]]:
    """Group days, in order, by how many events they have; give these numbers too."""
    some: list[date] = []
    held = 0
    for day in days:
        rows = sum(
            found.count_rows()
            for found in (lake.dataset("access_events", days=[day]), lake.staged("access_events", batch, days=[day]))
        )
        if some and held + rows > _EVENTS_AT_ONCE:
            yield some, held
            some, held = [], 0
        some.append(day)
        held += rows
    if some:
        yield some, held
