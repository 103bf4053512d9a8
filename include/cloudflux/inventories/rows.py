"""From records of any report to rows of the lake's inventory: what every reader shares.

A reader says in expressions what each column is and which records count; here they are checked, mapped and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import polars as pl
import pyarrow as pa

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.inventory_reports import InventoryReport, ReportFile
from cloudflux.domain.objects import MAX_OBJECT_BYTES
from cloudflux.domain.tiers import TIER_OF, Tier
from cloudflux.inventories.tables import RAW_CHARACTERS, Batch, Broken, DataFile, fold
from cloudflux.lake.schemas import INVENTORY, QUARANTINE

LIVE: Final = "live"
"""A live object: a row of the inventory."""
NONCURRENT: Final = "noncurrent"
"""An old version, a snapshot, a deleted object that is still billed: counted apart."""
IGNORED: Final = "ignored"
"""A delete marker or a folder: nothing is stored there."""
ELSEWHERE: Final = "elsewhere"
"""An object of another bucket: an Azure rule lists all containers of an account."""

QUARANTINED_OF_A_FILE: Final = 100_000
"""More bad rows of one file are counted and not kept one by one: such a report is refused anyway unless it is huge."""
_NAME_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a reader uses."""

    name: str
    """The provider's name for it."""
    required: bool = False
    without: str | None = None
    """What holds when it is missing, in a sentence for the notice; None when its absence is nothing to tell of."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a batch's records mean, as expressions over the columns' folded names."""

    kind: pl.Expr
    """``LIVE``, ``NONCURRENT``, ``IGNORED`` or ``ELSEWHERE``; never null."""
    size_bytes: pl.Expr
    columns: Mapping[str, pl.Expr]
    """key, version_id, storage_class, etag, last_modified_at, class_since_at, content_type, lock_reason."""
    problems: Sequence[tuple[pl.Expr, str]]
    """(condition, reason) for records of any kind but those of elsewhere: no sense can be made of them."""
    names: Mapping[str, str]
    """What the report calls key, size_bytes, storage_class, etag, last_modified_at, class_since_at: for reasons."""


@dataclass(frozen=True, slots=True)
class ReportRows:
    """What a batch of records gave."""

    objects: pl.DataFrame
    """Live objects, in the columns of ``INVENTORY``."""
    quarantine: pa.Table
    """In the schema ``QUARANTINE``."""
    records: int
    """All records, good, bad and elsewhere."""
    bad: int
    elsewhere: int
    noncurrent_objects: int
    noncurrent_bytes: int
    notices: tuple[FormatNotice, ...] = ()


