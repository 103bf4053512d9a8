"""Google Cloud Storage Insights inventory reports: CSV in shards, and Parquet.

Follows https://docs.cloud.google.com/storage/docs/insights/inventory-reports and the resource ``ReportConfig``
(https://docs.cloud.google.com/storage/docs/insights/v1/reportConfig): shards and manifest lie in the destination's
folder as ``<configuration>_<time>_<shard>.csv`` and ``<configuration>_<time>_manifest.json``; the manifest is written
after the shards that it names. There is no checksum: its number of records is compared with what was read.

- ``timeDeleted`` tells old generations from live objects, so that a report without it cannot be used.
- Without ``timeStorageClassUpdated`` an object has been in its class since it was created: a generation that was
  rewritten into another class is a new one.
- Holds are no fields of a report; they are read where one has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import polars as pl

from cloudflux.domain.format_notices import FormatNotice
from cloudflux.domain.inventory_reports import (
    DataFormat,
    InventoryReport,
    OtherBucketsReport,
    ReportFile,
    UnusableReport,
)
from cloudflux.domain.tiers import Provider
from cloudflux.inventories.manifests import instant_of, json_object, number_of, object_in
from cloudflux.inventories.rows import (
    ELSEWHERE,
    LIVE,
    NONCURRENT,
    Cells,
    Column,
    Reading,
    ReportRows,
    check_columns,
    column_notices,
    order_notices,
    read_rows,
)
from cloudflux.inventories.tables import DataFile, open_columns, open_csv

PROVIDER: Final = Provider.GCP
FORMAT: Final = "gcs_insights"

_MANIFEST: Final = re.compile(
    r"(?:^|/)(?P<configuration>[^/]+)_(?P<day>\d{4}-\d\d-\d\d)T(?P<time>\d\d[:_-]?\d\d(?:[:_-]?\d\d)?)Z?_manifest\.json"
)
_COLUMNS: Final = (
    Column("bucket"),
    Column("name", required=True),
    Column("size", required=True),
    Column("storageClass", required=True),
    Column("etag", required=True),
    Column("updated", required=True),
    Column("timeDeleted", required=True),
    Column("timeCreated", without="the time of the last update stands for it"),
    Column("timeStorageClassUpdated", without="objects count as being in their class since they were created"),
    Column("generation", without="an object is told from a later one of its name by its ETag alone"),
    Column("contentType", without="the content type is unknown"),
    Column("retentionExpirationTime", without="a lock is seen only when the object is about to move"),
    Column("temporaryHold"),
    Column("eventBasedHold"),
)
_OTHERS: Final = ("project", "location", "crc32c", "md5Hash", "metageneration", "contentEncoding")
"""Columns that Storage Insights offers and nobody needs here."""
_ADVICE: Final = "add {} to the metadata fields of the inventory report configuration"
_NAMES: Final = {
    "key": "name",
    "size_bytes": "size",
    "storage_class": "storageClass",
    "etag": "etag",
    "last_modified_at": "updated",
    "class_since_at": "timeStorageClassUpdated",
}


def taken_at(key: str, bucket: str) -> datetime | None:
    """Tell when the report was taken whose manifest ``key`` may be; None when it is no manifest.

    The name tells no bucket.
    """
    found = _MANIFEST.search(key)
    if found is None or found.end() != len(key):
        return None
    digits = re.sub(r"\D", "", found["time"]).ljust(6, "0")
    try:
        return datetime.strptime(f"{found['day']} {digits}", "%Y-%m-%d %H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def configuration(manifest: str) -> str:
    """Give the UUID of the configuration that a manifest's report was made by."""
    found = _MANIFEST.search(manifest)
    return found["configuration"] if found else ""


def scope(manifest: str, content: bytes, bucket: str) -> str:
    """Tell which objects of the bucket a report lists: always all, there is no filter but the bucket."""
    return ""


def checksum_key(manifest: str) -> str | None:
    """Name the file with the manifest's MD5: there is none."""
    return None


def read_manifest(holder: str, manifest: str, content: bytes, bucket: str) -> InventoryReport:
    """Read the manifest of a report that lies in ``holder`` and tells of ``bucket``. Raises ``UnusableReport``."""
    told = json_object(content)
    configuration = object_in(told, "report_config", "reportConfig")
    options = object_in(configuration, "object_metadata_report_options", "objectMetadataReportOptions")
    source = object_in(options, "storage_filters", "storageFilters").get("bucket")
    if source not in (None, bucket):
        raise OtherBucketsReport(f"it is a report of bucket {source!r}")
    names = told.get("report_shards_file_names")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UnusableReport("the manifest has no list of report_shards_file_names")
    count = number_of(told.get("shard_count"))
    if count is not None and count != len(names):
        raise UnusableReport(f"the manifest counts {count} shards and names {len(names)}")
    snapshot_at = instant_of(told.get("snapshot_time")) or taken_at(manifest, bucket)
    if snapshot_at is None:
        raise UnusableReport("neither its name nor its snapshot_time tells when it was taken")
    folder = manifest.rpartition("/")[0]
    # A name may be a whole address; it always lies beside its manifest.
    keys = [f"{folder}/{name.rpartition('/')[2]}".removeprefix("/") for name in names]
    csv = object_in(configuration, "csv_options", "csvOptions")
    fields = options.get("metadata_fields", options.get("metadataFields"))
    delimiter = csv.get("delimiter") or None
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1):
        raise UnusableReport(f"its delimiter {delimiter!r} is not one character")
    return InventoryReport(
        provider=PROVIDER,
        format=FORMAT,
        bucket=holder,
        manifest=manifest,
        taken_at=snapshot_at,
        data_format=_data_format(keys, is_parquet=not {"parquet_options", "parquetOptions"}.isdisjoint(configuration)),
        files=tuple(ReportFile(key) for key in keys),
        fields=tuple(str(field) for field in fields) if isinstance(fields, list) else (),
        rows=number_of(told.get("records_processed")),
        delimiter=delimiter,
        configuration=str(configuration.get("display_name") or configuration.get("displayName") or ""),
    )


