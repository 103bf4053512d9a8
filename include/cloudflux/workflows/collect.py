"""Collect access logs and inventories: find what is new, write it beside the published data, audit, publish.

Every step may be killed and repeated. What the tasks of one run share stands in the lake's notes of its batch; a source
file is recorded as published last of all, so that a run that was cut off takes its files again and publishes the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date, datetime
from itertools import groupby
from typing import Any, Final, Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.config import Estate
from cloudflux.domain.errors import ObjectNotFound, TerminalError
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider
from cloudflux.lake.schemas import DAILY_ACCESS

_DOWNLOADS_IN_FLIGHT: Final = 16
_FILE_OVERHEAD_BYTES: Final = 64 * 1024
"""What fetching one more file costs, in bytes of log parsed meanwhile: evens out chunks of many small files."""
_DAYS_AT_ONCE: Final = 128
"""Days of events that are aggregated together: bounds memory, and keeps the scans few."""

_DAILY_ACCESS_SQL: Final = """
WITH ours AS (
    -- S3 logs the source of a copy without its user agent ("-"), under the request id of the copy itself: without this
    -- every object that we move to another class would look as if somebody had read it.
    SELECT DISTINCT provider, request_id FROM events WHERE excluded AND kind = 'write'
), requests AS (
    -- Delivery is best effort and sometimes doubled: the provider's request id tells a doubled line. One request may be
    -- logged as several operations on several objects (a copy), so these belong to its identity.
    SELECT provider, bucket, key, day, min(kind) AS kind, max(bytes_sent) AS bytes_sent,
        bool_and(excluded OR ours.request_id IS NOT NULL) AS excluded
    FROM events LEFT JOIN ours USING (provider, request_id) WHERE kind IN ('read', 'write')
    GROUP BY provider, bucket, key, day, request_id, operation
)
SELECT provider, bucket, key, day,
    count(*) FILTER (kind = 'read' AND NOT excluded) AS reads,
    count(*) FILTER (kind = 'write' AND NOT excluded) AS writes,
    least(coalesce(sum(bytes_sent) FILTER (kind = 'read' AND NOT excluded), 0), 9e18)::BIGINT AS bytes_read,
    count(*) FILTER (kind = 'read' AND excluded) AS excluded_reads,
    count(*) FILTER (kind = 'write' AND excluded) AS excluded_writes
FROM requests GROUP BY provider, bucket, key, day
"""


class StoredFile(Protocol):
    """One file of a bucket, as a listing shows it."""

    @property
    def key(self) -> str:
        """Its name in the bucket."""

    @property
    def etag(self) -> str:
        """Changes with its content."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def last_modified_at(self) -> datetime:
        """When it was written."""


class LogStore(Protocol):
    """The part of a provider's client that log files need."""

    def list_files(self, bucket: str, prefix: str = "") -> Iterator[StoredFile]:
        """List files by key."""

    def get_object(self, ref: Any) -> bytes:
        """Read a file. Raises ``ObjectNotFound``."""


class SourceFiles(Protocol):
    """The log files whose events are published."""

    def published(self, provider: str, bucket: str, prefix: str = "") -> set[tuple[str, str]]:
        """Give ``(key, etag)`` of all published files of a log bucket whose key starts with ``prefix``."""

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Record files as published."""


class QuarantineLog(Protocol):
    """What was kept out of the published data."""

    def add(self, rows: pa.Table) -> int:
        """Add rows once; returns how many were new."""


class Lake(Protocol):
    """The lake's partitions, staged and published, and the notes that the tasks of a run share."""

    def stage_shards(self, dataset: str, table: pa.Table, batch: str) -> list[tuple[date, int]]:
        """Stage rows of any number of days by day and shard."""

    def stage_files(self, dataset: str, table: pa.Table, batch: str) -> list[tuple[date, str]]:
        """Stage rows by day and source file."""

    def stage_part(self, dataset: str, part: str, table: pa.Table, batch: str) -> None:
        """Write a piece of a partition."""

    def discard_part(self, dataset: str, part_prefix: str, batch: str) -> None:
        """Delete the pieces whose name starts so."""

    def merge_parts(self, dataset: str, day: date, batch: str) -> list[tuple[date, int]]:
        """Join the pieces of every shard into staged partitions of one day."""

    def staged(self, dataset: str, batch: str) -> Any:
        """Give what a batch has staged, as a ``pyarrow.dataset.Dataset``."""

    def dataset(self, dataset: str, *, days: Collection[date]) -> Any:
        """Give the published rows of some days, as a ``pyarrow.dataset.Dataset``."""

    def publish(self, dataset: str, batch: str) -> list[tuple[date, int]]:
        """Swap in staged partitions by day and shard."""

    def publish_files(self, dataset: str, batch: str) -> list[tuple[date, str]]:
        """Swap in staged partitions by day and source file."""

    def keep_only(self, dataset: str, days: Sequence[date], partitions: Collection[tuple[date, int]]) -> None:
        """Delete the shards of these days that are not among ``partitions``."""

    def note(self, batch: str, name: str, content: Any) -> str:
        """Write a small JSON value that later tasks of the same run read."""

    def noted(self, batch: str, name: str) -> Any | None:
        """Read a note, or None when there is none."""

    def discard(self, batch: str) -> None:
        """Delete all that a batch has staged and noted."""


