"""From parsed lines to access events, log hours and quarantine rows: what all formats share.

The excluded agents, the bounds of plausible times and sizes, the request ids, the quarantine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cloudflux.access_logs.blocks import Block
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.format_notices import FormatNotice
from cloudflux.lake.schemas import ACCESS_EVENTS, LOG_HOURS, QUARANTINE

RAW_CHARACTERS: Final = 2000
"""How much of a bad line is kept in quarantine."""
FIRST_AT: Final = datetime(2006, 1, 1, tzinfo=UTC)
"""S3 opened in March 2006: nothing was logged before."""
CLOCK_SKEW: Final = timedelta(days=1)
"""A request cannot be younger than the file that tells of it; a day is left for clocks and time zones."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
KIND_NAMES: Final = pa.array(["read", "write", "delete", "tier", "part"])
KIND_CODES: Final = {name: code for code, name in enumerate(KIND_NAMES.to_pylist())}
NO_KIND: Final = -1
"""Of a record that is no access."""

_REPEATED: Final = ("provider", "bucket", "kind", "operation", "source_file")
EVENTS: Final = pa.schema(
    [
        field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.name in _REPEATED else field
        for field in ACCESS_EVENTS
    ]
)
"""``ACCESS_EVENTS``, with the texts of few values as dictionaries: they stay so up to the Parquet file."""


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """What a block of one or more log files gave."""

    events: pa.Table
    """Schema ``EVENTS``, in the order of files and lines."""
    quarantine: pa.Table
    """Schema ``QUARANTINE``."""
    hours: pa.Table
    """Schema ``LOG_HOURS``: all readable records, whatever their operation."""
    lines: int
    """Records found, good and bad; blank lines and headers are none."""
    lines_by_file: Mapping[str, int] = field(default_factory=dict)
    """The same by ``file_id``."""
    notices: tuple[FormatNotice, ...] = ()
    """What the format's parser does not know."""


def joined(parsed: Iterable[ParsedFile]) -> ParsedFile:
    """Join what several blocks gave; the events in the schema ``ACCESS_EVENTS``."""
    blocks = list(parsed)
    lines_by_file: dict[str, int] = {}
    for block in blocks:
        for file_id, lines in block.lines_by_file.items():
            lines_by_file[file_id] = lines_by_file.get(file_id, 0) + lines
    return ParsedFile(
        events=pa.concat_tables([EVENTS.empty_table(), *(block.events for block in blocks)]).cast(ACCESS_EVENTS),
        quarantine=pa.concat_tables([QUARANTINE.empty_table(), *(block.quarantine for block in blocks)]),
        hours=pa.concat_tables([LOG_HOURS.empty_table(), *(block.hours for block in blocks)]),
        lines=sum(block.lines for block in blocks),
        lines_by_file=lines_by_file,
        notices=tuple(dict.fromkeys(notice for block in blocks for notice in block.notices)),
    )


def with_excluded(found: pa.Table, exclusions: Exclusions) -> pa.Table:
    """Put the column ``excluded`` in place of ``agent`` (and ``requester``, where there is one).

    Each distinct text is looked at once: there are few of them, and many patterns.
    """
    excluded = None
    for column, patterns in (("agent", exclusions.agents), ("requester", exclusions.requesters)):
        named = [re.escape(pattern) for pattern in patterns if pattern]
        if column not in found.column_names or not named:
            continue
        texts = found[column].combine_chunks().dictionary_encode()
        listed = pc.match_substring_regex(texts.dictionary, "|".join(named), ignore_case=True)
        these = pc.fill_null(listed.take(texts.indices), False)
        excluded = these if excluded is None else pc.or_(excluded, these)
    if excluded is None:
        excluded = pa.repeat(pa.scalar(False), found.num_rows)
    return found.drop_columns([name for name in ("agent", "requester") if name in found.column_names]).append_column(
        "excluded", excluded
    )


