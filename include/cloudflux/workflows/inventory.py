"""Collect inventories: every object of the estate with its size, class and lock state, as one snapshot a day.

A bucket's objects come from its newest complete inventory report, or, where the estate names none, from a live listing.
Every step may be killed and repeated. What the tasks of one run share stands in the lake's notes of its batch: which
report was chosen and how its files are cut into chunks, and what each chunk gave.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import duckdb
import polars as pl
import pyarrow as pa

from cloudflux.config import BucketSettings, Estate, InventorySource
from cloudflux.domain.errors import ObjectNotFound, TerminalError
from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.inventory_reports import DamagedFile, InventoryReport, ReportFile, UnusableReport
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import TIER_OF, Provider
from cloudflux.lake.schemas import QUARANTINE

LIVE: Final = "live"
"""The chunk that is a live listing, and the format of what it gives."""
MAX_REPORT_AGE: Final = timedelta(days=8)
"""Reports are made daily or weekly: an older one says that they are made no longer."""
MOST_BAD_ROWS: Final = 0.01
"""Share of a report's rows that may be unreadable: more tells of damage, or of a format that has changed."""

_RUN_ROWS: Final = 500_000
"""Objects that are sorted and written together, which bounds a task's memory."""
_CHUNK_BYTES: Final = 256 << 20
_FILE_OVERHEAD_BYTES: Final = 1 << 20
"""What fetching and opening one more file costs, in bytes read meanwhile: evens out chunks of many small files."""
_PIECE_BYTES: Final = 8 << 20
_OLD_REPORTS: Final = 20
"""How many reports that are too old anyway are looked into, for the message: a folder may hold those of years."""
_EXAMPLES: Final = 3
_REASONS_SHOWN: Final = 5


class InventoryClient(Protocol):
    """The part of a provider's client that inventories need."""

    def list_inventory(self, bucket: str, day: date) -> Iterator[pa.RecordBatch]:
        """List live objects as batches in the inventory's schema."""

    def list_files(self, bucket: str, prefix: str = "") -> Iterator[StoredFile]:
        """List files by key."""

    def get_object(self, ref: ObjectRef) -> bytes:
        """Read a file. Raises ``ObjectNotFound``."""

    def read_blocks(self, ref: ObjectRef, block_bytes: int) -> Iterator[bytes]:
        """Read a file in pieces. Raises ``ObjectNotFound``."""


class StoredFile(Protocol):
    """One file of a bucket, as a listing shows it."""

    @property
    def key(self) -> str:
        """Its name in the bucket."""

    @property
    def size_bytes(self) -> int:
        """Its size."""


class DataFile(Protocol):
    """An open data file of a report."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Its columns."""


class ReportRows(Protocol):
    """What a batch of a data file's records gave."""

    @property
    def objects(self) -> pl.DataFrame:
        """Live objects, in the inventory's columns."""

    @property
    def quarantine(self) -> pa.Table:
        """Records that could not be read."""

    @property
    def records(self) -> int:
        """All records."""

    @property
    def bad(self) -> int:
        """Records that could not be read, also those that are counted only."""

    @property
    def elsewhere(self) -> int:
        """Records of other buckets."""

    @property
    def noncurrent_objects(self) -> int:
        """Old versions and the like."""

    @property
    def noncurrent_bytes(self) -> int:
        """Their size."""

    @property
    def notices(self) -> tuple[FormatNotice, ...]:
        """What is new in the records."""


class ReportFormat(Protocol):
    """The reader of one report format."""

    def taken_at(self, key: str, bucket: str) -> datetime | None:
        """Tell when the report was begun whose manifest ``key`` may be; None when it is none of this bucket."""

    def checksum_key(self, manifest: str) -> str | None:
        """Name the file with the manifest's MD5; None where the format has none."""

    def read_manifest(self, holder: str, manifest: str, content: bytes, bucket: str) -> InventoryReport:
        """Read a manifest. Raises ``UnusableReport``."""

    def check(self, report: InventoryReport, previous: tuple[str, ...]) -> list[FormatNotice]:
        """Notice what is new in a manifest. Raises ``TerminalError`` when a column is missing that is needed."""

    def open_file(self, report: InventoryReport, path: Path) -> Any:
        """Open a data file that was fetched to ``path``. Raises ``DamagedFile``."""

    def notices(self, report: InventoryReport, file: ReportFile, fields: tuple[str, ...]) -> list[FormatNotice]:
        """Notice what is new in a data file. Raises ``TerminalError`` when a column is missing that is needed."""

    def rows(
        self, report: InventoryReport, file: ReportFile, data: Any, *, bucket: str, day: date
    ) -> Iterable[ReportRows]:
        """Map the records of an open data file. Raises ``DamagedFile``."""


