"""From log files to numbered lines, and from parsed lines to access events and quarantine rows.

All formats share this: unpacking, decoding, line numbers, the bounds of plausible times and sizes, the quarantine.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from cloudflux.domain.source_files import SourceFile
from cloudflux.lake.schemas import ACCESS_EVENTS, QUARANTINE

__all__ = ["LogFiles", "ParsedFile", "SourceFile", "parsed_file", "read_lines"]

LogFiles: TypeAlias = Sequence[tuple[SourceFile, bytes]]
"""Log files of one format with their content."""

RAW_CHARACTERS: Final = 2000
"""How much of a bad line is kept in quarantine."""
MAX_UNPACKED_BYTES: Final = 1 << 30
"""A gzip file may not grow beyond this."""
MAX_BYTES_SENT: Final = 1 << 50
"""More than the largest object of any provider (S3: 50 TB)."""
FIRST_AT: Final = datetime(2006, 1, 1, tzinfo=UTC)
"""S3 opened in March 2006: nothing was logged before."""
CLOCK_SKEW: Final = timedelta(days=1)
"""A request cannot be younger than the file that tells of it; a day is left for clocks and time zones."""

_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """What one log file, or a chunk of them, gave."""

    events: pa.Table
    """Schema ``ACCESS_EVENTS``."""
    quarantine: pa.Table
    """Schema ``QUARANTINE``."""
    lines: int
    """Records found, good and bad; blank lines and headers are none."""
    lines_by_file: Mapping[str, int] = field(default_factory=dict)
    """The same by ``file_id``."""


@dataclass(slots=True)
class Lines:
    """The lines of a chunk of files, and what already went wrong with whole files."""

    files: list[SourceFile]
    frame: pl.DataFrame
    """Columns ``file`` (position in ``files``), ``line`` (1-based) and ``text``; without blank lines."""
    whole: list[tuple[int, str, str]]
    """(file, reason, raw) of files that could not be read, or not to their end."""
    binary: set[int]
    """Files with bytes that no text has."""


def read_lines(files: LogFiles) -> Lines:
    """Unpack, decode and split files into numbered lines."""
    texts: list[str] = []
    whole: list[tuple[int, str, str]] = []
    binary: set[int] = set()
    for position, (_, content) in enumerate(files):
        data, reason = _unpacked(content)
        if reason is not None:
            whole.append((position, reason, content[:64].hex(" ")))
        data = data.removeprefix(_BOM)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            # The other lines are read all the same, and the bad bytes stay visible in quarantine.
            text = data.decode("utf-8", "backslashreplace")
            binary.add(position)
        if "\0" in text:
            text = text.replace("\0", "\\x00")  # PostgreSQL stores no NUL
            binary.add(position)
        texts.append(text)
    split = pl.DataFrame({"file": np.arange(len(texts), dtype=np.int64), "text": pl.Series(texts, dtype=pl.String)})
    split = split.with_columns(pl.col("text").str.split("\n"))
    counts = split["text"].list.len().to_numpy().astype(np.int64)
    frame = split.explode("text", empty_as_null=True, keep_nulls=True)
    numbers = np.arange(len(frame), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    frame = frame.with_columns(pl.col("text").str.strip_suffix("\r"), pl.Series("line", numbers)).filter(
        pl.col("text").str.strip_chars() != ""
    )
    return Lines([source for source, _ in files], frame.select("file", "line", "text"), whole, binary)


def _unpacked(content: bytes) -> tuple[bytes, str | None]:
    """Unpack a gzip file as far as it goes; give the reason when that is not to its end."""
    if not content.startswith(_GZIP):
        return content, None
    unpacked: list[bytes] = []
    room = MAX_UNPACKED_BYTES
    rest = content
    while rest.startswith(_GZIP):  # a gzip file may have several members
        stream = zlib.decompressobj(wbits=31)
        try:
            piece = stream.decompress(rest, room)
        except zlib.error:
            return b"".join(unpacked), "gzip: the file is damaged"
        unpacked.append(piece)
        room -= len(piece)
        if stream.unconsumed_tail or room <= 0:
            return b"", f"gzip: more than {MAX_UNPACKED_BYTES} bytes unpacked"
        if not stream.eof:
            return b"".join(unpacked), "gzip: the file ends too early"
        rest = stream.unused_data
    return b"".join(unpacked), "gzip: something follows the last member" if rest.strip(b"\0") else None


def is_excluded(agent: pl.Expr, excluded_agents: Sequence[str]) -> pl.Expr:
    """Tell whether a user agent contains one of the excluded texts, letter case ignored."""
    patterns = [pattern for pattern in excluded_agents if pattern]
    if not patterns:
        return pl.lit(False)
    return agent.str.contains_any(patterns, ascii_case_insensitive=True).fill_null(False)


def plausible(lines: Lines, at: pl.Expr) -> pl.Expr:
    """Give the reason why a time cannot be that of a request in the file that tells of it, or null.

    A junk line with the year 9999 must not make a partition of its own.
    """
    latest = pl.Series([source.last_modified_at + CLOCK_SKEW for source in lines.files], dtype=pl.Datetime("us", "UTC"))
    limit = pl.col("file").replace_strict(
        pl.Series(range(len(lines.files)), dtype=pl.Int64), latest, return_dtype=pl.Datetime("us", "UTC")
    )
    return (
        pl.when(at.is_null())
        .then(pl.lit("the time is not a date"))
        .when(at > limit)
        .then(pl.lit("the time lies after the file's delivery"))
        .when(at < FIRST_AT)
        .then(pl.lit("the time lies before all cloud storage"))
    )


def parsed_file(lines: Lines, records: pl.DataFrame, rejects: pl.DataFrame, *, total: pl.DataFrame) -> ParsedFile:
    """Put together what a format's parser found.

    ``records``: file, line, bucket, key, at, kind, operation, bytes_sent, request_id, excluded. ``rejects``: file,
    line, reason, text. ``total``: one row with its ``file`` for every record, good or bad.
    """
    ids = pl.Series("source_file", [source.file_id for source in lines.files], dtype=pl.String)
    providers = pl.Series("provider", [str(source.provider) for source in lines.files], dtype=pl.String)
    position = records["file"]
    # Without an id a request can only be told from others by where it stands.
    unnamed = pl.col("request_id").is_null() | pl.col("request_id").is_in(["", "-"])
    events = records.with_columns(providers.gather(position), ids.gather(position)).with_columns(
        pl.col("at").dt.date().alias("day"),
        pl.when(unnamed)
        .then(pl.format("{}:{}", "source_file", "line"))
        .otherwise(pl.col("request_id"))
        .alias("request_id"),
    )
    counts = total.group_by("file").agg(pl.len().alias("lines"))
    by_file = dict.fromkeys(ids.to_list(), 0)
    for file, count in counts.iter_rows():
        by_file[ids[file]] += count
    return ParsedFile(
        events=events.select(ACCESS_EVENTS.names).to_arrow().cast(ACCESS_EVENTS),
        quarantine=_quarantine(lines, rejects, {file: int(count) for file, count in counts.iter_rows()}),
        lines=len(total),
        lines_by_file=by_file,
    )


def _quarantine(lines: Lines, rejects: pl.DataFrame, totals: Mapping[int, int]) -> pa.Table:
    rejects = rejects.select("file", "line", "reason", "text")
    # A binary file without one good line is one thing that went wrong, not thousands.
    bad = dict(rejects.group_by("file").agg(pl.len()).iter_rows())
    junk = sorted(file for file in lines.binary if bad.get(file, 0) and bad[file] == totals.get(file, 0))
    first = rejects.filter(pl.col("file").is_in(junk)).unique("file", keep="first", maintain_order=True)
    schema = {"file": pl.Int64, "line": pl.Int64, "reason": pl.String, "text": pl.String}
    whole = pl.DataFrame([(file, 0, reason, raw) for file, reason, raw in lines.whole], schema=schema, orient="row")
    rows = pl.concat(
        [
            rejects.filter(~pl.col("file").is_in(junk)).cast(schema),  # type: ignore[arg-type]  # a Schema in all but name
            first.with_columns(line=pl.lit(0), reason=pl.lit("binary data, not a log file")).cast(schema),  # type: ignore[arg-type]
            whole,
        ]
    ).unique(["file", "line"], keep="last", maintain_order=True)
    position = rows["file"]
    columns: dict[str, list[Any]] = {
        "source_file": [source.file_id for source in lines.files],
        "provider": [str(source.provider) for source in lines.files],
        "bucket": [source.bucket for source in lines.files],
        "key": [source.key for source in lines.files],
        "day": [source.last_modified_at.astimezone(UTC).date() for source in lines.files],
    }
    types: dict[str, type[pl.DataType]] = {"day": pl.Date}
    rows = rows.with_columns(
        pl.col("text").str.slice(0, RAW_CHARACTERS).alias("raw"),
        *(
            pl.Series(name, values, dtype=types.get(name, pl.String)).gather(position)
            for name, values in columns.items()
        ),
    )
    return rows.select(QUARANTINE.names).to_arrow().cast(QUARANTINE)