class Parsed(Protocol):
    """What a chunk of log files gave."""

    @property
    def events(self) -> pa.Table:
        """Access events."""

    @property
    def quarantine(self) -> pa.Table:
        """Lines that could not be read."""

    @property
    def lines(self) -> int:
        """Records found."""

    @property
    def lines_by_file(self) -> Mapping[str, int]:
        """The same by ``file_id``."""


Parse = Callable[[Sequence[tuple[SourceFile, bytes]], Sequence[str]], Parsed]
"""Parses files of one format; the second argument are the excluded agents."""
Audit = Callable[[str, Any, str], Any]
"""Checks (suite, data, batch) and gives a report with ``raise_if_failed()``."""


def find_new_files(
    estate: Estate,
    client_of: Callable[[Provider, str], LogStore],
    source_files: SourceFiles,
    lake: Lake,
    *,
    provider: Provider,
    batch: str,
    chunk_bytes: int = 64 * 2**20,
    chunk_files: int = 1500,
) -> list[str]:
    """List a provider's log files that are not published yet, and cut them into chunks of even size.

    Each chunk is a note of the batch with the files of one format. Returns the chunks' names.
    """
    names: list[str] = []
    for (connection_id, form), locations in _log_locations(estate, provider).items():
        client = client_of(provider, connection_id)
        found: dict[tuple[str, str], SourceFile] = {}
        for bucket, prefix in sorted(locations):
            known = source_files.published(provider.value, bucket, prefix)
            for file in client.list_files(bucket, prefix):
                if file.size_bytes and (file.key, file.etag) not in known:
                    found[bucket, file.key] = SourceFile(
                        provider, bucket, file.key, file.etag, file.size_bytes, form, file.last_modified_at
                    )
        for number, files in enumerate(even_chunks([found[key] for key in sorted(found)], chunk_bytes, chunk_files)):
            name = f"{provider}-{connection_id}-{form}-{number:05d}"
            lake.note(batch, f"chunk-{name}", {"connection_id": connection_id, "files": [_to_json(f) for f in files]})
            names.append(name)
    lake.note(batch, f"chunks-{provider}", names)
    return names


def _log_locations(estate: Estate, provider: Provider) -> dict[tuple[str, str], set[tuple[str, str]]]:
    locations: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for bucket in estate.buckets:
        if bucket.provider is provider:
            for logs in bucket.logs:
                locations.setdefault((bucket.connection_id, logs.format), set()).add((logs.bucket, logs.prefix))
    return locations


