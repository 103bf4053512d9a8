"""Data files of a report as frames of numbered records: CSV (gzipped or not), ORC and Parquet, a batch at a time.

A file is on the local disk by now. Columns are found by their folded names, so that ``e_tag``, ``ETag`` and ``Etag``
are one; those that no reader wants are never decoded.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.orc as pa_orc
import pyarrow.parquet as pq

from cloudflux.domain.inventory_reports import DamagedFile, DataFormat

BATCH_ROWS: Final = 131_072
RAW_CHARACTERS: Final = 2000
_CSV_BLOCK_BYTES: Final = 16 << 20
"""Also the longest record: keys have 1,024 characters, metadata and tags some thousands."""
_HEAD_BYTES: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_MARK: Final = "\ufdd0"
"""A noncharacter of Unicode: text that programs exchange has none."""
_DAMAGE: Final = (OSError, EOFError, zlib.error, pa.ArrowException)
"""What the libraries raise for a file that is cut off, garbled, or of another format."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that has no columns to speak of."""

    record: int
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records of a data file."""

    frame: pl.DataFrame
    """The wanted columns by their folded names, text in a CSV, where empty text is null; ``record`` is the record's
    number in the file, from 1, a header counted."""
    broken: tuple[Broken, ...] = ()


@dataclass(frozen=True, slots=True)
class DataFile:
    """An open data file."""

    fields: tuple[str, ...]
    """Its columns in their order, by the names that it gives."""
    _batches: Callable[[Sequence[str]], Iterator[Batch]]

    def batches(self, wanted: Collection[str]) -> Iterator[Batch]:
        """Read the columns whose folded names are wanted. Raises ``DamagedFile``."""
        names = [field for field in self.fields if fold(field) in wanted]
        folded = [fold(name) for name in names]
        if len(set(folded)) < len(folded):
            doubled = sorted({name for name in names if folded.count(fold(name)) > 1})
            raise DamagedFile(f"columns are there twice: {', '.join(doubled)}")
        try:
            yield from self._batches(names)
        except _DAMAGE as exc:
            raise DamagedFile(_first_line(exc)) from exc


def fold(name: str) -> str:
    """Give a column's name without case and separators: the providers spell theirs differently in each format."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def open_csv(path: Path, fields: Sequence[str], *, header: bool | None, delimiter: str | None) -> DataFile:
    """Open a CSV whose columns are ``fields``, or those of its own header.

    ``header`` None: the first record is a header when it names all ``fields``, or when none are given. ``delimiter``
    None: what follows the first column's name in the header, else a comma. Raises ``DamagedFile``.
    """
    try:
        with _bytes_of(path) as stream:
            head = stream.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
    except _DAMAGE as exc:
        raise DamagedFile(_first_line(exc)) from exc
    first = head.splitlines()[0].decode("utf-8", "replace") if head.strip() else ""
    if delimiter is None:
        found = re.match(r'"?[A-Za-z0-9_-]+"?([^A-Za-z0-9_"-])', first)
        delimiter = found[1] if found and header is not False else ","
    names = next(csv.reader([first], delimiter=delimiter), [])
    if header is None:
        header = not fields or {fold(name) for name in names} >= {fold(field) for field in fields}
    columns = tuple(names) if header else tuple(fields)
    if not columns:
        raise DamagedFile("it is empty, without the header that it should have")
    return DataFile(columns, lambda wanted: _csv_batches(path, columns, wanted, header=header, delimiter=delimiter))


def open_columns(path: Path, data_format: DataFormat) -> DataFile:
    """Open an ORC or Parquet file. Raises ``DamagedFile``."""
    try:
        if data_format is DataFormat.ORC:
            orc = pa_orc.ORCFile(path)
            return DataFile(tuple(orc.schema.names), lambda wanted: _orc_batches(orc, wanted))
        parquet = pq.ParquetFile(path)
        return DataFile(tuple(parquet.schema_arrow.names), lambda wanted: _parquet_batches(parquet, wanted))
    except _DAMAGE as exc:
        raise DamagedFile(_first_line(exc)) from exc


def _bytes_of(path: Path) -> Any:
    with path.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
    plain = pa.OSFile(str(path))
    return pa.CompressedInputStream(plain, "gzip") if packed else plain


def _marked(error: UnicodeError) -> tuple[str, int]:
    """Put a mark and hex digits in the place of bytes that are no text."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(f"{_MARK}{byte:02x}" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("cloudflux-marked", _marked)


class _Text(io.RawIOBase):
    """A file's bytes with all that is no UTF-8 marked: the CSV reader gives up on a record that has such bytes."""

    def __init__(self, source: Any) -> None:
        self.marked = False
        """Whether anything was."""
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8")("cloudflux-marked")
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest and not self._ended:
            piece = self._source.read(_CSV_BLOCK_BYTES if size < 0 else size)
            self._ended = not piece
            if piece.isascii() and not self._decoder.getstate()[0]:
                self._rest = piece
            else:
                text = self._decoder.decode(piece, final=self._ended)
                self.marked = self.marked or _MARK in text
                self._rest = text.encode()
        taken, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        return taken