def _data_format(keys: list[str], *, is_parquet: bool) -> DataFormat:
    endings = {key.rpartition(".")[2].lower() for key in keys}
    if endings == {"parquet"} or (is_parquet and "csv" not in endings):
        return DataFormat.PARQUET
    if "parquet" in endings:
        raise UnusableReport("its shards are of different formats")
    return DataFormat.CSV


def check(report: InventoryReport, previous: tuple[str, ...]) -> list[FormatNotice]:
    """Notice what is new in a manifest against the columns of the report before.

    Raises ``TerminalError`` when a column is missing that a snapshot needs.
    """
    if report.fields:
        check_columns(report, report.fields, _COLUMNS, _ADVICE)
    return order_notices(report, previous)


def open_file(report: InventoryReport, path: Path) -> DataFile:
    """Open a data file that was fetched to ``path``. Raises ``DamagedFile``."""
    if report.data_format is DataFormat.CSV:
        # The header is a choice of the configuration, so that the first record itself has to tell.
        return open_csv(path, report.fields, header=None, delimiter=report.delimiter)
    return open_columns(path, report.data_format)


def notices(report: InventoryReport, file: ReportFile, fields: tuple[str, ...]) -> list[FormatNotice]:
    """Notice what is new in a data file's columns. Raises ``TerminalError`` when one that is needed is missing."""
    check_columns(report, fields, _COLUMNS, _ADVICE)
    return column_notices(report, file.key, fields, _COLUMNS, _OTHERS)


def rows(report: InventoryReport, file: ReportFile, data: DataFile, *, bucket: str, day: date) -> Iterator[ReportRows]:
    """Map the records of an open data file. Raises ``DamagedFile``."""
    return read_rows(
        report,
        file,
        data,
        lambda frame: (frame, _reading(Cells(frame), bucket, day)),
        [column.name for column in _COLUMNS],
        bucket=bucket,
        day=day,
    )


def _reading(cells: Cells, bucket: str, day: date) -> Reading:
    source = cells.text("bucket")
    updated, created, deleted = cells.instant("updated"), cells.instant("timeCreated"), cells.instant("timeDeleted")
    moved, until = cells.instant("timeStorageClassUpdated"), cells.instant("retentionExpirationTime")
    held, event_held = cells.flag("temporaryHold"), cells.flag("eventBasedHold")
    return Reading(
        kind=pl.when(source.is_not_null() & (source != bucket))
        .then(pl.lit(ELSEWHERE))
        .when(deleted.is_not_null())
        .then(pl.lit(NONCURRENT))
        .otherwise(pl.lit(LIVE)),
        size_bytes=cells.number("size"),
        columns={
            "key": cells.text("name"),
            "version_id": cells.text("generation"),
            "storage_class": cells.text("storageClass"),
            "etag": cells.text("etag").str.strip_chars('"'),
            "last_modified_at": updated,
            "class_since_at": moved.fill_null(created).fill_null(updated),
            "content_type": cells.text("contentType"),
            "lock_reason": pl.when(held.fill_null(False))
            .then(pl.lit("temporary hold"))
            .when(event_held.fill_null(False))
            .then(pl.lit("event-based hold"))
            .when(until > datetime(day.year, day.month, day.day, tzinfo=UTC))
            .then(pl.concat_str(pl.lit("retention until "), until.dt.strftime("%Y-%m-%d %H:%M UTC"))),
        },
        problems=(
            (cells.unreadable("timeDeleted", deleted), "timeDeleted is not a time"),
            (cells.unreadable("timeCreated", created), "timeCreated is not a time"),
            (cells.unreadable("timeStorageClassUpdated", moved), "timeStorageClassUpdated is not a time"),
            (cells.unreadable("retentionExpirationTime", until), "retentionExpirationTime is not a time"),
            (cells.unreadable("temporaryHold", held), "temporaryHold is neither true nor false"),
            (cells.unreadable("eventBasedHold", event_held), "eventBasedHold is neither true nor false"),
        ),
        names=_NAMES,
    )