class RecordedReport(Protocol):
    """A report that was read into a published snapshot."""

    @property
    def format(self) -> str:
        """The name of its reader."""

    @property
    def manifest(self) -> str:
        """Bucket and key of its manifest."""


class InventoryReports(Protocol):
    """Which report every snapshot was made of."""

    def latest(self, provider: str, bucket: str) -> RecordedReport | None:
        """Give what the newest snapshot of a bucket was made of."""

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Record what a snapshot was made of."""


class QuarantineLog(Protocol):
    """What was kept out of the published data."""

    def add(self, rows: pa.Table) -> int:
        """Add rows once; returns how many were new."""


class Lake(Protocol):
    """The lake's snapshots, staged and published, and the notes that the tasks of a run share."""

    def stage_run(self, provider: str, bucket: str, run: str, objects: pl.DataFrame, batch: str) -> None:
        """Write objects of one bucket as a run; writing it again replaces it."""

    def discard_runs(self, batch: str, provider: str, bucket: str, run: str | None = None) -> None:
        """Delete a bucket's runs, or one of them."""

    def merge_runs(
        self, runs: Iterable[tuple[str, str, str]], day: date, batch: str
    ) -> tuple[list[tuple[date, int]], Mapping[tuple[str, str], Any]]:
        """Join runs (provider, bucket, run) into staged partitions; gives these, and the counts of every bucket."""

    def stage_rows(self, dataset: str, table: pa.Table, part: str, batch: str) -> list[date]:
        """Stage rows as they come, in a file named ``part``."""

    def stage(self, dataset: str, day: date, shard: int, table: pa.Table, batch: str) -> str:
        """Write one partition beside the published data."""

    def staged(self, dataset: str, batch: str) -> Any:
        """Give what a batch has staged, as a ``pyarrow.dataset.Dataset``."""

    def dataset(self, dataset: str, *, days: Collection[date]) -> Any:
        """Give the published rows of some days, as a ``pyarrow.dataset.Dataset``."""

    def publish(self, dataset: str, batch: str) -> list[tuple[date, int]]:
        """Swap in staged partitions by day and shard."""

    def keep_only(self, dataset: str, days: Sequence[date], partitions: Collection[tuple[date, int]]) -> None:
        """Delete the shards of these days that are not among ``partitions``."""

    def note(self, batch: str, name: str, content: Any) -> str:
        """Write a small JSON value that later tasks of the same run read."""

    def noted(self, batch: str, name: str) -> Any | None:
        """Read a note, or None when there is none."""

    def discard(self, batch: str) -> None:
        """Delete all that a batch has staged and noted."""


ClientOf = Callable[[Provider, str], InventoryClient]
FormatOf = Callable[[str], ReportFormat]
Audit = Callable[[str, Any, str], Any]
"""Checks (suite, data, batch) and gives a report with ``raise_if_failed()``, ``rejected`` and ``kept(rows)``."""


@dataclass(frozen=True, slots=True)
class FoundReport:
    """The report of a bucket that a snapshot is made of."""

    report: InventoryReport
    passed_over: tuple[str, ...]
    """The newer ones, with the reason why each cannot be used."""
    notices: tuple[FormatNotice, ...]


