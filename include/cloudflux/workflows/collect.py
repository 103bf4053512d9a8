"""Collect access logs: find what is new, write it beside the published data, audit, publish.

Every step may be killed and repeated. What the tasks of one run share stands in the lake's notes of its batch; a source
file is recorded as published last of all, so that a run that was cut off takes its files again and publishes the same
bytes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from datetime import date, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.config import Estate, LogSource
from cloudflux.domain.errors import ObjectNotFound, TerminalError
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider
from cloudflux.workflows import daily_access
from cloudflux.workflows.daily_access import rebuild_daily_access
from cloudflux.workflows.freed_memory import give_back_freed_memory

_DOWNLOADS_IN_FLIGHT: Final = 16
_STREAMED_ABOVE_BYTES: Final = 8 << 20
"""Larger files are read in pieces; smaller ones are fetched ahead, many at once."""
_PIECE_BYTES: Final = 1 << 20
_FILE_OVERHEAD_BYTES: Final = 64 * 1024
"""What fetching one more file costs, in bytes of log parsed meanwhile: evens out chunks of many small files."""
_PART_ROWS: Final = 500_000
"""Access events that are held before they are written as a part."""
_QUARANTINED_LINES: Final = 1000
"""How many lines of one file are kept in the database; the lake has all of them."""


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

    def list_files(self, bucket: str, prefix: str = "", start_from: str = "") -> Iterator[StoredFile]:
        """List files by key, from ``start_from`` on."""

    def get_object(self, ref: Any) -> bytes:
        """Read a file. Raises ``ObjectNotFound``."""

    def read_blocks(self, ref: Any, block_bytes: int) -> Iterator[bytes]:
        """Read a file in pieces. Raises ``ObjectNotFound``."""


class SourceFiles(Protocol):
    """The log files whose events are published."""

    def published(self, provider: str, bucket: str, prefix: str = "", start_from: str = "") -> set[tuple[str, str]]:
        """Give ``(key, etag)`` of all published files of a log bucket whose key starts with ``prefix``."""

    def intend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record where the rows of files will be, before anything is swapped in."""

    def earlier(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, list[date]]:
        """Give the days that other takes of these files may have rows on, by ``file_id``."""

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Record files as published."""


class QuarantineLog(Protocol):
    """What was kept out of the published data."""

    def forget(self, file_ids: Collection[str]) -> int:
        """Delete the rows of source files."""

    def add(self, rows: pa.Table) -> int:
        """Add rows once; returns how many were new."""


class Lake(daily_access.Lake, Protocol):
    """The lake's partitions, staged and published, and the notes that the tasks of a run share."""

    def stage_rows(self, dataset: str, table: pa.Table, part: str, batch: str) -> list[date]:
        """Stage rows as they come, one file named ``part`` per day; give the days."""

    def unstage(self, dataset: str, batch: str) -> None:
        """Delete what a batch has staged of one dataset."""

    def staged_parts(self, dataset: str, batch: str) -> list[tuple[date, str]]:
        """Give (day, name) of what a batch has staged."""

    def rewrite_staged(self, dataset: str, batch: str, change: Callable[[pa.Table], pa.Table]) -> None:
        """Replace each staged part by what ``change`` makes of it."""

    def remove_rows(
        self,
        dataset: str,
        days: Collection[date],
        source_files: Collection[str],
        keep: Collection[tuple[date, str]] = (),
    ) -> int:
        """Delete the published rows of source files on some days, but not those of the parts in ``keep``."""

    def publish(self, dataset: str, batch: str) -> list[tuple[date, int]]:
        """Swap in staged partitions by day and shard."""

    def publish_files(self, dataset: str, batch: str) -> list[tuple[date, str]]:
        """Swap in staged partitions by day and part."""

    def keep_only(self, dataset: str, days: Sequence[date], partitions: Collection[tuple[date, int]]) -> None:
        """Delete the shards of these days that are not among ``partitions``."""

    def note(self, batch: str, name: str, content: Any) -> str:
        """Write a small JSON value that later tasks of the same run read."""

    def noted(self, batch: str, name: str) -> Any | None:
        """Read a note, or None when there is none."""

    def discard(self, batch: str) -> None:
        """Delete all that a batch has staged and noted."""


