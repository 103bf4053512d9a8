"""Collect one part of a bucket's inventory into the lake: a chunk of its report, or the bucket listed live."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa

from cloudflux.config import Estate
from cloudflux.domain.errors import CloudFluxError, ObjectNotFound, TerminalError
from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.inventory_reports import DamagedFile, InventoryReport, ReportFile
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import TIER_OF, Provider
from cloudflux.workflows.inventory_notes import LIVE, digest, part_name, plan_name
from cloudflux.workflows.inventory_ports import ClientOf, FormatOf, InventoryClient, Lake

_RUN_ROWS: Final = 500_000
"""Objects that are sorted and written together, which bounds a task's memory."""
_PIECE_BYTES: Final = 8 << 20
_EXAMPLES: Final = 3


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
    given_up_on: tuple[type[CloudFluxError], ...] = (TerminalError,),
) -> dict[str, int]:
    """Stage one part of a bucket's inventory: a chunk of its report, or the bucket listed live.

    Where that ends with an error of ``given_up_on``, the part's note says why and ``refused`` is 1: the other buckets
    go on without it.
    Raises ``TerminalError`` when the chunk was not found by this run.
    """
    named = estate.bucket(provider, bucket)
    plan = lake.noted(batch, plan_name(provider, bucket))
    if plan is None or chunk not in plan["chunks"]:
        raise TerminalError(f"chunk {chunk} of bucket {bucket!r} is not in the notes of batch {batch}: find it again")
    try:
        client = client_of(named.provider, named.connection_id)
        if chunk == LIVE:
            return list_bucket(client, lake, batch=batch, provider=provider, bucket=bucket, day=day, clock=clock)
        return read_chunk(client, format_of, lake, batch=batch, provider=provider, bucket=bucket, chunk=chunk, day=day)
    except given_up_on as exc:
        lake.note(batch, part_name(provider, bucket, chunk), {"refused": f"{provider} bucket {bucket!r}: {exc}"})
        return {"refused": 1}


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
    with Runs(lake, provider, bucket, LIVE, batch) as runs:
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
    lake.note(batch, part_name(provider, bucket, LIVE), told)
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
    plan: Any = lake.noted(batch, plan_name(provider, bucket))
    report = InventoryReport.from_json(plan["report"])
    reader = format_of(report.format)
    counts = dict.fromkeys(("records", "bad", "elsewhere", "objects", "noncurrent_objects", "noncurrent_bytes"), 0)
    notices: dict[FormatNotice, None] = {}
    quarantine = _Quarantined(lake, f"{digest(provider, bucket)}-{chunk}", batch)
    with Runs(lake, provider, bucket, chunk, batch) as runs:
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
    lake.note(batch, part_name(provider, bucket, chunk), told)
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


class Runs:
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

    def __enter__(self) -> Runs:
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
