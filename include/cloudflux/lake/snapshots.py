"""Inventory snapshots of any size: objects staged as sorted runs, and merged shard by shard in bounded memory.

Beside what `partitions` says of the lake's layout::

    <lake>/_staging/<batch>/inventory.runs/<provider>/<bucket>/<run>/shard=NNNN.parquet

A run holds some objects of one bucket, sorted by key, without the columns that all of them share. The merge takes a
range of keys at a time out of all runs of a shard and a bucket, so that its memory does not grow with the number of
objects; the ranges leave no trace in the published bytes.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cloudflux.lake.partitions import Lake
from cloudflux.lake.row_groups import RowGroups
from cloudflux.lake.schemas import INVENTORY
from cloudflux.lake.shards import SHARD_SQL

RANGE_ROWS: Final = 500_000
"""How many objects the merge sorts at once, about."""

_DATASET: Final = "inventory"
_SHARED: Final = ("provider", "bucket", "day")
_RUN: Final = pa.schema([field for field in INVENTORY if field.name not in _SHARED])
_RUN_ROW_GROUP: Final = 16_384
_FEW_VALUES: Final = ["provider", "bucket", "storage_class", "tier", "content_type", "lock_reason", "day"]
"""Columns that a dictionary makes small. For keys and ETags, which all differ, it costs time and space."""


@dataclass(slots=True)
class Merged:
    """What a merge made of one bucket's runs."""

    objects: int = 0
    bytes: int = 0
    doubled: int = 0
    """Rows left out because a later written row has the same key."""


class Snapshots(Lake):
    """The lake, with snapshots staged as runs."""

    def stage_run(self, provider: str, bucket: str, run: str, objects: pl.DataFrame, batch: str) -> None:
        """Write objects of one bucket, in the columns of ``INVENTORY``, as a run; writing it again replaces it.

        Raises ``ValueError`` naming a column that has a null where none is allowed.
        """
        self.discard_runs(batch, provider, bucket, run)
        shards = _shards_of(objects["key"], provider, bucket, self.shards)
        staged = objects.select(_RUN.names).with_columns(shards.alias("__shard"))
        for (shard,), rows in sorted(staged.partition_by("__shard", as_dict=True, include_key=False).items()):
            table = _table(rows.sort("key"), _RUN)
            path = f"{self._runs(batch, provider, bucket)}/{_part(run)}/shard={shard:04d}.parquet"
            with self._writing(path) as sink:
                pq.write_table(
                    table,
                    sink,
                    compression="lz4",
                    row_group_size=_RUN_ROW_GROUP,
                    use_dictionary=[name for name in _FEW_VALUES if name in _RUN.names],
                    write_statistics=["key"],
                )

    def discard_runs(self, batch: str, provider: str, bucket: str, run: str | None = None) -> None:
        """Delete a bucket's runs, or one of them."""
        folder = self._runs(batch, provider, bucket) + (f"/{_part(run)}" if run is not None else "")
        for path in self._find(folder):
            self._fs.rm_file(path)

    def merge_runs(
        self, runs: Iterable[tuple[str, str, str]], day: date, batch: str, *, range_rows: int = RANGE_ROWS
    ) -> tuple[list[tuple[date, int]], dict[tuple[str, str], Merged]]:
        """Join runs (provider, bucket, run) into staged partitions of one day, sorted by provider, bucket and key.

        Of several rows of one key the one that was written last stays. Gives the partitions, and what was merged of
        each (provider, bucket). The bytes depend on the objects alone, not on how they were cut into runs.
        """
        for path in self._find(f"{self._staging(batch)}/{_DATASET}"):
            self._fs.rm_file(path)  # of an attempt that was cut off
        merged: dict[tuple[str, str], Merged] = {}
        by_shard: dict[int, dict[tuple[str, str], list[str]]] = {}
        for provider, bucket, run in sorted(runs):
            merged.setdefault((provider, bucket), Merged())
            for path in self._find(f"{self._runs(batch, provider, bucket)}/{_part(run)}"):
                shard = int(path.rsplit("/", 1)[-1].removeprefix("shard=").removesuffix(".parquet"))
                by_shard.setdefault(shard, {}).setdefault((provider, bucket), []).append(path)
        for shard, buckets in sorted(by_shard.items()):
            path = f"{self._staging(batch)}/{_DATASET}/day={day.isoformat()}/shard={shard:04d}.parquet"
            with self._writing(path) as sink, _Written(sink) as groups:
                for (provider, bucket), paths in sorted(buckets.items()):
                    counts = merged[provider, bucket]
                    for rows in self._ranges(paths, range_rows, counts):
                        counts.objects += rows.height
                        counts.bytes += int(rows["size_bytes"].sum())
                        groups.add(_with_shared(rows, provider, bucket, day))
        return [(day, shard) for shard in sorted(by_shard)], merged

    def _ranges(self, paths: Sequence[str], range_rows: int, counts: Merged) -> Iterator[pl.DataFrame]:
        """Give all rows of sorted runs in the order of their keys, a range of keys at a time."""
        runs = [_SortedRun(partial(self._reading, path)) for path in paths]
        for end in [*_range_ends(runs, range_rows), None]:
            pieces = [piece for run in runs if (piece := run.below(end)).height]
            if not pieces:
                continue
            rows = pieces[0] if len(pieces) == 1 else pl.concat(pieces, rechunk=False).sort("key")
            unique = _last_written(rows)
            counts.doubled += rows.height - unique.height
            yield unique

    def _runs(self, batch: str, provider: str, bucket: str) -> str:
        return f"{self._staging(batch)}/{_DATASET}.runs/{provider}/{_part(bucket)}"

    def _reading(self, path: str) -> Any:
        return pa.OSFile(path) if self._is_local else self._fs.open(path, "rb")

    @contextmanager
    def _writing(self, path: str) -> Generator[Any]:
        """Open a file for writing; in a folder it shows up whole or not at all."""
        if not self._is_local:
            # What is cut off here shows up, but is not read: its task is not done, and the next attempt replaces it.
            with self._fs.open(path, "wb") as sink:
                yield sink
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with pa.OSFile(str(part), "wb") as sink:
                yield sink
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