class Parsed(Protocol):
    """What a block of log files gave."""

    @property
    def events(self) -> pa.Table:
        """Access events."""

    @property
    def quarantine(self) -> pa.Table:
        """Lines that could not be read."""

    @property
    def hours(self) -> pa.Table:
        """All readable records by bucket and hour."""

    @property
    def lines(self) -> int:
        """Records found."""

    @property
    def lines_by_file(self) -> Mapping[str, int]:
        """The same by ``file_id``."""

    @property
    def notices(self) -> Sequence[FormatNotice]:
        """What the parser does not know."""


Parse = Callable[[Iterable[tuple[SourceFile, Iterator[bytes]]], Exclusions], Iterator[Parsed]]
"""Parses files of one format, block by block."""
ListedFrom = Callable[[str, str, date], str]
"""Gives (format, prefix, day) the key from which on the files delivered since a day are listed."""


class AuditReport(Protocol):
    """How a batch met its suite."""

    @property
    def rejected(self) -> pa.Table | None:
        """Rows to leave out, in the lake's ``QUARANTINE`` columns."""

    def kept(self, rows: Any) -> pa.Table:
        """Give rows of the batch without the rejected ones."""

    def raise_if_failed(self) -> None:
        """Raise ``AuditFailed`` when the batch must stay unpublished."""


Audit = Callable[[str, Any, str], AuditReport]
"""Checks (suite, data, batch)."""


def find_new_files(
    estate: Estate,
    client_of: Callable[[Provider, str], LogStore],
    source_files: SourceFiles,
    lake: Lake,
    *,
    provider: Provider,
    batch: str,
    at: datetime,
    listed_from: ListedFrom = lambda form, prefix, day: prefix,
    chunk_bytes: int = 512 * 2**20,
    chunk_files: int = 4000,
) -> list[str]:
    """List a provider's log files that are not published yet, and cut them into chunks of even size.

    Each chunk is a note of the batch with the files of one format. Returns the chunks' names. ``at`` is the time now.
    """
    names: list[str] = []
    lake.note(batch, f"listed-{provider}", at.isoformat())
    for (connection_id, form), sources in _log_sources(estate, provider).items():
        client = client_of(provider, connection_id)
        found: dict[tuple[str, str], SourceFile] = {}
        for source in sorted(sources, key=lambda source: (source.bucket, source.prefix)):
            start = ""
            if source.lookback_days is not None:
                start = listed_from(form, source.prefix, at.date() - timedelta(days=source.lookback_days))
            known = source_files.published(provider.value, source.bucket, source.prefix, start)
            for file in client.list_files(source.bucket, source.prefix, start):
                if file.size_bytes and (file.key, file.etag) not in known:
                    found[source.bucket, file.key] = SourceFile(
                        provider, source.bucket, file.key, file.etag, file.size_bytes, form, file.last_modified_at
                    )
        for number, files in enumerate(even_chunks([found[key] for key in sorted(found)], chunk_bytes, chunk_files)):
            name = f"{provider}-{connection_id}-{form}-{number:05d}"
            lake.note(batch, f"chunk-{name}", {"connection_id": connection_id, "files": [_to_json(f) for f in files]})
            names.append(name)
    lake.note(batch, f"chunks-{provider}", names)
    return names


def _log_sources(estate: Estate, provider: Provider) -> dict[tuple[str, str], set[LogSource]]:
    sources: dict[tuple[str, str], set[LogSource]] = {}
    for bucket in estate.buckets:
        if bucket.provider is provider:
            for logs in bucket.logs:
                sources.setdefault((bucket.connection_id, logs.format), set()).add(logs)
    return sources


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
    part_rows: int = _PART_ROWS,
) -> dict[str, int]:
    """Read and parse one chunk, and stage its events, log hours and quarantine in parts.

    Files are streamed and parts written as they fill: memory does not grow with the chunk. Events of buckets that the
    estate does not name (an Azure account logs all its containers) are counted and left out.
    """
    content = lake.noted(batch, f"chunk-{chunk}")
    if content is None:
        raise TerminalError(f"chunk {chunk} of batch {batch} is not in the lake: run find_new_log_files again")
    files = [_from_json(file) for file in content["files"]]
    taken: list[SourceFile] = []
    contents = _contents(client_of(files[0].provider, content["connection_id"]), files, taken)
    notices: dict[FormatNotice, None] = {}
    lines: dict[str, int] = {}
    total = found = 0
    with _Parts(lake, _part_of(files), batch, part_rows) as parts:
        for parsed in parse_of(files[0].format)(contents, estate.exclusions):
            named = _of_estate(parsed.events, estate)
            parts.add(named, _of_estate(parsed.hours, estate), parsed.quarantine)
            total += parsed.lines
            found += parsed.events.num_rows
            for file_id, count in parsed.lines_by_file.items():
                lines[file_id] = lines.get(file_id, 0) + count
            notices.update(dict.fromkeys(parsed.notices))
    give_back_freed_memory()
    rows = [
        _to_json(source)
        | {
            "file_id": source.file_id,
            "lines": lines.get(source.file_id, 0),
            "events": parts.events.get(source.file_id, 0),
            "quarantined": parts.quarantined.get(source.file_id, 0),
            "part": parts.name,
            "days": sorted(day.isoformat() for day in parts.days.get(source.file_id, ())),
            "event_days": sorted(day.isoformat() for day in parts.event_days.get(source.file_id, ())),
        }
        for source in taken
    ]
    lake.note(batch, f"parsed-{chunk}", rows)
    lake.note(batch, f"notices-{chunk}", [asdict(notice) for notice in sorted(notices)])
    return {
        "files": len(taken),
        "gone": len(files) - len(taken),
        "lines": total,
        "events": sum(parts.events.values()),
        "excluded": parts.excluded,
        "elsewhere": found - sum(parts.events.values()),
        "quarantined": sum(parts.quarantined.values()),
    }


