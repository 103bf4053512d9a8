"""Rows into a Parquet file in row groups of one size, whatever the tables they come in."""

from __future__ import annotations

from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP: Final = 131_072
"""Rows of a group; the last one has what is left."""


class RowGroups:
    """A Parquet file that is written as its rows come: the same rows give the same bytes, however they are cut.

    ``schema`` is that of a file without rows; else the first rows' own is taken, whose texts may be dictionaries.
    ``options`` are those of ``pyarrow.parquet.ParquetWriter``.
    """

    def __init__(self, sink: Any, schema: pa.Schema, **options: Any) -> None:
        self._sink = sink
        self._schema = schema
        self._options = options
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []
        self._rows = 0

    def add(self, rows: pa.Table) -> None:
        """Write all groups that are full now."""
        self._held.append(rows)
        self._rows += rows.num_rows
        full = self._rows - self._rows % ROW_GROUP
        if full:
            table = self._joined()
            self._write(table.slice(0, full))
            self._rows -= full
            # A slice would keep all of the table in memory.
            self._held = [table.slice(full).combine_chunks()] if self._rows else []

    def close(self) -> None:
        """Write what is left, and the file's end."""
        if self._rows or self._writer is None:
            self._write(self._joined() if self._rows else self._schema.empty_table())
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._end()

    def _joined(self) -> pa.Table:
        return pa.concat_tables(self._held).unify_dictionaries()

    def _write(self, rows: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, rows.schema, **self._options)
        for start in range(0, rows.num_rows, ROW_GROUP):
            # One chunk a column: the writer's pages follow the chunks.
            group = rows.slice(start, ROW_GROUP).combine_chunks()
            self._writer.write_table(group, row_group_size=ROW_GROUP)

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
