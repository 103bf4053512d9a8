"""Amazon S3 Inventory: CSV (gzip, without a header), ORC and Parquet.

Follows https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html and
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html: a report's manifests lie at
``<prefix>/<source bucket>/<configuration>/YYYY-MM-DDTHH-MMZ/``; ``manifest.checksum`` is the MD5 of ``manifest.json``
and is written last. A CSV has the columns of the manifest's ``fileSchema`` in their order, its keys are URL-encoded.

- Without ``VersionId``, ``IsLatest`` and ``IsDeleteMarker`` the configuration lists current versions only: all is live.
- S3 does not tell when an object got into its class: its last write stands for it, as in a live listing.
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
from cloudflux.inventories.manifests import json_object, number_of, objects_in, text_in
from cloudflux.inventories.rows import (
    ELSEWHERE,
    IGNORED,
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
    version_notices,
)
from cloudflux.inventories.tables import DataFile, open_columns, open_csv
from cloudflux.inventories.url_keys import decoded_keys

PROVIDER: Final = Provider.AWS
FORMAT: Final = "s3_inventory"

_MANIFEST: Final = re.compile(
    r"(?:(?P<bucket>[^/]+)/+(?P<configuration>[^/]+)/+|^|/)(?P<at>\d{4}-\d\d-\d\dT\d\d-\d\dZ)/manifest\.json"
)
_VERSION: Final = "2016-11-30"
_LOCKS: Final = "a lock is seen only when the object is about to move"
_COLUMNS: Final = (
    Column("Bucket"),
    Column("Key", required=True),
    Column("VersionId"),
    Column("IsLatest"),
    Column("IsDeleteMarker"),
    Column("Size", required=True),
    Column("LastModifiedDate", required=True),
    Column("ETag", required=True),
    Column("StorageClass", required=True),
    Column("ObjectLockRetainUntilDate", without=_LOCKS),
    Column("ObjectLockMode", without="a retention is named without its mode"),
    Column("ObjectLockLegalHoldStatus", without=_LOCKS),
)
_OTHERS: Final = (
    "IsMultipartUploaded",
    "ReplicationStatus",
    "EncryptionStatus",
    "IntelligentTieringAccessTier",
    "BucketKeyStatus",
    "ChecksumAlgorithm",
    "ObjectAccessControlList",
    "ObjectOwner",
    "LifecycleExpirationDate",
)
"""Columns that S3 offers and nobody needs here."""
_ADVICE: Final = "switch on {} among the optional fields of the bucket's inventory configuration"
_NAMES: Final = {
    "key": "Key",
    "size_bytes": "Size",
    "storage_class": "StorageClass",
    "etag": "ETag",
    "last_modified_at": "LastModifiedDate",
    "class_since_at": "LastModifiedDate",
}


def taken_at(key: str, bucket: str) -> datetime | None:
    """Tell when the report was begun whose manifest ``key`` may be; None when it is no manifest of this bucket."""
    found = _MANIFEST.search(key)
    if found is None or found.end() != len(key) or found["bucket"] not in (None, bucket):
        return None
    try:
        return datetime.strptime(found["at"], "%Y-%m-%dT%H-%MZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def configuration(manifest: str) -> str:
    """Name the configuration that a manifest's report was made by; empty when its key does not tell."""
    found = _MANIFEST.search(manifest)
    return (found["configuration"] or "") if found else ""


def scope(manifest: str, content: bytes, bucket: str) -> str:
    """Tell which objects of the bucket a report lists: reports of one scope stand for one another.

    A manifest does not say whether its configuration lists a prefix only: each configuration is a scope of its own.
    """
    return configuration(manifest)


def checksum_key(manifest: str) -> str | None:
    """Name the file with the manifest's MD5."""
    return manifest.removesuffix(".json") + ".checksum"


def read_manifest(holder: str, manifest: str, content: bytes, bucket: str) -> InventoryReport:
    """Read the manifest of a report that lies in ``holder`` and tells of ``bucket``. Raises ``UnusableReport``."""
    told = json_object(content)
    source = text_in(told, "sourceBucket")
    if source != bucket:
        raise OtherBucketsReport(f"it is a report of bucket {source!r}")
    written = text_in(told, "fileFormat").lower()
    if written not in set(DataFormat):
        raise UnusableReport(f"its data files are {written!r}: choose CSV, ORC or Parquet")
    data_format = DataFormat(written)
    fields = _fields(text_in(told, "fileSchema"), data_format)
    if not fields:
        raise UnusableReport("its fileSchema names no columns")
    created = number_of(told.get("creationTimestamp"))
    begun = taken_at(manifest, bucket)
    if created is None and begun is None:
        raise UnusableReport("neither its name nor its creationTimestamp tells when it was taken")
    version = told.get("version")
    return InventoryReport(
        provider=PROVIDER,
        format=FORMAT,
        bucket=holder,
        manifest=manifest,
        taken_at=begun or datetime.fromtimestamp((created or 0) / 1000, UTC),
        data_format=data_format,
        files=tuple(
            ReportFile(text_in(file, "key"), number_of(file.get("size")), text_in(file, "MD5checksum").lower())
            for file in objects_in(told, "files")
        ),
        fields=fields,
        configuration=configuration(manifest),
        unknown_version=None if version == _VERSION else str(version),
    )