class Cells:
    """The columns of a batch by the provider's names, as text, numbers, times and flags; null where there is none."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._types = frame.schema

    def has(self, name: str) -> bool:
        """Tell whether the column is there."""
        return fold(name) in self._types

    def text(self, name: str) -> pl.Expr:
        """Give text; empty text is null."""
        if not self.has(name):
            return pl.lit(None, dtype=pl.String)
        column = pl.col(fold(name))
        if self._types[fold(name)] != pl.String:
            return column.cast(pl.String)
        return pl.when(column != "").then(column)

    def number(self, name: str) -> pl.Expr:
        """Give whole numbers; null for text that is none."""
        if not self.has(name):
            return pl.lit(None, dtype=pl.Int64)
        return pl.col(fold(name)).cast(pl.Int64, strict=False)

    def flag(self, name: str) -> pl.Expr:
        """Give true or false; null for text that is neither."""
        if not self.has(name):
            return pl.lit(None, dtype=pl.Boolean)
        column = pl.col(fold(name))
        if self._types[fold(name)] == pl.Boolean:
            return column
        lower = self.text(name).str.to_lowercase()
        return pl.when(lower == "true").then(True).when(lower == "false").then(False)

    def instant(self, name: str) -> pl.Expr:
        """Give UTC times in microseconds: of ISO 8601 text, timestamps, and numbers of milliseconds since 1970."""
        if not self.has(name):
            return pl.lit(None, dtype=pl.Datetime("us", "UTC"))
        column, kind = pl.col(fold(name)), self._types[fold(name)]
        if isinstance(kind, pl.Datetime):
            told = column.dt.cast_time_unit("us")
            return told.dt.replace_time_zone("UTC") if kind.time_zone is None else told.dt.convert_time_zone("UTC")
        if kind.is_integer():
            return pl.from_epoch(column, time_unit="ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
        text = self.text(name)
        zoned = text.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
        bare = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", time_zone="UTC", strict=False)
        return zoned.fill_null(bare)

    def unreadable(self, name: str, parsed: pl.Expr) -> pl.Expr:
        """Tell where a column has something that did not parse."""
        if not self.has(name):
            return pl.lit(False)
        there = self.text(name).is_not_null()
        return there & parsed.is_null()


def check_columns(report: InventoryReport, fields: Iterable[str], known: Sequence[Column], advice: str) -> None:
    """Raise ``TerminalError`` when a required column is missing, saying what to switch on in the configuration."""
    there = {fold(field) for field in fields}
    missing = [column.name for column in known if column.required and fold(column.name) not in there]
    if missing:
        raise TerminalError(
            f"inventory report {report.uri} has no {' and no '.join(missing)}: {advice.format(', '.join(missing))}"
        )


def column_notices(
    report: InventoryReport, source: str, fields: Sequence[str], used: Sequence[Column], others: Sequence[str]
) -> list[FormatNotice]:
    """Notice columns that the reader does not know, and optional ones that are missing."""
    there = {fold(field) for field in fields}
    known = {fold(column.name) for column in used} | {fold(name) for name in others}
    new = [
        _notice(report, NoticeKind.NEW_FIELD, field, "the column is not read", source)
        for field in dict.fromkeys(fields)
        if fold(field) not in known
    ]
    missing = [
        _notice(report, NoticeKind.MISSING_FIELD, column.name, column.without, source)
        for column in used
        if column.without is not None and fold(column.name) not in there
    ]
    return new + missing


def order_notices(report: InventoryReport, previous: Sequence[str]) -> list[FormatNotice]:
    """Notice what differs between the columns of a manifest and of the report before (``previous``)."""
    now, before = [fold(field) for field in report.fields], [fold(field) for field in previous]
    if not now or not before or now == before:
        return []
    notices = [
        _notice(report, NoticeKind.NEW_FIELD, field, "it was not in the report before", report.manifest)
        for field in report.fields
        if fold(field) not in before
    ]
    notices += [
        _notice(report, NoticeKind.MISSING_FIELD, field, "it was in the report before", report.manifest)
        for field in previous
        if fold(field) not in now
    ]
    if [field for field in now if field in before] != [field for field in before if field in now]:
        told = f"it was {', '.join(previous)}; columns are read by the manifest's new order"
        notices.append(_notice(report, NoticeKind.CHANGED_ORDER, ", ".join(report.fields), told, report.manifest))
    return notices


def version_notices(report: InventoryReport) -> list[FormatNotice]:
    """Notice a manifest version that the reader does not know."""
    if report.unknown_version is None:
        return []
    told = "the manifest is read as those before"
    return [_notice(report, NoticeKind.UNKNOWN_VERSION, report.unknown_version, told, report.manifest)]


def _notice(report: InventoryReport, kind: NoticeKind, name: str, detail: str | None, source: str) -> FormatNotice:
    return FormatNotice(
        report.provider, report.bucket, report.format, kind, name[:_NAME_CHARACTERS], detail or "", source
    )


class RowMapper:
    """Maps the batches of one data file."""

    def __init__(self, report: InventoryReport, file: ReportFile, bucket: str, day: date) -> None:
        self._report = report
        self._file = file
        self._bucket = bucket
        self._day = day
        self._kept = 0

    def rows(self, batch: Batch, reading: Reading) -> ReportRows:
        """Map one batch: check every record, and put live objects into the inventory's columns."""
        tiers = TIER_OF[self._report.provider]
        mapped = batch.frame.with_columns(
            reading.kind.alias("__kind"),
            reading.size_bytes.alias("__size"),
            *(expression.alias(f"__{name}") for name, expression in reading.columns.items()),
        ).with_columns(_reason(reading).alias("__reason"))
        bad = mapped.filter(pl.col("__reason").is_not_null())
        good = mapped if bad.is_empty() else mapped.filter(pl.col("__reason").is_null())
        live = good.filter(pl.col("__kind") == LIVE)
        noncurrent = good.filter(pl.col("__kind") == NONCURRENT)
        columns = {name: pl.col(f"__{name}") for name in reading.columns} | {
            "provider": pl.lit(self._report.provider.value),
            "bucket": pl.lit(self._bucket),
            "size_bytes": pl.col("__size"),
            "tier": pl.col("__storage_class").replace_strict(
                {name: tier.value for name, tier in tiers.items()}, default=Tier.HOT.value, return_dtype=pl.String
            ),
            "day": pl.lit(self._day),
        }
        objects = live.select(columns[name].alias(name) for name in INVENTORY.names)
        raw_names = batch.frame.columns
        return ReportRows(
            objects=objects,
            quarantine=self._quarantine(bad.select(*raw_names, "__reason"), batch.broken),
            records=batch.frame.height + len(batch.broken),
            bad=bad.height + len(batch.broken),
            elsewhere=good.filter(pl.col("__kind") == ELSEWHERE).height,
            noncurrent_objects=noncurrent.height,
            noncurrent_bytes=int(noncurrent["__size"].sum() or 0),
            notices=tuple(self._unknown_classes(objects)),
        )

    def _unknown_classes(self, objects: pl.DataFrame) -> Iterator[FormatNotice]:
        for name in sorted(set(objects["storage_class"].unique()) - set(TIER_OF[self._report.provider])):
            told = "its objects count as hot, and no price is known for the class"
            yield _notice(self._report, NoticeKind.UNKNOWN_CLASS, name, told, self._file.key)

    def _quarantine(self, bad: pl.DataFrame, broken: Sequence[Broken]) -> pa.Table:
        if bad.is_empty() and not broken:
            return QUARANTINE.empty_table()
        room = max(QUARANTINED_OF_A_FILE - self._kept, 0)
        told = [
            Broken(row.pop("record"), row.pop("__reason"), json.dumps(row, default=str, ensure_ascii=False))
            for row in bad.head(room).iter_rows(named=True)
        ]
        rows = sorted([*broken[:room], *told], key=lambda row: row.record)[:room]
        more = bad.height + len(broken) > room > 0
        self._kept += len(rows)
        if more:
            reason = (
                f"more than {QUARANTINED_OF_A_FILE} rows of the file could not be read: the others are only counted"
            )
            rows.append(Broken(0, reason, ""))
        return quarantine_rows(self._report, self._file, rows)