def find_inventories(
    estate: Estate,
    client_of: ClientOf,
    format_of: FormatOf,
    reports: InventoryReports,
    lake: Lake,
    *,
    provider: Provider,
    batch: str,
    now: datetime,
    chunk_bytes: int = _CHUNK_BYTES,
) -> list[dict[str, str]]:
    """Find what the inventory of each bucket of a provider is made of, and cut it into parts of even size.

    Gives ``bucket`` and ``chunk`` of every part. Raises ``TerminalError`` naming each bucket whose report is missing,
    too old or without a column that is needed: such a bucket is not listed live instead, which may take days.
    """
    parts: list[dict[str, str]] = []
    problems: list[str] = []
    named = [bucket for bucket in estate.buckets if bucket.provider is provider]
    for settings in named:
        plan: dict[str, Any] = {"report": None, "chunks": {LIVE: []}, "passed_over": [], "notices": []}
        if settings.inventory is not None:
            try:
                found = find_report(
                    client_of(provider, settings.connection_id),
                    format_of(settings.inventory.format),
                    settings,
                    settings.inventory,
                    recorded=reports.latest(provider.value, settings.bucket),
                    now=now,
                )
            except TerminalError as exc:
                problems.append(str(exc))
                continue
            plan = {
                "report": found.report.to_json(),
                "chunks": {
                    f"{found.report.report_id}-{number:05d}": places
                    for number, places in enumerate(even_chunks(found.report.files, chunk_bytes))
                },
                "passed_over": list(found.passed_over),
                "notices": [asdict(notice) for notice in found.notices],
            }
        lake.note(batch, _plan_name(provider, settings.bucket), plan)
        parts += [{"bucket": settings.bucket, "chunk": chunk} for chunk in plan["chunks"]]
    if problems:
        raise TerminalError("; ".join(problems))
    lake.note(batch, f"inventory-{provider}", [settings.bucket for settings in named])
    return parts


def find_report(
    client: InventoryClient,
    reader: ReportFormat,
    settings: BucketSettings,
    source: InventorySource,
    *,
    recorded: RecordedReport | None,
    now: datetime,
) -> FoundReport:
    """Find the newest complete report of a bucket: manifest and checksum are there and agree, all files are listed.

    Raises ``TerminalError`` when there is none, saying where it looked, and when the newest is too old.
    """
    who = f"{settings.provider} bucket {settings.bucket!r}"
    where = f"{source.bucket}/{source.prefix}"
    listing = _Listing(client, settings.provider, source)
    candidates = sorted(
        ((at, key) for key in listing.sizes if (at := reader.taken_at(key, settings.bucket)) is not None),
        reverse=True,
    )
    passed_over: list[str] = []
    too_old = 0
    for place, (begun_at, manifest) in enumerate(candidates):
        too_old += now - begun_at > MAX_REPORT_AGE
        if too_old > _OLD_REPORTS:
            break
        try:
            report = _complete(listing, reader, manifest, settings.bucket)
        except UnusableReport as exc:
            passed_over.append(f"{manifest}: {exc}")
            continue
        if now - report.taken_at > MAX_REPORT_AGE:
            raise TerminalError(
                f"the newest inventory report of {who} that can be used, {report.uri}, is of "
                f"{report.taken_at:%Y-%m-%d %H:%M} UTC, older than {MAX_REPORT_AGE.days} days: are reports still made?"
                f"{_told(passed_over)}"
            )
        older = [key for _, key in candidates[place + 1 :]]
        previous = _previous_fields(listing, reader, report, bucket=settings.bucket, recorded=recorded, older=older)
        return FoundReport(report, tuple(passed_over), tuple(reader.check(report, previous)))
    raise TerminalError(
        f"there is no complete {source.format} report of {who} below {where}{_told(passed_over)}: check the estate's "
        "inventory.bucket and inventory.prefix, or leave inventory out to have the bucket listed live"
    )


def _told(passed_over: Sequence[str]) -> str:
    if not passed_over:
        return ""
    more = f" and {len(passed_over) - _REASONS_SHOWN} more" if len(passed_over) > _REASONS_SHOWN else ""
    return f" (passed over: {'; '.join(passed_over[:_REASONS_SHOWN])}{more})"