def _fields(schema: str, data_format: DataFormat) -> tuple[str, ...]:
    match data_format:
        case DataFormat.CSV:
            return tuple(name.strip() for name in schema.split(",") if name.strip())
        case DataFormat.ORC:  # struct<bucket:string,key:string,...>
            return tuple(re.findall(r"[<,]\s*(\w+)\s*:", schema))
        case DataFormat.PARQUET:  # message s3.inventory { required binary bucket (UTF8); ...
            return tuple(re.findall(r"\b(?:required|optional)\s+\w+\s+(\w+)", schema))


def check(report: InventoryReport, previous: tuple[str, ...]) -> list[FormatNotice]:
    """Notice what is new in a manifest against the columns of the report before.

    Raises ``TerminalError`` when a column is missing that a snapshot needs.
    """
    check_columns(report, report.fields, _COLUMNS, _ADVICE)
    return [*version_notices(report), *order_notices(report, previous)]


def open_file(report: InventoryReport, path: Path) -> DataFile:
    """Open a data file that was fetched to ``path``. Raises ``DamagedFile``."""
    if report.data_format is DataFormat.CSV:
        return open_csv(path, report.fields, header=False, delimiter=",")
    return open_columns(path, report.data_format)


def notices(report: InventoryReport, file: ReportFile, fields: tuple[str, ...]) -> list[FormatNotice]:
    """Notice what is new in a data file's columns. Raises ``TerminalError`` when one that is needed is missing."""
    check_columns(report, fields, _COLUMNS, _ADVICE)
    return column_notices(report, file.key, fields, _COLUMNS, _OTHERS)


def rows(report: InventoryReport, file: ReportFile, data: DataFile, *, bucket: str, day: date) -> Iterator[ReportRows]:
    """Map the records of an open data file. Raises ``DamagedFile``."""

    def reading_of(frame: pl.DataFrame) -> tuple[pl.DataFrame, Reading]:
        if report.data_format is DataFormat.CSV:
            frame = frame.with_columns(decoded_keys(frame["key"]), frame["key"].alias("encodedkey"))
        return frame, _reading(Cells(frame), bucket, day)

    wanted = [column.name for column in _COLUMNS]
    return read_rows(report, file, data, reading_of, wanted, bucket=bucket, day=day)


def _reading(cells: Cells, bucket: str, day: date) -> Reading:
    latest, marker = cells.flag("IsLatest"), cells.flag("IsDeleteMarker")
    modified, until = cells.instant("LastModifiedDate"), cells.instant("ObjectLockRetainUntilDate")
    source, hold = cells.text("Bucket"), cells.text("ObjectLockLegalHoldStatus")
    version = cells.text("VersionId")
    mode = cells.text("ObjectLockMode").str.to_lowercase()
    named = pl.concat_str(mode, pl.lit(" ")).fill_null("")
    retention = pl.concat_str(named, pl.lit("retention until "), until.dt.strftime("%Y-%m-%d %H:%M UTC"))
    return Reading(
        kind=pl.when(source.is_not_null() & (source != bucket))
        .then(pl.lit(ELSEWHERE))
        .when(marker.fill_null(False))
        .then(pl.lit(IGNORED))
        .when(~latest.fill_null(True))
        .then(pl.lit(NONCURRENT))
        .otherwise(pl.lit(LIVE)),
        size_bytes=cells.number("Size"),
        columns={
            "key": cells.text("Key"),
            "version_id": pl.when(version != "null").then(version),
            "storage_class": cells.text("StorageClass"),
            "etag": cells.text("ETag").str.strip_chars('"'),
            "last_modified_at": modified,
            "class_since_at": modified,
            "content_type": pl.lit(None, dtype=pl.String),
            "lock_reason": pl.when(hold.str.to_lowercase() == "on")
            .then(pl.lit("legal hold"))
            .when(until > datetime(day.year, day.month, day.day, tzinfo=UTC))
            .then(retention),
        },
        problems=(
            (cells.unreadable("IsLatest", latest), "IsLatest is neither true nor false"),
            (cells.unreadable("IsDeleteMarker", marker), "IsDeleteMarker is neither true nor false"),
            (cells.unreadable("ObjectLockRetainUntilDate", until), "ObjectLockRetainUntilDate is not a time"),
        ),
        names=_NAMES,
    )
