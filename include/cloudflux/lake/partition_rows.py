"""The rows of partitions: in their dataset's schema and order, cut by day and shard, and written as they come."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.lake.row_groups import RowGroups
from cloudflux.lake.schemas import SCHEMAS, SORT_KEYS


class Part:
    """Rows of any number of days, written as they come: one file a day, which ``put`` takes when all are there."""

    def __init__(self, dataset: str, put: Callable[[date, bytes], None]) -> None:
        self._dataset = dataset
        self._put = put
        self._days: dict[date, tuple[io.BytesIO, RowGroups]] = {}

    def add(self, table: pa.Table) -> None:
        """Write more rows behind those that are there. Raises ``ValueError`` as ``Lake.stage`` does."""
        conformed = conform(self._dataset, table, with_dictionaries=True)
        days = pc.unique(conformed["day"]).to_pylist()
        for day in days:
            rows = conformed if len(days) == 1 else conformed.filter(pc.equal(conformed["day"], pa.scalar(day)))
            if day not in self._days:
                buffer = io.BytesIO()
                self._days[day] = buffer, RowGroups(buffer, schema_of(self._dataset), **writer_options(self._dataset))
            self._days[day][1].add(rows)

    def close(self) -> list[date]:
        """Stage what was added. Gives the days, in order."""
        for day, (buffer, groups) in sorted(self._days.items()):
            groups.close()
            self._put(day, buffer.getvalue())
        return sorted(self._days)


def writer_options(dataset: str) -> dict[str, Any]:
    """Give the writer's options: events are many and read once or twice, so they are packed quickly."""
    options: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "version": "2.6", "store_schema": True}
    if dataset == "access_events":
        repeated = ["provider", "bucket", "key", "day", "kind", "operation", "source_file"]
        options |= {
            "compression_level": 1,
            "use_dictionary": repeated,
            "write_statistics": ["day", "bucket", "key", "request_id"],
        }
        options["store_schema"] = False  # dictionaries in memory are text to who reads
    return options


def runs_of(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[date, int, Iterator[pa.Table]]]:
    """Cut a sorted stream where the day or the shard changes."""
    pieces = (piece for rows in batches for piece in _same(rows))
    for (day, shard), run in groupby(pieces, key=lambda piece: (piece[0], piece[1])):
        yield day, shard, (table for _, _, table in run)


def _same(rows: pa.RecordBatch) -> Iterator[tuple[date, int, pa.Table]]:
    if not rows.num_rows:
        return
    days = rows["day"].cast(pa.int32()).to_numpy()
    shards = rows["shard"].to_numpy()
    starts = np.flatnonzero(np.r_[True, (days[1:] != days[:-1]) | (shards[1:] != shards[:-1])])
    table = pa.Table.from_batches([rows]).drop_columns(["shard"])
    for start, end in zip(starts.tolist(), [*starts.tolist()[1:], rows.num_rows], strict=True):
        yield rows["day"][start].as_py(), int(shards[start]), table.slice(start, end - start)


def schema_of(dataset: str) -> pa.Schema:
    """Give a dataset's schema. Raises ``ValueError`` naming those that there are."""
    try:
        return SCHEMAS[dataset]
    except KeyError:
        raise ValueError(f"the lake has no dataset {dataset!r}: it has {', '.join(SCHEMAS)}") from None


def conform(dataset: str, table: pa.Table, *, with_dictionaries: bool = False) -> pa.Table:
    """Give the columns in the dataset's schema; on demand, dictionaries of a column's type stay what they are."""
    schema = schema_of(dataset)
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{dataset}: the table lacks the columns {', '.join(missing)}")
    columns = []
    fields = []
    for wanted in schema:
        column = table[wanted.name]
        kept = with_dictionaries and pa.types.is_dictionary(column.type) and column.type.value_type == wanted.type
        field = wanted.with_type(column.type) if kept else wanted
        fields.append(field)
        if not field.nullable and column.null_count:
            raise ValueError(f"{dataset}: {column.null_count} rows have no {field.name}")
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            raise ValueError(f"{dataset}: column {field.name} is not {field.type}: {exc}") from exc
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def sort_keys_of(table: pa.Table, first: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Give the sort order: ``first``, the dataset's keys, then every other sortable column as tie-break."""
    dataset = next(name for name, schema in SCHEMAS.items() if schema.equals(table.schema))
    keys = SORT_KEYS[dataset]
    rest = [field.name for field in table.schema if field.name not in keys and not pa.types.is_nested(field.type)]
    return [(name, "ascending") for name in (*first, *keys, *rest)]


def slices_of(keyed: pa.Table, conformed: pa.Table) -> Iterator[tuple[date, Any, pa.Table]]:
    """Sort by day and part, and give each (day, part) with its rows in the partition's order."""
    if not keyed.num_rows:
        return
    order = pc.sort_indices(keyed, sort_keys=sort_keys_of(conformed, ("day", "__part")))
    rows = keyed.take(order)
    days = rows["day"].cast(pa.int32()).to_numpy()
    parts = pc.rank(rows["__part"].combine_chunks(), tiebreaker="dense").to_numpy()
    starts = np.flatnonzero(np.r_[True, (days[1:] != days[:-1]) | (parts[1:] != parts[:-1])])
    lengths = np.diff(np.r_[starts, len(days)])
    firsts = rows.select(["day", "__part"]).take(pa.array(starts))
    rows = rows.drop_columns(["__part"]).combine_chunks()
    for day, part, start, length in zip(
        firsts["day"].to_pylist(), firsts["__part"].to_pylist(), starts.tolist(), lengths.tolist(), strict=True
    ):
        yield day, part, rows.slice(start, length)