def _part_of(files: Sequence[SourceFile]) -> str:
    """Name the parts of a chunk by its files and their content: the same chunk again replaces its own parts."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.file_id}\0{file.etag}\n".encode())
    return digest.hexdigest()[:24]


class _Parts:
    """The rows of a chunk, written as parts when enough are held, in a thread while the next ones are parsed."""

    def __init__(self, lake: Lake, name: str, batch: str, part_rows: int) -> None:
        self.name = name
        self.events: dict[str, int] = {}
        self.quarantined: dict[str, int] = {}
        self.days: dict[str, set[date]] = {}
        self.event_days: dict[str, set[date]] = {}
        self.excluded = 0
        self._lake = lake
        self._batch = batch
        self._part_rows = part_rows
        self._number = 0
        self._rows = 0
        self._writer = ThreadPoolExecutor(1)
        self._written: list[Future[list[date]]] = []
        self._held: dict[str, list[pa.Table]] = {"access_events": [], "log_hours": [], "quarantine": []}

    def add(self, events: pa.Table, hours: pa.Table, quarantine: pa.Table) -> None:
        for name, table in zip(self._held, (events, hours, quarantine), strict=True):
            if table.num_rows:
                self._held[name].append(table)
                self._rows += table.num_rows
        for table, counted in ((events, self.events), (hours, None), (quarantine, self.quarantined)):
            found = table.group_by(["source_file", "day"], use_threads=False).aggregate([([], "count_all")])
            for file_id, day, count in zip(*(column.to_pylist() for column in found.itercolumns()), strict=True):
                self.days.setdefault(file_id, set()).add(day)
                if counted is not None:
                    counted[file_id] = counted.get(file_id, 0) + count
                if table is events:
                    self.event_days.setdefault(file_id, set()).add(day)
        self.excluded += pc.sum(events["excluded"]).as_py() or 0
        if self._rows >= self._part_rows:
            self.flush()

    def flush(self) -> None:
        self._wait()
        for dataset, tables in self._held.items():
            if tables:
                part = f"{self.name}-{self._number:05d}"
                table = pa.concat_tables(tables)
                self._written.append(self._writer.submit(self._lake.stage_rows, dataset, table, part, self._batch))
                tables.clear()
        self._number += 1
        self._rows = 0

    def _wait(self) -> None:
        for written in self._written:
            written.result()
        self._written.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self.flush()
                self._wait()
        finally:
            self._writer.shutdown()


def _contents(
    client: LogStore, files: Sequence[SourceFile], taken: list[SourceFile]
) -> Iterator[tuple[SourceFile, Iterator[bytes]]]:
    """Give each file with its content, in order; note in ``taken`` those that are still there.

    Small files are fetched ahead, a few at once; large ones are streamed.
    """

    def fetch(file: SourceFile) -> bytes | None:
        try:
            return client.get_object(ObjectRef(file.provider, file.bucket, file.key))
        except ObjectNotFound:
            return None  # expired between the listing and now: there is nothing left to read

    with ThreadPoolExecutor(_DOWNLOADS_IN_FLIGHT) as pool:
        ahead: deque[tuple[SourceFile, Future[bytes | None] | None]] = deque()
        waiting = iter(files)
        while True:
            while len(ahead) < _DOWNLOADS_IN_FLIGHT and (file := next(waiting, None)) is not None:
                is_small = file.size_bytes <= _STREAMED_ABOVE_BYTES
                ahead.append((file, pool.submit(fetch, file) if is_small else None))
            if not ahead:
                return
            file, small = ahead.popleft()
            if small is not None:
                data = small.result()
                pieces = iter((data,)) if data is not None else None
            else:
                pieces = _stream(client, file)
            if pieces is not None:
                taken.append(file)
                yield file, pieces


def _stream(client: LogStore, file: SourceFile) -> Iterator[bytes] | None:
    pieces = client.read_blocks(ObjectRef(file.provider, file.bucket, file.key), _PIECE_BYTES)
    try:
        first = next(pieces, b"")
    except ObjectNotFound:
        return None
    return chain((first,), pieces)


def _of_estate(rows: pa.Table, estate: Estate) -> pa.Table:
    named = {(bucket.provider.value, bucket.bucket) for bucket in estate.buckets}
    # Few buckets, many rows: the names are looked at once each.
    present = rows.select(["provider", "bucket"]).group_by(["provider", "bucket"], use_threads=False).aggregate([])
    foreign = [
        pair
        for pair in zip(*(column.to_pylist() for column in present.itercolumns()), strict=True)
        if pair not in named
    ]
    if not foreign:
        return rows
    kept = pa.array([False] * rows.num_rows)
    for provider in {provider for provider, _ in named}:
        names = pa.array(sorted(bucket for of, bucket in named if of == provider), pa.string())
        kept = pc.or_(kept, pc.and_(pc.equal(rows["provider"], provider), pc.is_in(rows["bucket"], names)))
    return rows.filter(kept)


def audit_and_publish(
    lake: Lake,
    source_files: SourceFiles,
    quarantine: QuarantineLog,
    audit: Audit,
    *,
    batch: str,
    clock: Callable[[], datetime],
) -> dict[str, Any]:
    """Audit a batch's events and the daily access of all days that they touch, made anew; publish both.

    A file that was taken before, with other content, or that an earlier run was publishing when it was cut off, is
    replaced: its old rows go, and the days that they were on are rebuilt too. Raises ``AuditFailed`` when an
    expectation is not met: what is staged then stays unpublished, with its files.
    """
    noted = [lake.noted(batch, f"chunks-{provider}") for provider in Provider]
    if all(names is None for names in noted):
        return _NOTHING_LEFT  # an earlier attempt finished and tidied up
    names = [name for names in noted for name in names or []]
    rows = [_row_of(row) for name in names for row in lake.noted(batch, f"parsed-{name}") or []]
    replaced = source_files.earlier(rows)
    old_days = {day for old in replaced.values() for day in old}
    days = sorted({day for row in rows for day in row["event_days"]} | old_days)
    written = _audited(lake, audit, rows, days=days, replaced=replaced, batch=batch)

    source_files.intend(rows)
    for dataset in ("access_events", "log_hours", "quarantine"):
        _replace_files(lake, dataset, replaced, batch)
    lake.publish("daily_access", batch)
    lake.keep_only("daily_access", days, written)

    quarantine.forget(sorted(replaced))
    new_in_quarantine = _quarantine(lake, quarantine, rows)
    touched = sorted({day for row in rows for day in row["days"]} | old_days)
    listed = [at for provider in Provider if (at := lake.noted(batch, f"listed-{provider}"))]
    source_files.record(rows, clock())
    notices = [FormatNotice(**notice) for name in names for notice in lake.noted(batch, f"notices-{name}") or []]
    lake.discard(batch)
    return {
        "files": len(rows),
        "lines": sum(row["lines"] for row in rows),
        "events": sum(row["events"] for row in rows),
        "quarantined": new_in_quarantine,
        "replaced": len(replaced),
        "days": len(days),
        "touched": _runs_of(touched),
        "collected_until": min(listed, default=None),
        "notices": notices,
    }


_NOTHING_LEFT: Final[dict[str, Any]] = {
    **dict.fromkeys(("files", "lines", "events", "quarantined", "replaced", "days"), 0),
    "touched": [],
    "collected_until": None,
    "notices": [],
}


def _runs_of(days: Sequence[date]) -> list[tuple[str, str]]:
    """Give days, in order, as ranges (first, last) without a gap."""
    runs: list[tuple[date, date]] = []
    for day in days:
        if runs and day - runs[-1][1] == timedelta(days=1):
            runs[-1] = runs[-1][0], day
        else:
            runs.append((day, day))
    return [(first.isoformat(), last.isoformat()) for first, last in runs]


def _audited(
    lake: Lake,
    audit: Audit,
    rows: Sequence[Mapping[str, Any]],
    *,
    days: Sequence[date],
    replaced: Mapping[str, Sequence[date]],
    batch: str,
) -> list[tuple[date, int]]:
    """Audit the staged events and the daily access that comes of them; give its partitions.

    Both are done before anything is published, and at once: the audit mostly waits for Great Expectations.
    """
    rebuild = partial(
        rebuild_daily_access,
        lake,
        days,
        batch,
        replaced=sorted(replaced),
        kept=_staged_parts(lake, "access_events", batch),
    )
    with ThreadPoolExecutor(1) as beside:
        rebuilding = beside.submit(rebuild)
        events = lake.staged("access_events", batch)
        if events.count_rows():
            report = audit("access_events", events, batch)
            report.raise_if_failed()
            if report.rejected is not None:
                rebuilding.result()
                _leave_out(lake, report, rows, batch)
                lake.unstage("daily_access", batch)
                rebuilding = beside.submit(rebuild)
        written = rebuilding.result()
    daily = lake.staged("daily_access", batch)
    if daily.count_rows():
        audit("daily_access", daily, batch).raise_if_failed()
    return written


def _staged_parts(lake: Lake, dataset: str, batch: str) -> list[tuple[date, str]]:
    """Give the parts of a batch; noted before the first of them is swapped in, for an attempt that follows."""
    noted = lake.noted(batch, f"staged-{dataset}")
    if noted is None:
        noted = [(day.isoformat(), name) for day, name in lake.staged_parts(dataset, batch)]
        lake.note(batch, f"staged-{dataset}", noted)
    return [(date.fromisoformat(day), name) for day, name in noted]


def _leave_out(lake: Lake, report: AuditReport, rows: Sequence[Mapping[str, Any]], batch: str) -> None:
    """Put the rows that the audit rejects into quarantine, and take them out of what is staged."""
    rejected = report.rejected
    assert rejected is not None  # noqa: S101  # asked by the caller
    named = {row["file_id"]: row for row in rows}
    for column in ("bucket", "key"):
        names = [named[file_id][column] if file_id in named else "" for file_id in rejected["source_file"].to_pylist()]
        place = rejected.schema.get_field_index(column)
        rejected = rejected.set_column(place, rejected.schema.field(column), pa.array(names, pa.string()))
    # First into quarantine: after a kill between the two, the rows are there twice, and not nowhere.
    lake.stage_rows("quarantine", rejected, f"audit-{hashlib.sha256(batch.encode()).hexdigest()[:24]}", batch)
    lake.rewrite_staged("access_events", batch, report.kept)


def _replace_files(lake: Lake, dataset: str, replaced: Mapping[str, Sequence[date]], batch: str) -> None:
    """Swap in what is staged, after the rows of the files that it replaces are gone."""
    kept = _staged_parts(lake, dataset, batch)
    lake.remove_rows(dataset, sorted({day for old in replaced.values() for day in old}), sorted(replaced), kept)
    lake.publish_files(dataset, batch)


def _quarantine(lake: Lake, quarantine: QuarantineLog, rows: Sequence[Mapping[str, Any]]) -> int:
    """Give the database the first lines of each file that are in quarantine."""
    published = lake.dataset("quarantine", days=sorted({day for row in rows for day in row["days"]}))
    files = pa.array(sorted(row["file_id"] for row in rows), pa.string())
    listed = published.to_table(filter=pc.field("source_file").isin(files))
    if not listed.num_rows:
        return 0
    listed = listed.sort_by([("source_file", "ascending"), ("line", "ascending")])
    ids = listed["source_file"].combine_chunks().dictionary_encode().indices.to_numpy()
    places = np.arange(len(ids)) - np.searchsorted(ids, ids)
    return quarantine.add(listed.filter(pa.array(places < _QUARANTINED_LINES)))


def _row_of(noted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **noted,
        "last_modified_at": datetime.fromisoformat(noted["last_modified_at"]),
        "days": [date.fromisoformat(day) for day in noted["days"]],
        "event_days": [date.fromisoformat(day) for day in noted["event_days"]],
    }


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