def bounds_of(block: Block) -> tuple[int, int]:
    """Give the times between which a request of any of the block's files is plausible, in microseconds since 1970."""
    latest = min(source.last_modified_at for source in block.files) + CLOCK_SKEW
    return tuple((at - _EPOCH) // timedelta(microseconds=1) for at in (FIRST_AT, latest))  # type: ignore[return-value]  # two


def are_excluded(texts: pa.StringArray, column: str, exclusions: Exclusions) -> npt.NDArray[np.bool_]:
    """Tell which of some distinct texts, agents or requesters, are excluded; shape (texts,)."""
    found = with_excluded(pa.table({column: texts}), exclusions)["excluded"]
    return np.asarray(found.to_numpy(), dtype=np.bool_)


def numbered(numbers: npt.NDArray[np.integer[Any]], texts: pa.StringArray) -> pa.DictionaryArray:
    """Give texts by their numbers as a column; a negative number is a null."""
    codes = pa.array(numbers, pa.int32(), mask=numbers < 0 if numbers.min(initial=0) < 0 else None)
    return pa.DictionaryArray.from_arrays(codes, texts)


def in_order(tables: Iterable[pa.Table]) -> pa.Table:
    """Join records that were found in different ways, in the order of files and lines; texts come as plain strings."""
    plain = [
        pa.table(
            {
                name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
                for name, column in zip(table.column_names, table.columns, strict=True)
            }
        )
        for table in tables
    ]
    joined = pa.concat_tables(plain, promote_options="default")
    return joined.sort_by([("file", "ascending"), ("line", "ascending")])


def assembled(
    block: Block, found: pa.Table, *, further: pa.Table | None = None, notices: Iterable[FormatNotice] = ()
) -> ParsedFile:
    """Put together what a parser found that stays in Arrow: the quick way.

    ``found`` has a row for every record, good or bad: the columns of an access event (``at`` without
    a zone is UTC), ``reason`` where the line is refused, and its ``raw`` text. ``further`` has the columns of
    ``records`` too: what good records tell of beside their own request (the source of a copy).
    """
    counts = found["file"].combine_chunks().value_counts()
    total = dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True))
    good, refused = found, None
    if "reason" in found.column_names and found["reason"].null_count < found.num_rows:
        refused = found.filter(pc.is_valid(found["reason"])).select(["file", "line", "reason", "raw"])
        good = found.filter(pc.is_null(found["reason"]))
    if refused is not None or block.whole:
        empty = pl.DataFrame(schema={"file": pl.Int64, "line": pl.Int64, "reason": pl.String, "raw": pl.String})
        rejects = pl.DataFrame(pl.from_arrow(refused)) if refused is not None else empty
        quarantine = _quarantine(block, rejects.rename({"raw": "text"}), total)
    else:
        quarantine = QUARANTINE.empty_table()
    records = good.filter(pc.is_valid(good["kind"]))
    if further is not None:
        records = pa.concat_tables(
            [
                records.select(further.column_names),
                further.cast(pa.schema([records.schema.field(name) for name in further.column_names])),
            ]
        )
        records = records.sort_by([("file", "ascending"), ("line", "ascending")])
    return ParsedFile(
        events=_events(block, records),
        quarantine=quarantine,
        hours=_hours_of(block, good),
        lines=sum(total.values()),
        lines_by_file=_by_file(block, total),
        notices=tuple(dict.fromkeys(notices)),
    )