def quarantine_rows(report: InventoryReport, file: ReportFile, rows: Sequence[Broken]) -> pa.Table:
    """Put what could not be read into the schema ``QUARANTINE``."""
    columns: dict[str, Any] = {
        "source_file": [report.file_id(file)] * len(rows),
        "provider": [report.provider.value] * len(rows),
        "bucket": [report.bucket] * len(rows),
        "key": [file.key] * len(rows),
        "line": [row.record for row in rows],
        "reason": [row.reason for row in rows],
        "raw": [row.raw[:RAW_CHARACTERS] for row in rows],
        "day": [report.taken_at.date()] * len(rows),
    }
    return pa.table(columns, schema=QUARANTINE)


def _reason(reading: Reading) -> pl.Expr:
    names = reading.names
    stored = pl.col("__kind").is_in([LIVE, NONCURRENT])
    live = pl.col("__kind") == LIVE
    key, size = pl.col("__key"), pl.col("__size")
    conditions: list[tuple[pl.Expr, str]] = [
        *((condition & (pl.col("__kind") != ELSEWHERE), reason) for condition, reason in reading.problems),
        # What the audit of the snapshot would leave out: here the data file and the row are known.
        (stored & (size.is_null() | (size < 0)), f"{names['size_bytes']} is not a number of bytes"),
        (stored & (size > MAX_OBJECT_BYTES), f"{names['size_bytes']} is more than {MAX_OBJECT_BYTES} bytes"),
        (live & (pl.col("__etag") == ""), f"{names['etag']} is empty"),
        (live & key.is_null(), f"{names['key']} is empty, or not readable"),
        *(
            (live & pl.col(f"__{column}").is_null(), f"{names[column]} is missing, or not readable")
            for column in ("storage_class", "etag", "last_modified_at", "class_since_at")
        ),
    ]
    return pl.coalesce(
        *(pl.when(condition.fill_null(False)).then(pl.lit(reason)) for condition, reason in conditions),
        pl.lit(None, dtype=pl.String),
    )


def read_rows(
    report: InventoryReport,
    file: ReportFile,
    data: DataFile,
    reading_of: Any,
    wanted: Iterable[str],
    *,
    bucket: str,
    day: date,
) -> Iterator[ReportRows]:
    """Map all batches of an open data file; ``reading_of`` gives the ``Reading`` of a batch's frame."""
    mapper = RowMapper(report, file, bucket, day)
    for batch in data.batches({fold(name) for name in wanted}):
        frame, reading = reading_of(batch.frame)
        yield mapper.rows(Batch(frame, batch.broken), reading)
