"""The lake: Parquet partitions by day and shard, written beside the published data and swapped in atomically.

Layout, at a local folder or any fsspec URL::

    <lake>/<dataset>/day=YYYY-MM-DD/shard=NNNN.parquet          published
    <lake>/access_events/day=YYYY-MM-DD/<part>.parquet          published, many source files a part
    <lake>/_staging/<batch>/<dataset>/day=.../...parquet        staged: not seen by readers
    <lake>/_staging/<batch>/<dataset>.parts/shard=NNNN/...      pieces that are merged before they are staged
    <lake>/_staging/<batch>/notes/<name>                        small JSON that the tasks of one run share
    <lake>/_artefacts/<kind>/<name>                             what is costly to make again, named by what it hangs on

The same rows give the same bytes whatever order they come in. A kill at any moment leaves whole partitions only:
stage again, publish again, and the batch is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from cloudflux.lake.partition_rows import Part, conform, runs_of, schema_of, slices_of, sort_keys_of, writer_options
from cloudflux.lake.row_groups import ROW_GROUP, RowGroups
from cloudflux.lake.shards import shards_of

Days: TypeAlias = Collection[date] | tuple[date, date]
"""A collection of days, or an inclusive (first, last) range as a tuple of two."""

_SHARD_NAME: Final = re.compile(r"shard=(\d{4,})\.parquet")
_FILE_NAME: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")


class Lake:
    """Datasets of Parquet partitions under one folder or URL."""

    def __init__(self, url: str, shards: int) -> None:
        self.url = url.rstrip("/") or "/"
        self.shards = shards
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._arrow_fs = (
            pyarrow.fs.LocalFileSystem()
            if self._is_local
            else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self._fs))
        )

    # -- staging ---------------------------------------------------------------------------------------------------

    def stage(self, dataset: str, day: date, shard: int, table: pa.Table, batch: str) -> str:
        """Write one partition beside the published data and give its URI.

        The rows are cast to the dataset's schema and sorted. Raises ``ValueError`` naming the dataset and the column
        when a column is missing, has the wrong type, or has a null where none is allowed.
        """
        conformed = conform(dataset, table)
        order = pc.sort_indices(conformed, sort_keys=sort_keys_of(conformed))
        path = f"{self._staging(batch)}/{dataset}/{_day_name(day)}/{_shard_name(shard)}"
        self._write(path, conformed.take(order))
        return self._uri(path)

    def stage_shards(self, dataset: str, table: pa.Table, batch: str) -> list[tuple[date, int]]:
        """Stage a table of any number of days: one partition per day and shard that has rows.

        The bytes are those that ``stage`` writes for the same rows. Gives the partitions, in order.
        """
        conformed = conform(dataset, table)
        keyed = conformed.append_column("__part", pa.array(shards_of(conformed, self.shards)))
        written: list[tuple[date, int]] = []
        for day, shard, rows in slices_of(keyed, conformed):
            self._write(f"{self._staging(batch)}/{dataset}/{_day_name(day)}/{_shard_name(shard)}", rows)
            written.append((day, int(shard)))
        return written

    def stage_rows(self, dataset: str, table: pa.Table, part: str, batch: str) -> list[date]:
        """Stage rows of any number of days as they come: one file named ``part`` per day. Gives the days, in order.

        For what is read by day and replaced by part: the rows keep their order, so the same rows in the same order
        give the same bytes. Columns of text may be dictionaries: they are written as they are, and read as text.
        """
        opened = self.open_part(dataset, part, batch)
        opened.add(table)
        return opened.close()

    def open_part(self, dataset: str, part: str, batch: str) -> Part:
        """Begin a part whose rows come little by little; it is staged when it is closed, as ``stage_rows`` says."""
        if not _FILE_NAME.fullmatch(part):
            raise ValueError(f"{dataset}: {part!r} cannot name a part")

        def put(day: date, content: bytes) -> None:
            self._put(f"{self._staging(batch)}/{dataset}/{_day_name(day)}/{part}.parquet", content)

        return Part(dataset, put)

    def stage_sorted(self, dataset: str, batches: Iterable[pa.RecordBatch], batch: str) -> list[tuple[date, int]]:
        """Stage rows that come sorted by day, shard (a column of its own, the last) and the dataset's keys.

        One partition per day and shard; memory holds one row group. Gives the partitions, in order.
        """
        written: list[tuple[date, int]] = []
        for day, shard, rows in runs_of(batches):
            path = f"{self._staging(batch)}/{dataset}/{_day_name(day)}/{_shard_name(shard)}"
            self._write_stream(path, dataset, (conform(dataset, table) for table in rows))
            written.append((day, shard))
        return written

    def staged_parts(self, dataset: str, batch: str) -> list[tuple[date, str]]:
        """Give (day, name) of what a batch has staged, in order."""
        return [_place_of(path) for path in self._find(f"{self._staging(batch)}/{dataset}")]

    def rewrite_staged(self, dataset: str, batch: str, change: Callable[[pa.Table], pa.Table]) -> None:
        """Replace each staged part by what ``change`` makes of it; one that nothing is left of goes."""
        for path in self._find(f"{self._staging(batch)}/{dataset}"):
            table = self._dataset(dataset, [path]).to_table()
            changed = change(table)
            if not changed.num_rows:
                self._fs.rm_file(path)
            elif changed.num_rows < table.num_rows:
                self._write(path, changed, dataset)

    def remove_rows(
        self,
        dataset: str,
        days: Collection[date],
        source_files: Collection[str],
        keep: Collection[tuple[date, str]] = (),
    ) -> int:
        """Delete the published rows of some source files on some days; gives how many.

        Each part is replaced by what is left of it, atomically. Parts named in ``keep`` (day, name) are left alone.
        """
        wanted = pa.array(sorted(source_files), pa.string())
        kept = set(keep)
        removed = 0
        for day in sorted(days) if len(wanted) else ():
            for name in self.partitions(dataset, day):
                if (day, name) in kept:
                    continue
                path = f"{self._root}/{dataset}/{_day_name(day)}/{name}.parquet"
                listed = self._dataset(dataset, [path]).to_table(columns=["source_file"])
                gone = pc.is_in(listed["source_file"], wanted)
                count = pc.sum(gone).as_py() or 0
                if count == listed.num_rows:
                    self.delete_partition(dataset, day, name)
                elif count:
                    table = self._dataset(dataset, [path]).to_table()
                    self._write(path, table.filter(pc.invert(gone)), dataset)
                removed += count
        return removed

    def stage_part(self, dataset: str, part: str, table: pa.Table, batch: str) -> None:
        """Write a piece of a partition, split by shard; ``merge_parts`` joins the pieces.

        ``part`` names the piece: writing it again replaces it.
        """
        conformed = conform(dataset, table)
        shards = shards_of(conformed, self.shards)
        for shard in np.unique(shards):
            rows = conformed.filter(pa.array(shards == shard))
            path = f"{self._staging(batch)}/{dataset}.parts/{_shard_name(int(shard))[:-8]}/{_safe_name(part)}.parquet"
            self._write(path, rows)

    def discard_part(self, dataset: str, part_prefix: str, batch: str) -> None:
        """Delete the pieces whose name starts with ``part_prefix``."""
        prefix = _safe_prefix(part_prefix)
        for path in self._find(f"{self._staging(batch)}/{dataset}.parts"):
            if path.rsplit("/", 1)[-1].startswith(prefix):
                self._fs.rm_file(path)

    def merge_parts(self, dataset: str, day: date, batch: str) -> list[tuple[date, int]]:
        """Join the pieces of every shard into staged partitions of one day, one shard in memory at a time."""
        by_shard: dict[int, list[str]] = {}
        for path in self._find(f"{self._staging(batch)}/{dataset}.parts"):
            by_shard.setdefault(int(path.rsplit("/", 2)[-2].removeprefix("shard=")), []).append(path)
        merged: list[tuple[date, int]] = []
        for shard, paths in sorted(by_shard.items()):
            self.stage(dataset, day, shard, self._dataset(dataset, sorted(paths)).to_table(), batch)
            merged.append((day, shard))
        return merged

    def staged(self, dataset: str, batch: str, *, days: Collection[date] | None = None) -> pads.Dataset:
        """Give what a batch has staged, as a dataset with the dataset's schema (empty when nothing is staged)."""
        folder = f"{self._staging(batch)}/{dataset}"
        if days is None:
            return self._dataset(dataset, self._find(folder))
        names = sorted({_day_name(day) for day in days})
        return self._dataset(dataset, [path for name in names for path in self._files(f"{folder}/{name}")])

    def unstage(self, dataset: str, batch: str) -> None:
        """Delete what a batch has staged of one dataset."""
        for path in self._find(f"{self._staging(batch)}/{dataset}"):
            self._fs.rm_file(path)

    def discard_staged(self, batch: str) -> None:
        """Delete all that a batch has staged; its notes stay."""
        for path in self._find(self._staging(batch)):
            self._fs.rm_file(path)

    def discard(self, batch: str) -> None:
        """Delete all that a batch has staged and noted."""
        path = self._staging(batch)
        if self._is_local:
            shutil.rmtree(path, ignore_errors=True)
        elif self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    # -- notes -----------------------------------------------------------------------------------------------------

    def note(self, batch: str, name: str, content: Any) -> str:
        """Write a small JSON value that later tasks of the same run read, and give its URI."""
        path = f"{self._staging(batch)}/notes/{_safe_name(name)}.json"
        self._put(path, json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
        return self._uri(path)

    def noted(self, batch: str, name: str) -> Any | None:
        """Read a note, or None when there is none."""
        try:
            return json.loads(self._fs.cat_file(f"{self._staging(batch)}/notes/{_safe_name(name)}.json"))
        except FileNotFoundError:
            return None

    # -- artefacts -------------------------------------------------------------------------------------------------

    def keep_artefact(self, kind: str, name: str, content: bytes) -> str:
        """Write bytes that any task may make again, all or nothing, and give their URI.

        ``name`` says all that they hang on (a digest), so that whoever finds one by its name may use it.
        """
        path = f"{self._root}/_artefacts/{_safe_name(kind)}/{_safe_name(name)}"
        self._put(path, content)
        return self._uri(path)

    def artefact(self, kind: str, name: str) -> bytes | None:
        """Read an artefact, or None when there is none."""
        path = f"{self._root}/_artefacts/{_safe_name(kind)}/{_safe_name(name)}"
        try:
            content: bytes = self._fs.cat_file(path)
        except FileNotFoundError:
            return None
        return content

    def prune_artefacts(self, kind: str, written_before: datetime) -> list[str]:
        """Delete the artefacts that were written before a moment, and give their names; they can be made again."""
        pruned: list[str] = []
        for path in sorted(self._list(f"{self._root}/_artefacts/{_safe_name(kind)}")):
            try:
                if self._fs.modified(path).astimezone(UTC) < written_before:
                    self._fs.rm_file(path)
                    pruned.append(path.rsplit("/", 1)[-1])
            except FileNotFoundError:  # another task was quicker
                continue
        return pruned

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, dataset: str, batch: str) -> list[tuple[date, int]]:
        """Swap in the staged partitions by day and shard; give those that were swapped in by this call.

        Each partition is replaced atomically. After a kill, publish again: what is still staged follows.
        When nothing is staged (any more) nothing happens and the list is empty.
        """
        return [(day, int(name.removeprefix("shard="))) for day, name in self._publish(dataset, batch)]

    def publish_files(self, dataset: str, batch: str) -> list[tuple[date, str]]:
        """Swap in the staged partitions by day and source file; give those that were swapped in by this call."""
        return self._publish(dataset, batch)

    def _publish(self, dataset: str, batch: str) -> list[tuple[date, str]]:
        schema_of(dataset)
        published: list[tuple[date, str]] = []
        for path in self._find(f"{self._staging(batch)}/{dataset}"):
            day_name, name = path.rsplit("/", 2)[-2:]
            target = f"{self._root}/{dataset}/{day_name}/{name}"
            if self._is_local:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            else:
                # An object store has no rename: the copy shows up whole or not at all, and the staged one goes last.
                self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                self._fs.cp_file(path, target)
                self._fs.rm_file(path)
            published.append((_day_of(day_name), name.removesuffix(".parquet")))
        return published

    def delete_partition(self, dataset: str, day: date, partition: int | str) -> None:
        """Delete one published partition, by shard number or source file; nothing happens when it is not there."""
        schema_of(dataset)
        name = _shard_name(partition) if isinstance(partition, int) else f"{partition}.parquet"
        folder = f"{self._root}/{dataset}/{_day_name(day)}"
        try:
            self._fs.rm_file(f"{folder}/{name}")
        except FileNotFoundError:
            return
        if self._is_local and not os.listdir(folder):
            os.rmdir(folder)

    def keep_only(self, dataset: str, days: Collection[date], partitions: Collection[tuple[date, int]]) -> None:
        """Delete the shards of these days that are not among ``partitions``, in which a rewrite left nothing."""
        kept = set(partitions)
        for day in days:
            for shard in self.published_shards(dataset, day):
                if (day, shard) not in kept:
                    self.delete_partition(dataset, day, shard)

    # -- reading ---------------------------------------------------------------------------------------------------

    def dataset(
        self,
        dataset: str,
        *,
        days: Days | None = None,
        shard: int | None = None,
        parts: Callable[[date, str], bool] | None = None,
    ) -> pads.Dataset:
        """Give the published rows as a lazy dataset, so that DuckDB or Arrow can stream them.

        ``parts`` chooses partitions by their day and name.
        """
        paths = self._published(dataset, days, shard)
        if parts is not None:
            paths = [path for path in paths if parts(*_place_of(path))]
        return self._dataset(dataset, paths)

    def read(
        self,
        dataset: str,
        *,
        days: Days | None = None,
        shard: int | None = None,
        columns: list[str] | None = None,
    ) -> pa.Table:
        """Read published rows; a (first, last) tuple is an inclusive range of days.

        Gives an empty table with the dataset's schema when nothing is there.
        """
        return self.dataset(dataset, days=days, shard=shard).to_table(columns=columns)

    def partitions(self, dataset: str, day: date) -> list[str]:
        """Give the names of one day's published partitions, e.g. ``shard=0003`` or a source file's id."""
        schema_of(dataset)
        names = (path.rsplit("/", 1)[-1] for path in self._files(f"{self._root}/{dataset}/{_day_name(day)}"))
        return sorted(name.removesuffix(".parquet") for name in names)

    def published_shards(self, dataset: str, day: date) -> list[int]:
        """Give the numbers of one day's published shards."""
        return [int(name.removeprefix("shard=")) for name in self.partitions(dataset, day)]

    def days(self, dataset: str) -> list[date]:
        """Give the days that have published partitions, in order."""
        schema_of(dataset)
        if self._is_local:
            root = f"{self._root}/{dataset}"
            return [_day_of(name) for name in self._day_names(dataset) if self._files(f"{root}/{name}")]
        return sorted({_day_of(path.rsplit("/", 2)[-2]) for path in self._find(f"{self._root}/{dataset}")})

    def latest_day(self, dataset: str) -> date | None:
        """Give the last day that has published partitions, or None."""
        root = f"{self._root}/{dataset}"
        schema_of(dataset)
        for name in reversed(self._day_names(dataset)):
            if self._files(f"{root}/{name}"):
                return _day_of(name)
        return None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _published(self, dataset: str, days: Days | None, shard: int | None) -> list[str]:
        schema_of(dataset)
        root = f"{self._root}/{dataset}"
        if days is None:
            names = self._day_names(dataset)
        elif isinstance(days, tuple) and len(days) == 2:
            first, last = (_day_name(day) for day in days)
            names = [name for name in self._day_names(dataset) if first <= name <= last]
        else:
            names = sorted({_day_name(day) for day in days})
        paths = [path for name in names for path in self._files(f"{root}/{name}")]
        if shard is None:
            return paths
        wanted = _shard_name(shard)
        return [path for path in paths if path.endswith(f"/{wanted}")]

    def _day_names(self, dataset: str) -> list[str]:
        names = (path.rsplit("/", 1)[-1] for path in self._list(f"{self._root}/{dataset}"))
        return sorted(name for name in names if name.startswith("day="))

    def _files(self, folder: str) -> list[str]:
        return sorted(path for path in self._list(folder) if path.endswith(".parquet"))

    def _list(self, folder: str) -> list[str]:
        if self._is_local:
            try:
                return [f"{folder}/{name}" for name in os.listdir(folder)]
            except FileNotFoundError:
                return []
        self._fs.invalidate_cache(folder)  # s3fs and adlfs remember listings; another task may have published since
        try:
            return [str(path).rstrip("/") for path in self._fs.ls(folder, detail=False)]
        except FileNotFoundError:
            return []

    def _find(self, folder: str) -> list[str]:
        """Give the Parquet files below ``folder``, in order of their paths."""
        return sorted(self._walk(folder))

    def _walk(self, folder: str) -> Iterator[str]:
        if self._is_local:
            for parent, _, names in os.walk(folder):
                yield from (f"{parent}/{name}" for name in names if name.endswith(".parquet"))
            return
        self._fs.invalidate_cache(folder)
        yield from (path for path in self._fs.find(folder) if path.endswith(".parquet"))

    def _dataset(self, dataset: str, paths: list[str]) -> pads.Dataset:
        schema = schema_of(dataset)
        if not paths:
            return pads.dataset(schema.empty_table())
        return pads.dataset(paths, schema=schema, format="parquet", filesystem=self._arrow_fs)

    def _staging(self, batch: str) -> str:
        return f"{self._root}/_staging/{_safe_name(batch)}"

    def _uri(self, path: str) -> str:
        return path if self._is_local else str(self._fs.unstrip_protocol(path))

    def _write(self, path: str, table: pa.Table, dataset: str = "") -> None:
        # One chunk a column: the writer's pages follow the chunks, and the same rows have to give the same bytes.
        buffer = io.BytesIO()
        pq.write_table(table.combine_chunks(), buffer, row_group_size=ROW_GROUP, **writer_options(dataset))
        self._put(path, buffer.getvalue())

    def _write_stream(self, path: str, dataset: str, tables: Iterable[pa.Table]) -> None:
        """Write rows in groups of one size, however they come."""
        buffer = io.BytesIO()
        with RowGroups(buffer, schema_of(dataset), **writer_options(dataset)) as groups:
            for table in tables:
                groups.add(table)
        self._put(path, buffer.getvalue())

    def _put(self, path: str, content: bytes) -> None:
        if not self._is_local:
            self._fs.pipe_file(path, content)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid.uuid4().hex}.part")
        partial.write_bytes(content)
        os.replace(partial, target)


def _day_name(day: date) -> str:
    return f"day={day.isoformat()}"


def _place_of(path: str) -> tuple[date, str]:
    """Give the day and the name of a partition's file."""
    day, name = path.rsplit("/", 2)[-2:]
    return _day_of(day), name.removesuffix(".parquet")


def _day_of(name: str) -> date:
    return date.fromisoformat(name.removeprefix("day="))


def _shard_name(shard: int) -> str:
    return f"shard={shard:04d}.parquet"


def _safe_prefix(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_=-]", "_", name)


def _safe_name(name: str) -> str:
    """Turn any text (an Airflow run id has colons and plus signs) into one path segment, without collisions."""
    safe = _safe_prefix(name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