def _hours_of(block: Block, good: pa.Table) -> pa.Table:
    at = good["at"].cast(pa.timestamp("us"))
    hour = pc.floor_temporal(at, unit="hour").cast(pa.int64())
    counted = (
        pa.table({"file": good["file"], "bucket": good["bucket"], "at": hour})
        .group_by(["file", "bucket", "at"], use_threads=False)
        .aggregate([([], "count_all")])
    )
    counted = counted.set_column(1, "bucket", counted["bucket"].cast(pa.string()))
    counted = counted.filter(pc.greater(pc.binary_length(counted["bucket"]), 0))
    counted = counted.sort_by([("file", "ascending"), ("bucket", "ascending"), ("at", "ascending")])
    at = counted["at"].cast(pa.timestamp("us"))
    columns = {
        "provider": pa.array([source.provider.value for source in block.files], pa.string()).take(counted["file"]),
        "bucket": counted["bucket"],
        "day": at.cast(pa.date32()),
        "hour": pc.hour(at).cast(pa.int32()),
        "records": counted["count_all"],
        "source_file": pa.array([source.file_id for source in block.files], pa.string()).take(counted["file"]),
    }
    return pa.table([columns[name] for name in LOG_HOURS.names], schema=LOG_HOURS)


def _by_file(block: Block, total: Mapping[int, int]) -> dict[str, int]:
    by_file = dict.fromkeys((source.file_id for source in block.files), 0)
    for place, count in total.items():
        by_file[block.files[place].file_id] += count
    return by_file


def _events(block: Block, records: pa.Table) -> pa.Table:
    records = records.combine_chunks()
    ids = pa.array([source.file_id for source in block.files], pa.string())
    file = records["file"].combine_chunks().cast(pa.int32())
    request_id = records["request_id"].cast(pa.string())
    # Without an id a request can only be told from others by where it stands.
    unnamed = pc.or_kleene(pc.is_null(request_id), pc.is_in(request_id, pa.array(["", "-"])))
    if pc.any(unnamed).as_py():
        places = pc.binary_join_element_wise(ids.take(file), records["line"].cast(pa.string()), ":")
        request_id = pc.if_else(unnamed, places, request_id)
    at = records["at"].cast(pa.timestamp("us", tz="UTC"))
    providers = pa.array([source.provider.value for source in block.files], pa.string()).dictionary_encode()
    columns = {
        "provider": pa.DictionaryArray.from_arrays(providers.indices.take(file), providers.dictionary),
        "at": at,
        "day": at.cast(pa.date32()),
        "request_id": request_id,
        "source_file": pa.DictionaryArray.from_arrays(file, ids),
    }
    return pa.table(
        [
            _as(field.type, columns.get(field.name, records[field.name] if field.name not in columns else None))
            for field in EVENTS
        ],
        schema=EVENTS,
    )


def _as(kind: pa.DataType, column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        return column.cast(pa.string()).dictionary_encode()
    return column if column.type == kind else column.cast(kind)


def _quarantine(block: Block, rejects: pl.DataFrame, totals: Mapping[int, int]) -> pa.Table:
    rejects = rejects.select("file", "line", "reason", "text")
    # A binary file without one good line is one thing that went wrong, not thousands.
    bad = dict(rejects.group_by("file").agg(pl.len()).iter_rows())
    junk = sorted(file for file in block.binary if bad.get(file, 0) and bad[file] == totals.get(file, 0))
    first = rejects.filter(pl.col("file").is_in(junk)).unique("file", keep="first", maintain_order=True)
    schema = pl.Schema({"file": pl.Int64, "line": pl.Int64, "reason": pl.String, "text": pl.String})
    whole = pl.DataFrame(block.whole, schema=schema, orient="row")
    rows = pl.concat(
        [
            rejects.filter(~pl.col("file").is_in(junk)).cast(schema),
            first.with_columns(line=pl.lit(0), reason=pl.lit("binary data, not a log file")).cast(schema),
            whole,
        ]
    ).unique(["file", "line"], keep="last", maintain_order=True)
    position = rows["file"]
    columns: dict[str, list[Any]] = {
        "source_file": [source.file_id for source in block.files],
        "provider": [str(source.provider) for source in block.files],
        "bucket": [source.bucket for source in block.files],
        "key": [source.key for source in block.files],
        "day": [source.last_modified_at.astimezone(UTC).date() for source in block.files],
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