class _SortedRun:
    """A run's rows, read in the order of their keys; the file is open only meanwhile, for there may be thousands."""

    def __init__(self, reading: Callable[[], Any]) -> None:
        self._reading = reading
        with reading() as source:
            self._metadata = pq.read_metadata(source)
        place = self._metadata.schema.names.index("key")
        self._next = 0
        self._ahead: list[pl.DataFrame] = []
        self.groups: list[tuple[str, int]] = []
        """First key and rows of every row group."""
        for number in range(self._metadata.num_row_groups):
            group = self._metadata.row_group(number)
            statistics = group.column(place).statistics
            # There are none for keys of more than 4 KiB: such a group is read with the one before.
            first = statistics.min if statistics is not None and statistics.has_min_max else ""
            self.groups.append((first, group.num_rows))

    def below(self, end: str | None) -> pl.DataFrame:
        """Take the rows whose keys are below ``end``; all that are left when it is None."""
        last = self._next
        while last < len(self.groups) and (end is None or self.groups[last][0] < end):
            last += 1
        if last > self._next:
            with self._reading() as source:
                file = pq.ParquetFile(source, metadata=self._metadata)
                read = file.read_row_groups(list(range(self._next, last)), use_threads=False)
            self._ahead.append(pl.DataFrame(pl.from_arrow(read)))
            self._next = last
        if not self._ahead:
            return pl.DataFrame(schema=["key"])
        rows = pl.concat(self._ahead)
        taken = rows.height if end is None else int(rows["key"].set_sorted().search_sorted(end, side="left"))
        self._ahead = [rows.slice(taken)] if taken < rows.height else []
        return rows.head(taken)


def _range_ends(runs: Sequence[_SortedRun], range_rows: int) -> Iterator[str]:
    """Cut the keys of all runs into ranges of about ``range_rows`` rows: give the keys at which the next one begins."""
    held = 0
    last = ""
    for first, rows in sorted(group for run in runs for group in run.groups):
        if held and held + rows > range_rows and first > last:
            yield first
            held, last = 0, first
        held += rows


def _last_written(rows: pl.DataFrame) -> pl.DataFrame:
    """Leave one row of each key, in rows that are sorted by key."""
    keys = rows["key"]
    if not (keys == keys.shift(-1)).any():
        return rows
    doubled = keys.is_duplicated()
    order = ["key", "last_modified_at", *(name for name in _RUN.names if name not in ("key", "last_modified_at"))]
    chosen = rows.filter(doubled).sort(order, nulls_last=False).unique("key", keep="last", maintain_order=True)
    return pl.concat([rows.filter(~doubled), chosen]).sort("key")


def _with_shared(rows: pl.DataFrame, provider: str, bucket: str, day: date) -> pa.Table:
    shared = {"provider": pl.lit(provider), "bucket": pl.lit(bucket), "day": pl.lit(day)}
    return _table(rows.select(shared.get(name, pl.col(name)).alias(name) for name in INVENTORY.names), INVENTORY)


def _table(rows: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    for field in schema:
        if not field.nullable and (nulls := rows[field.name].null_count()):
            raise ValueError(f"{_DATASET}: {nulls} rows have no {field.name}")
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)


def _part(name: str) -> str:
    """Turn a name into one path segment: buckets have dots, Azure's ``$web`` a dollar sign. Different names differ."""
    return quote(name, safe="").replace(".", "%2E").replace("%", "=")


def _shards_of(keys: pl.Series, provider: str, bucket: str, shards: int) -> pl.Series:
    """Give every key's shard, as ``lake.shards`` does for rows that have a provider and a bucket each."""
    if shards == 1:
        return pl.zeros(len(keys), dtype=pl.Int64, eager=True)
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("objects", pa.table({"key": keys.to_arrow(compat_level=pl.CompatLevel.oldest())}))
        expression = SHARD_SQL.format(shards=int(shards)).replace("provider", "$provider").replace("bucket", "$bucket")
        found = connection.execute(
            f"SELECT CAST({expression} AS BIGINT) AS shard FROM objects",  # noqa: S608  # an int, and parameters
            {"provider": provider, "bucket": bucket},
        ).fetchnumpy()
    return pl.Series(np.asarray(found["shard"], dtype=np.int64))


class _Written(RowGroups):
    """Objects in row groups; full ones are written by a thread of its own while the next are sorted."""

    def __init__(self, sink: Any) -> None:
        super().__init__(
            sink,
            INVENTORY,
            compression="zstd",
            compression_level=1,
            version="2.6",
            store_schema=True,
            use_dictionary=_FEW_VALUES,
        )
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def _write(self, rows: pa.Table) -> None:
        self._wait()
        self._writing = self._pool.submit(super()._write, rows)

    def _end(self) -> None:
        try:
            self._wait()
        finally:
            self._pool.shutdown()
            super()._end()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None