def even_chunks(files: Sequence[SourceFile], chunk_bytes: int, chunk_files: int) -> list[list[SourceFile]]:
    """Cut files into as few chunks as the bounds ask for, each of about the same weight, in their order.

    A file larger than ``chunk_bytes`` is a chunk of its own at worst; none is ever split.
    """
    if not files:
        return []
    total = sum(file.size_bytes for file in files)
    wanted = max(-(-total // chunk_bytes), -(-len(files) // chunk_files))
    weights = [file.size_bytes + _FILE_OVERHEAD_BYTES for file in files]
    share = sum(weights) / wanted
    chunks: list[list[SourceFile]] = [[]]
    before = 0
    for file, weight in zip(files, weights, strict=True):
        if chunks[-1] and before + weight / 2 >= share * len(chunks):
            chunks.append([])
        chunks[-1].append(file)
        before += weight
    return chunks


def parse_chunk(
    chunk: str,
    estate: Estate,
    client_of: Callable[[Provider, str], LogStore],
    parse_of: Callable[[str], Parse],
    lake: Lake,
    *,
    batch: str,
) -> dict[str, int]:
    """Read and parse one chunk, and stage its events and its quarantine by day and source file.

    Events of buckets that the estate does not name (an Azure account logs all its containers) are counted and left out.
    """
    content = lake.noted(batch, f"chunk-{chunk}")
    if content is None:
        raise TerminalError(f"chunk {chunk} of batch {batch} is not in the lake: run find_new_log_files again")
    files = [_from_json(file) for file in content["files"]]
    downloads = list(_download(client_of(files[0].provider, content["connection_id"]), files))
    parsed = parse_of(files[0].format)(downloads, estate.excluded_agents)
    named = _of_estate(parsed.events, estate)
    lake.stage_files("access_events", named, batch)
    lake.stage_files("quarantine", parsed.quarantine, batch)
    events = _rows_by_file(named)
    quarantined = _rows_by_file(parsed.quarantine)
    rows = [
        _to_json(source)
        | {
            "file_id": source.file_id,
            "lines": parsed.lines_by_file.get(source.file_id, 0),
            "events": events.get(source.file_id, 0),
            "quarantined": quarantined.get(source.file_id, 0),
        }
        for source, _ in downloads
    ]
    lake.note(batch, f"parsed-{chunk}", rows)
    return {
        "files": len(downloads),
        "gone": len(files) - len(downloads),
        "lines": parsed.lines,
        "events": named.num_rows,
        "elsewhere": parsed.events.num_rows - named.num_rows,
        "quarantined": parsed.quarantine.num_rows,
    }


def _download(client: LogStore, files: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, bytes]]:
    from cloudflux.domain.objects import ObjectRef

    def read(file: SourceFile) -> bytes | None:
        try:
            return client.get_object(ObjectRef(file.provider, file.bucket, file.key))
        except ObjectNotFound:
            return None  # expired between the listing and now: there is nothing left to read

    with ThreadPoolExecutor(_DOWNLOADS_IN_FLIGHT) as pool:
        for file, data in zip(files, pool.map(read, files), strict=True):
            if data is not None:
                yield file, data


def _of_estate(events: pa.Table, estate: Estate) -> pa.Table:
    if not events.num_rows:
        return events
    kept = pa.array([False] * events.num_rows) if not estate.buckets else None
    for provider, buckets in groupby(sorted(estate.buckets, key=_provider_of), key=_provider_of):
        names = pa.array(sorted({bucket.bucket for bucket in buckets}))
        mine = pc.and_(pc.equal(events["provider"], provider), pc.is_in(events["bucket"], names))
        kept = mine if kept is None else pc.or_(kept, mine)
    return events.filter(kept)


def _provider_of(bucket: Any) -> str:
    return str(bucket.provider)


def _rows_by_file(table: pa.Table) -> dict[str, int]:
    counted = table.group_by("source_file").aggregate([([], "count_all")])
    return dict(zip(counted["source_file"].to_pylist(), counted["count_all"].to_pylist(), strict=True))


def audit_and_publish(
    lake: Lake,
    source_files: SourceFiles,
    quarantine: QuarantineLog,
    audit: Audit,
    *,
    batch: str,
    clock: Callable[[], datetime],
) -> dict[str, int]:
    """Audit and publish a batch's events, rebuild the daily access of all days that they touch, audit and publish it.

    Raises ``AuditFailed`` when an expectation is not met: what is staged then stays unpublished, with its files.
    """
    noted = [lake.noted(batch, f"chunks-{provider}") for provider in Provider]
    if all(names is None for names in noted):
        return {"files": 0, "events": 0, "quarantined": 0, "days": 0}  # an earlier attempt finished and tidied up
    names = [name for names in noted for name in names or []]
    rows = [row for name in names for row in lake.noted(batch, f"parsed-{name}") or []]
    days = _touched_days(lake, batch)
    events = lake.staged("access_events", batch)
    if events.count_rows():
        audit("access_events", events, batch).raise_if_failed()
    lake.publish_files("access_events", batch)

    written = [part for some in _some_at_once(days) for part in _rebuild_daily_access(lake, some, batch)]
    daily = lake.staged("daily_access", batch)
    if daily.count_rows():
        audit("daily_access", daily, batch).raise_if_failed()
    lake.publish("daily_access", batch)
    lake.keep_only("daily_access", days, written)

    new_in_quarantine = quarantine.add(lake.staged("quarantine", batch).to_table())
    lake.publish_files("quarantine", batch)
    source_files.record(
        (row | {"last_modified_at": datetime.fromisoformat(row["last_modified_at"])} for row in rows), clock()
    )
    lake.discard(batch)
    return {
        "files": len(rows),
        "lines": sum(row["lines"] for row in rows),
        "events": sum(row["events"] for row in rows),
        "quarantined": new_in_quarantine,
        "days": len(days),
    }


def _touched_days(lake: Lake, batch: str) -> list[date]:
    """Give the days of a batch's events; noted before the first of them is published, for an attempt that follows."""
    noted = lake.noted(batch, "days")
    if noted is None:
        staged = lake.staged("access_events", batch)
        days = {day for rows in staged.to_batches(columns=["day"]) for day in pc.unique(rows["day"]).to_pylist()}
        noted = sorted(day.isoformat() for day in days)
        lake.note(batch, "days", noted)
    return [date.fromisoformat(day) for day in noted]


def _some_at_once(days: Sequence[date]) -> Iterator[Sequence[date]]:
    for first in range(0, len(days), _DAYS_AT_ONCE):
        yield days[first : first + _DAYS_AT_ONCE]


def _rebuild_daily_access(lake: Lake, days: Sequence[date], batch: str) -> list[tuple[date, int]]:
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("events", lake.dataset("access_events", days=days))
        table = connection.sql(_DAILY_ACCESS_SQL).to_arrow_table()
    return lake.stage_shards("daily_access", table.select(DAILY_ACCESS.names), batch)


def _to_json(file: SourceFile) -> dict[str, Any]:
    return asdict(file) | {"last_modified_at": file.last_modified_at.isoformat()}


def _from_json(content: Mapping[str, Any]) -> SourceFile:
    return SourceFile(
        **{
            **content,
            "provider": Provider(content["provider"]),
            "last_modified_at": datetime.fromisoformat(content["last_modified_at"]),
        }
    )