class _Listing:
    """The files below a report source's prefix, and those beside them that a manifest names."""

    def __init__(self, client: InventoryClient, provider: Provider, source: InventorySource) -> None:
        self.bucket = source.bucket
        self.sizes: dict[str, int] = {}
        """By key."""
        self._client = client
        self._provider = provider
        self._prefix = source.prefix
        self._squeezed: dict[str, str] = {}
        self._listed: set[str] = set()
        self._list(source.prefix)

    def _list(self, prefix: str) -> None:
        if prefix in self._listed:
            return
        self._listed.add(prefix)
        for file in self._client.list_files(self.bucket, prefix):
            self.sizes[file.key] = file.size_bytes
            self._squeezed[_squeezed(file.key)] = file.key

    def find(self, file: ReportFile) -> ReportFile:
        """Give a data file under the name that it really has. Raises ``UnusableReport``."""
        if not file.key.startswith(self._prefix):
            self._list(file.key.rpartition("/")[0] + "/")
        # With a destination prefix that ends in a slash, S3 writes "//" into keys and "/" into the manifest.
        key = file.key if file.key in self.sizes else self._squeezed.get(_squeezed(file.key))
        if key is None:
            raise UnusableReport(f"its data file {file.key} is not there")
        size = self.sizes[key]
        if file.size_bytes not in (None, size):
            raise UnusableReport(f"its data file {key} has {size} bytes, not {file.size_bytes}")
        return replace(file, key=key, size_bytes=size)

    def read(self, key: str) -> bytes:
        """Read a small file. Raises ``ObjectNotFound``."""
        return self._client.get_object(ObjectRef(self._provider, self.bucket, key))


def _squeezed(key: str) -> str:
    return re.sub("/{2,}", "/", key)


def _complete(listing: _Listing, reader: ReportFormat, manifest: str, bucket: str) -> InventoryReport:
    """Read a manifest and find its files. Raises ``UnusableReport``."""
    try:
        content = listing.read(manifest)
    except ObjectNotFound as exc:
        raise UnusableReport("it is gone") from exc
    checksum = reader.checksum_key(manifest)
    if checksum is not None:
        try:
            _check_md5(content, listing.read(checksum))
        except ObjectNotFound as exc:
            raise UnusableReport("its checksum is not there: it is being written, or was cut off") from exc
    report = reader.read_manifest(listing.bucket, manifest, content, bucket)
    return replace(report, files=tuple(listing.find(file) for file in report.files))


def _check_md5(content: bytes, checksum: bytes) -> None:
    """Compare with an MD5 in hex digits or base64."""
    told = checksum.decode("ascii", "replace").strip().strip('"')
    found = hashlib.md5(content, usedforsecurity=False)
    if told.lower() != found.hexdigest() and told != base64.b64encode(found.digest()).decode():
        raise UnusableReport("its checksum is not that of the manifest")


def _previous_fields(
    listing: _Listing,
    reader: ReportFormat,
    report: InventoryReport,
    *,
    bucket: str,
    recorded: RecordedReport | None,
    older: Sequence[str],
) -> tuple[str, ...]:
    """Give the columns of the report that was read last, or of the one before this one; nothing when there is none."""
    keys = list(older[:2])
    if recorded is not None and recorded.format == report.format:
        if recorded.manifest == report.uri:
            return report.fields
        holder, _, key = recorded.manifest.partition("/")
        keys = [key, *keys] if holder == listing.bucket else keys
    for key in keys:
        try:
            return reader.read_manifest(listing.bucket, key, listing.read(key), bucket).fields
        except (ObjectNotFound, UnusableReport):
            continue
    return ()


