"""Collect access logs: read and parse one chunk of files, and stage what was found in parts, in flat memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from datetime import date
from itertools import chain
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.config import Estate
from cloudflux.domain.errors import ObjectNotFound, TerminalError
from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider
from cloudflux.lake.row_groups import ROW_GROUP
from cloudflux.workflows.collect_files import from_note, to_note
from cloudflux.workflows.collect_ports import (
    Lake,
    LogStore,
    Parse,
    Part,
)
from cloudflux.workflows.freed_memory import give_back_freed_memory

_DOWNLOADS_IN_FLIGHT: Final = 16
_STREAMED_ABOVE_BYTES: Final = 8 << 20
"""Larger files are read in pieces; smaller ones are fetched ahead, many at once."""
_PIECE_BYTES: Final = 1 << 20
_PART_ROWS: Final = 500_000
"""Rows of a part, about."""
_WRITTEN_ROWS: Final = ROW_GROUP
"""So many are handed to the writer together: a row group of the lake."""


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
    files = [from_note(file) for file in content["files"]]
    taken: list[SourceFile] = []
    contents = _contents(client_of(files[0].provider, content["connection_id"]), files, taken)
    by_id = {file.file_id: file for file in files}
    notices: dict[FormatNotice, None] = {}
    lines: dict[str, int] = {}
    total = found = 0
    with _Parts(lake, _part_of(files), batch, part_rows) as parts:
        for parsed in parse_of(files[0].format)(contents, estate.exclusions):
            named = _of_estate(parsed.events, estate, by_id)
            parts.add(named, _of_estate(parsed.hours, estate, by_id), parsed.quarantine)
            total += parsed.lines
            found += parsed.events.num_rows
            for file_id, count in parsed.lines_by_file.items():
                lines[file_id] = lines.get(file_id, 0) + count
            notices.update(dict.fromkeys(parsed.notices))
    give_back_freed_memory()
    rows = [
        to_note(source)
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
    """The rows of a chunk, written in parts, in a thread while the next ones are parsed."""

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
        self._rows = self._unwritten = 0
        self._writer = ThreadPoolExecutor(1)
        self._written: list[Future[object]] = []
        self._held: dict[str, list[pa.Table]] = {"access_events": [], "log_hours": [], "quarantine": []}
        self._open: dict[str, Part] = {}

    def add(self, events: pa.Table, hours: pa.Table, quarantine: pa.Table) -> None:
        for name, table in zip(self._held, (events, hours, quarantine), strict=True):
            if table.num_rows:
                self._held[name].append(table)
                self._rows += table.num_rows
                self._unwritten += table.num_rows
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
        elif self._unwritten >= _WRITTEN_ROWS:
            self._write()

    def flush(self) -> None:
        """End the part."""
        self._write()
        self._written += [self._writer.submit(part.close) for part in self._open.values()]
        self._open = {}
        self._number += 1
        self._rows = 0

    def _write(self) -> None:
        self._wait()  # never more than two of these in memory: one that is written, one that is gathered
        for dataset, tables in self._held.items():
            if tables:
                if dataset not in self._open:
                    part = f"{self.name}-{self._number:05d}"
                    self._open[dataset] = self._lake.open_part(dataset, part, self._batch)
                self._written.append(self._writer.submit(self._open[dataset].add, pa.concat_tables(tables)))
                tables.clear()
        self._unwritten = 0

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


def _of_estate(rows: pa.Table, estate: Estate, files: Mapping[str, SourceFile]) -> pa.Table:
    """Leave out the rows of buckets that the estate does not name.

    Azure's containers have names of their account's own: their rows count where they come from the logs that the estate
    names for the container.
    """
    if next(iter(files.values())).provider is Provider.AZURE:
        return _of_their_sources(rows, estate, files)
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


def _of_their_sources(rows: pa.Table, estate: Estate, files: Mapping[str, SourceFile]) -> pa.Table:
    """Leave out the rows of buckets that the estate does not name, or whose logs, by the estate, lie elsewhere."""
    if not rows.num_rows:
        return rows
    encoded = [rows[name].combine_chunks().dictionary_encode() for name in ("source_file", "bucket")]
    ids, buckets = (column.dictionary.to_pylist() for column in encoded)
    sources = {bucket.bucket: bucket.logs for bucket in estate.buckets if bucket.provider is Provider.AZURE}
    tells = np.array(
        [[any(logs.has(files[file_id]) for logs in sources.get(bucket, ())) for bucket in buckets] for file_id in ids]
    )
    kept = tells[encoded[0].indices.to_numpy(), encoded[1].indices.to_numpy()]
    return rows if kept.all() else rows.filter(pa.array(kept))
