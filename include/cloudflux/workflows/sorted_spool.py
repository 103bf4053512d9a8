"""Rows that come in batches and are read in order, kept on disk meanwhile: memory holds a few batches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa

_COMPRESSED: Final = pa.ipc.IpcWriteOptions(compression="lz4")
_Bound = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Where a batch lies, and between which rows of the order its own lie."""

    at: int
    first: _Bound
    last: _Bound


class SortedSpool:
    """Batches of rows in a temporary file, to be read by some columns in ascending order, any number of times.

    Batches are kept as runs, each of batches that follow one another in that order; reading merges the runs, and holds
    one batch of each. What a plan's moves come as, the canaries by object and then the others by object, is three runs.
    """

    def __init__(self, schema: pa.Schema, by: Sequence[str]) -> None:
        self.schema = schema
        self._by = list(by)
        self._runs: list[list[_Batch]] = []
        self._file = tempfile.TemporaryFile(prefix="cloudflux-spool-")  # noqa: SIM115  # closed by `__exit__`

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, rows: pa.Table) -> None:
        """Keep some rows, in any order."""
        if not rows.num_rows:
            return
        rows = self._sorted(rows.select(self.schema.names))
        at = self._file.seek(0, 2)
        with pa.ipc.new_stream(self._file, self.schema, options=_COMPRESSED) as stream:
            stream.write_table(rows)
        batch = _Batch(at, self._bound(rows, 0), self._bound(rows, rows.num_rows - 1))
        run = next((run for run in self._runs if run[-1].last <= batch.first), None)
        if run is None:
            self._runs.append([batch])
        else:
            run.append(batch)

    def in_order(self) -> Iterator[pa.Table]:
        """Give all rows in order, in tables of about the size of what was added."""
        left = [list(reversed(run)) for run in self._runs]
        held = [self._read(run.pop()) for run in left]
        while held:
            # up to where the first of the batches that are held ends, nothing can come from those still on disk
            bound = min(self._bound(rows, rows.num_rows - 1) for rows in held)
            cuts = [self._count_up_to(rows, bound) for rows in held]
            yield self._sorted(pa.concat_tables([rows.slice(0, cut) for rows, cut in zip(held, cuts, strict=True)]))
            held = [rows.slice(cut) for rows, cut in zip(held, cuts, strict=True)]
            for number, (rows, run) in enumerate(zip(held, left, strict=True)):
                if not rows.num_rows and run:
                    held[number] = self._read(run.pop())
            kept = [number for number, rows in enumerate(held) if rows.num_rows]
            held, left = [held[number] for number in kept], [left[number] for number in kept]

    def _sorted(self, rows: pa.Table) -> pa.Table:
        return rows.sort_by([(name, "ascending") for name in self._by])

    def _read(self, batch: _Batch) -> pa.Table:
        self._file.seek(batch.at)
        with pa.ipc.open_stream(self._file) as stream:
            return stream.read_all()

    def _bound(self, rows: pa.Table, number: int) -> _Bound:
        # text compares by code points here and by UTF-8 bytes there, which is the same order
        return tuple(rows[name][number].as_py() for name in self._by)

    def _count_up_to(self, rows: pa.Table, bound: _Bound) -> int:
        low, high = 0, rows.num_rows
        while low < high:
            middle = (low + high) // 2
            if self._bound(rows, middle) <= bound:
                low = middle + 1
            else:
                high = middle
        return low