def even_chunks(files: Sequence[ReportFile], chunk_bytes: int) -> list[list[int]]:
    """Cut files into as few chunks as the bound asks for, each of about the same weight: gives their places.

    A file larger than ``chunk_bytes`` is a chunk of its own at worst; none is ever split.
    """
    weights = [(file.size_bytes or 0) + _FILE_OVERHEAD_BYTES for file in files]
    wanted = min(len(files), -(-sum(weights) // (chunk_bytes + _FILE_OVERHEAD_BYTES)))
    chunks: list[list[int]] = [[] for _ in range(wanted)]
    filled = [0] * wanted
    for place in sorted(range(len(files)), key=lambda place: (-weights[place], files[place].key)):
        lightest = filled.index(min(filled))
        chunks[lightest].append(place)
        filled[lightest] += weights[place]
    return [sorted(chunk) for chunk in chunks]


def collect_part(
    estate: Estate,
    client_of: ClientOf,
    format_of: FormatOf,
    lake: Lake,
    *,
    provider: str,
    bucket: str,
    chunk: str,
    batch: str,
    day: date,
    clock: Callable[[], datetime],
) -> dict[str, int]:
    """Stage one part of a bucket's inventory: a chunk of its report, or the bucket listed live."""
    named = estate.bucket(provider, bucket)
    client = client_of(named.provider, named.connection_id)
    if chunk == LIVE:
        return list_bucket(client, lake, batch=batch, provider=provider, bucket=bucket, day=day, clock=clock)
    return read_chunk(client, format_of, lake, batch=batch, provider=provider, bucket=bucket, chunk=chunk, day=day)


def list_bucket(
    client: InventoryClient,
    lake: Lake,
    *,
    batch: str,
    provider: str,
    bucket: str,
    day: date,
    clock: Callable[[], datetime],
) -> dict[str, int]:
    """List one bucket live and stage its objects."""
    taken_at = clock()
    lake.discard_runs(batch, provider, bucket)  # of an attempt that was cut off, which may have seen more objects
    objects = size = 0
    classes: set[str] = set()
    with _Runs(lake, provider, bucket, LIVE, batch) as runs:
        for rows in client.list_inventory(bucket, day):
            frame = pl.DataFrame(pl.from_arrow(rows))
            objects += frame.height
            size += int(frame["size_bytes"].sum())
            classes |= set(frame["storage_class"].unique())
            runs.add(frame)
    told = {
        "runs": runs.names,
        "taken_at": taken_at.isoformat(),
        "notices": [asdict(notice) for notice in _unknown_classes(Provider(provider), bucket, classes)],
    }
    lake.note(batch, _part_name(provider, bucket, LIVE), told)
    return {"objects": objects, "bytes": size}


def _unknown_classes(provider: Provider, bucket: str, classes: Collection[str]) -> list[FormatNotice]:
    told = "its objects count as hot, and no price is known for the class"
    return [
        FormatNotice(provider, bucket, LIVE, NoticeKind.UNKNOWN_CLASS, name, told, "the live listing")
        for name in sorted(set(classes) - set(TIER_OF[provider]))
    ]


def read_chunk(
    client: InventoryClient,
    format_of: FormatOf,
    lake: Lake,
    *,
    batch: str,
    provider: str,
    bucket: str,
    chunk: str,
    day: date,
) -> dict[str, int]:
    """Read one chunk of a report's data files, and stage live objects and what could not be read.

    Raises ``TerminalError`` naming a data file that is damaged, and a column that is missing.
    """
    plan = lake.noted(batch, _plan_name(provider, bucket))
    if plan is None or plan["report"] is None or chunk not in plan["chunks"]:
        raise TerminalError(f"chunk {chunk} of bucket {bucket!r} is not in the notes of batch {batch}: find it again")
    report = InventoryReport.from_json(plan["report"])
    reader = format_of(report.format)
    counts = dict.fromkeys(("records", "bad", "elsewhere", "objects", "noncurrent_objects", "noncurrent_bytes"), 0)
    notices: dict[FormatNotice, None] = {}
    quarantine = _Quarantined(lake, f"{_digest(provider, bucket)}-{chunk}", batch)
    with _Runs(lake, provider, bucket, chunk, batch) as runs:
        for file in (report.files[place] for place in plan["chunks"][chunk]):
            try:
                with tempfile.TemporaryDirectory(prefix="cloudflux-inventory-") as folder:
                    path = _fetched(client, report, file, Path(folder))
                    data = reader.open_file(report, path)
                    notices.update(dict.fromkeys(reader.notices(report, file, data.fields)))
                    for rows in reader.rows(report, file, data, bucket=bucket, day=day):
                        runs.add(rows.objects)
                        quarantine.add(rows.quarantine)
                        notices.update(dict.fromkeys(rows.notices))
                        counts["objects"] += rows.objects.height
                        for name in counts.keys() - {"objects"}:
                            counts[name] += getattr(rows, name)
            except DamagedFile as exc:
                raise TerminalError(
                    f"inventory report {report.uri} is refused, its data file {file.key} is damaged: {exc}; without "
                    "its manifest the report before it would be taken"
                ) from exc
    quarantine.flush()
    told = counts | {
        "runs": runs.names,
        "notices": [asdict(notice) for notice in sorted(notices)],
        "examples": quarantine.examples,
    }
    lake.note(batch, _part_name(provider, bucket, chunk), told)
    return counts


def _fetched(client: InventoryClient, report: InventoryReport, file: ReportFile, folder: Path) -> Path:
    """Bring a data file to the local disk, and compare its MD5. Raises ``DamagedFile``."""
    path = folder / "data"
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("wb") as sink:
            for piece in client.read_blocks(ObjectRef(report.provider, report.bucket, file.key), _PIECE_BYTES):
                digest.update(piece)
                sink.write(piece)
    except ObjectNotFound as exc:
        raise DamagedFile("it is gone") from exc
    if file.md5 is not None and digest.hexdigest() != file.md5:
        raise DamagedFile(f"its MD5 is {digest.hexdigest()}, the manifest says {file.md5}")
    return path


class _Runs:
    """Objects on their way into runs: one is sorted and written while the next one is read."""

    def __init__(self, lake: Lake, provider: str, bucket: str, name: str, batch: str) -> None:
        self.names: list[str] = []
        self._lake = lake
        self._provider = provider
        self._bucket = bucket
        self._name = name
        self._batch = batch
        self._held: list[pl.DataFrame] = []
        self._rows = 0
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> _Runs:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._wait()
        finally:
            self._pool.shutdown()

    def add(self, objects: pl.DataFrame) -> None:
        """Take some objects, and write a run when enough are held."""
        if objects.height:
            self._held.append(objects)
            self._rows += objects.height
        if self._rows >= _RUN_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        self._wait()
        name = f"{self._name}-{len(self.names):05d}"
        self.names.append(name)
        held, self._held, self._rows = self._held, [], 0
        self._writing = self._pool.submit(self._write, name, held)

    def _write(self, name: str, held: list[pl.DataFrame]) -> None:
        self._lake.stage_run(self._provider, self._bucket, name, pl.concat(held), self._batch)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None


class _Quarantined:
    """Records that could not be read on their way into the quarantine."""

    def __init__(self, lake: Lake, name: str, batch: str) -> None:
        self.examples: list[str] = []
        self._lake = lake
        self._name = name
        self._batch = batch
        self._number = 0
        self._held: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Take some rows, and stage them when enough are held."""
        if not rows.num_rows:
            return
        for row in rows.slice(0, max(_EXAMPLES - len(self.examples), 0)).to_pylist():
            self.examples.append(f"{row['key']} row {row['line']}: {row['reason']} ({row['raw'][:200]!r})")
        self._held.append(rows)
        if sum(table.num_rows for table in self._held) >= _RUN_ROWS // 10:
            self.flush()

    def flush(self) -> None:
        """Stage what is held."""
        if self._held:
            part = f"{self._name}-{self._number:05d}"
            self._lake.stage_rows("quarantine", pa.concat_tables(self._held), part, self._batch)
            self._number += 1
            self._held = []


@dataclass(slots=True)
class _Collected:
    """What the parts of one bucket gave."""

    provider: str
    bucket: str
    report: InventoryReport | None
    taken_at: datetime
    runs: list[str]
    counts: dict[str, int]
    notices: list[FormatNotice]
    examples: list[str]
    passed_over: list[str]


def publish_inventory(
    lake: Lake,
    reports: InventoryReports,
    quarantine: QuarantineLog,
    audit: Audit,
    *,
    batch: str,
    day: date,
    clock: Callable[[], datetime],
    providers: Collection[Provider] = tuple(Provider),
) -> dict[str, Any]:
    """Join all buckets' parts into the day's snapshot, audit and publish it, and record which reports it is made of.

    Gives objects and bytes in all and by tier, what was counted apart, and the ``notices`` of what is new in formats.
    Raises ``AuditFailed``, and ``TerminalError`` for a report that is short of rows or has too many bad ones; then the
    snapshot before stays in force.
    """
    collected = _collected(lake, batch, providers)
    if collected is None:  # an earlier attempt finished and tidied up
        lake.discard(batch)
        return _totals(lake, day) | {"notices": []}
    refused = [problem for of in collected if (problem := _problem(of)) is not None]
    if refused:
        raise TerminalError("; ".join(refused))
    runs = [(of.provider, of.bucket, run) for of in collected for run in of.runs]
    written, merged = lake.merge_runs(runs, day, batch)
    snapshot = lake.staged("inventory", batch)
    rejected = 0
    if snapshot.count_rows():
        report = audit("inventory", snapshot, batch)
        report.raise_if_failed()
        if report.rejected is not None:
            rejected = report.rejected.num_rows
            written = _without_rejected(lake, report, written, batch)
            quarantine.add(_rejected_rows(report.rejected, day))
        lake.publish("inventory", batch)
        lake.keep_only("inventory", [day], written)
    bad = lake.staged("quarantine", batch).to_table()
    ours = {of.report.file_id(file) for of in collected if of.report is not None for file in of.report.files}
    quarantine.add(bad.filter(pl.Series(bad["source_file"].to_pylist(), dtype=pl.String).is_in(list(ours)).to_arrow()))
    reports.record([_record(of, merged, day) for of in collected], clock())
    result = _totals(lake, day) | {
        "noncurrent_objects": sum(of.counts.get("noncurrent_objects", 0) for of in collected),
        "noncurrent_bytes": sum(of.counts.get("noncurrent_bytes", 0) for of in collected),
        "quarantined": sum(of.counts.get("bad", 0) for of in collected) + rejected,
        "doubled": sum(counts.doubled for counts in merged.values()),
        "reports": sum(of.report is not None for of in collected),
        "passed_over": [reason for of in collected for reason in of.passed_over],
        "notices": sorted({notice for of in collected for notice in of.notices}),
    }
    # The plan goes first: a discard that is cut off must not leave half of it for the next attempt to publish.
    for provider in providers:
        lake.note(batch, f"inventory-{provider}", None)
    lake.discard(batch)
    return result


def _collected(lake: Lake, batch: str, providers: Collection[Provider]) -> list[_Collected] | None:
    """Read what all parts gave; None when the plan is gone. Raises ``TerminalError`` when a part is missing."""
    found: list[_Collected] = []
    for provider in providers:
        buckets = lake.noted(batch, f"inventory-{provider}")
        if buckets is None:
            return None
        for bucket in buckets:
            plan = lake.noted(batch, _plan_name(provider, bucket)) or {"chunks": {"any": []}}
            parts: list[Mapping[str, Any]] = []
            for chunk in plan["chunks"]:
                part = lake.noted(batch, _part_name(provider, bucket, chunk))
                if part is None:
                    raise TerminalError(
                        f"{provider} bucket {bucket!r}: part {chunk} was not collected: run the list tasks again"
                    )
                parts.append(part)
            found.append(_joined(provider, bucket, plan, parts))
    return found


def _joined(provider: Provider, bucket: str, plan: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> _Collected:
    report = InventoryReport.from_json(plan["report"]) if plan["report"] is not None else None
    noted = [*plan["notices"], *(notice for part in parts for notice in part.get("notices", ()))]
    names = ("records", "bad", "elsewhere", "noncurrent_objects", "noncurrent_bytes")
    return _Collected(
        provider=provider.value,
        bucket=bucket,
        report=report,
        taken_at=report.taken_at if report is not None else datetime.fromisoformat(parts[0]["taken_at"]),
        runs=[run for part in parts for run in part["runs"]],
        counts={name: sum(part.get(name, 0) for part in parts) for name in names},
        notices=[
            FormatNotice(**{**one, "provider": Provider(one["provider"]), "kind": NoticeKind(one["kind"])})
            for one in noted
        ],
        examples=[example for part in parts for example in part.get("examples", ())],
        passed_over=list(plan["passed_over"]),
    )


def _problem(of: _Collected) -> str | None:
    """Say why a report must not become a snapshot, or None."""
    report = of.report
    if report is None:
        return None
    records, bad, elsewhere = of.counts["records"], of.counts["bad"], of.counts["elsewhere"]
    who = f"inventory report {report.uri} of {of.provider} bucket {of.bucket!r} is refused"
    if report.rows is not None and records < report.rows:
        return f"{who}: its manifest counts {report.rows} rows, its data files have {records}"
    if bad > MOST_BAD_ROWS * (records - elsewhere):
        shown = "; ".join(of.examples[:_EXAMPLES])
        return f"{who}: {bad} of {records - elsewhere} rows cannot be read, e.g. {shown}"
    if records and records == elsewhere and not report.of_account:
        return f"{who}: it tells of another bucket only; check the estate's inventory.prefix"
    return None


def _without_rejected(
    lake: Lake, report: Any, written: Sequence[tuple[date, int]], batch: str
) -> list[tuple[date, int]]:
    """Stage the partitions again without the rows that the audit leaves out; a shard is in memory at a time."""
    kept: list[tuple[date, int]] = []
    for day, shard in written:
        rows = report.kept(_partition(lake, batch, day, shard))
        lake.stage("inventory", day, shard, rows, batch)
        kept.append((day, shard))
    return kept


def _partition(lake: Lake, batch: str, day: date, shard: int) -> Any:
    staged = lake.staged("inventory", batch)
    name = f"day={day.isoformat()}/shard={shard:04d}.parquet"
    fragment = next(piece for piece in staged.get_fragments() if piece.path.endswith(name))
    return fragment.to_table(schema=staged.schema)


def _rejected_rows(rejected: pa.Table, day: date) -> pa.Table:
    """Put objects that the audit left out into the quarantine's columns: they have no file and no line."""
    rows = [
        {
            "source_file": _digest("inventory", row["provider"] or "", row["bucket"] or "", day.isoformat()),
            "provider": row["provider"] or "",
            "bucket": row["bucket"] or "",
            "key": row["key"] or "",
            "line": number,
            "reason": row["reason"],
            "raw": row["raw"],
            "day": day,
        }
        for number, row in enumerate(rejected.to_pylist(), start=1)
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE)


def _record(of: _Collected, merged: Mapping[tuple[str, str], Any], day: date) -> dict[str, Any]:
    counts = merged.get((of.provider, of.bucket))
    return {
        "provider": of.provider,
        "bucket": of.bucket,
        "day": day,
        "format": of.report.format if of.report is not None else LIVE,
        "manifest": of.report.uri if of.report is not None else "",
        "taken_at": of.taken_at.astimezone(UTC),
        "objects": counts.objects if counts is not None else 0,
        "bytes": counts.bytes if counts is not None else 0,
        "noncurrent_objects": of.counts["noncurrent_objects"],
        "noncurrent_bytes": of.counts["noncurrent_bytes"],
        "quarantined": of.counts["bad"],
    }


def _totals(lake: Lake, day: date) -> dict[str, Any]:
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("snapshot", lake.dataset("inventory", days=[day]))
        found = connection.execute(
            "SELECT tier, count(*), sum(size_bytes)::BIGINT FROM snapshot GROUP BY tier ORDER BY tier"
        ).fetchall()
    tiers = {tier: {"objects": objects, "bytes": size} for tier, objects, size in found}
    return {
        "objects": sum(tier["objects"] for tier in tiers.values()),
        "bytes": sum(tier["bytes"] for tier in tiers.values()),
        "tiers": tiers,
    }


def _plan_name(provider: str, bucket: str) -> str:
    return f"inventory-plan-{provider}-{_digest(provider, bucket)}"


def _part_name(provider: str, bucket: str, chunk: str) -> str:
    return f"inventory-part-{provider}-{_digest(provider, bucket)}-{chunk}"


def _digest(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:32]