def _csv_batches(
    path: Path, columns: Sequence[str], wanted: Sequence[str], *, header: bool, delimiter: str
) -> Iterator[Batch]:
    broken: list[Broken] = []

    def skip(row: Any) -> str:
        reason = "too few columns" if row.actual_columns < row.expected_columns else "too many columns"
        broken.append(Broken(row.number, reason, row.text.replace(_MARK, "\\x")[:RAW_CHARACTERS]))
        return "skip"

    # Names of our own: a header may have a name twice in columns that nobody wants.
    places = [str(place) for place in range(len(columns))]
    read = [str(columns.index(name)) for name in wanted]
    record = 1
    with _bytes_of(path) as stream:
        if not header and not stream.read(1):
            return  # a report of an empty bucket
    with _bytes_of(path) as stream:
        text = _Text(stream)
        rows = pa_csv.open_csv(
            pa.PythonFile(text, mode="r"),
            read_options=pa_csv.ReadOptions(column_names=places, use_threads=False, block_size=_CSV_BLOCK_BYTES),
            # A record's number is known to the handler only, and only when one thread reads.
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip, ignore_empty_lines=False
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()),
                include_columns=read,
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
        for batch in rows:
            frame = pl.DataFrame(pl.from_arrow(pa.table(batch).rename_columns([fold(name) for name in wanted])))
            # The reader may be a block ahead: some of what it skipped may follow this batch.
            numbers = _numbers(record, batch.num_rows, [row.record for row in broken])
            record = numbers[-1] + 1 if batch.num_rows else record
            found = [row for row in broken if row.record < record]
            broken[:] = [row for row in broken if row.record >= record]
            frame = frame.insert_column(0, numbers)
            if text.marked:
                marked = frame.select(
                    pl.any_horizontal(pl.exclude("record").str.contains(_MARK, literal=True).fill_null(False))
                ).to_series()
                found += _undecodable(frame, marked)
                frame = frame.filter(~marked)
            if header:
                frame = frame.filter(pl.col("record") > 1)
            blank = pl.all_horizontal(pl.exclude("record").is_null())
            yield Batch(frame.filter(~blank), tuple(found))
    if broken:
        yield Batch(pl.DataFrame(schema={"record": pl.Int64} | dict.fromkeys(map(fold, wanted), pl.String)), (*broken,))


def _numbers(first: int, rows: int, skipped: Sequence[int]) -> pl.Series:
    """Number good records from ``first`` on: the skipped ones have their numbers among them."""
    numbers = pl.int_range(first, first + rows + len(skipped), eager=True).alias("record")
    return numbers.filter(~numbers.is_in(list(skipped))).head(rows) if skipped else numbers


def _undecodable(frame: pl.DataFrame, bad: pl.Series) -> Iterator[Broken]:
    for row in frame.filter(bad).iter_rows(named=True):
        shown = ", ".join(f"{name}={value!r}" for name, value in row.items() if name != "record" and value is not None)
        yield Broken(row["record"], "the text is not UTF-8", shown.replace("\\ufdd0", "\\x")[:RAW_CHARACTERS])


def _parquet_batches(file: pq.ParquetFile, wanted: Sequence[str]) -> Iterator[Batch]:
    record = 1
    # An empty batch too: whoever reads must see that there are no rows.
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(wanted)):
        yield _batch(pa.table(batch), wanted, record)
        record += batch.num_rows


def _orc_batches(file: pa_orc.ORCFile, wanted: Sequence[str]) -> Iterator[Batch]:
    record = 1
    for stripe in range(file.nstripes):
        rows = pa.table(file.read_stripe(stripe, columns=list(wanted)))
        for start in range(0, rows.num_rows, BATCH_ROWS):
            piece = rows.slice(start, BATCH_ROWS)
            yield _batch(piece, wanted, record)
            record += piece.num_rows


def _batch(rows: pa.Table, wanted: Sequence[str], first: int) -> Batch:
    frame, undecodable = _frame(rows.select(list(wanted)).rename_columns([fold(name) for name in wanted]))
    frame = frame.insert_column(0, _numbers(first, frame.height, ()))
    found = tuple(_undecodable(frame, undecodable))
    return Batch(frame.filter(~undecodable) if found else frame, found)


def _frame(rows: pa.Table) -> tuple[pl.DataFrame, pl.Series]:
    """Give the columns with bytes decoded, and which rows have bytes that are no text (escaped in them)."""
    bad = pl.repeat(False, rows.num_rows, dtype=pl.Boolean, eager=True)
    for place, field in enumerate(rows.schema):
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            text, mask = _decoded(rows.column(place))
            rows = rows.set_column(place, pa.field(field.name, pa.string()), text)
            bad = bad if mask is None else bad | mask
    return pl.DataFrame(pl.from_arrow(rows)), bad


def _decoded(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pl.Series | None]:
    try:
        return column.cast(pa.string()), None
    except pa.ArrowInvalid:
        pass
    # One value at a time, but only in a batch that has junk in it.
    text: list[str | None] = []
    bad: list[bool] = []
    for value in column.to_pylist():
        shown = None if value is None else value.decode("utf-8", "backslashreplace")
        text.append(shown)
        bad.append(shown is not None and shown.encode() != value)
    return pa.chunked_array([pa.array(text, pa.string())]), pl.Series(bad, dtype=pl.Boolean)


def _first_line(exc: BaseException) -> str:
    return next(iter(str(exc).splitlines()), type(exc).__name__)
