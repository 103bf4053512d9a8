"""Inventory reports as the providers write them, with overrides: manifests, checksums, CSV, ORC and Parquet."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.orc as pa_orc
import pyarrow.parquet as pq

TAKEN = datetime(2026, 3, 9, 1, tzinfo=UTC)
CHANGED = datetime(2026, 1, 3, 10, 11, 12, 345_000, tzinfo=UTC)

Row = Mapping[str, Any]

S3_TYPES = {
    "Bucket": pa.string(),
    "Key": pa.string(),
    "VersionId": pa.string(),
    "IsLatest": pa.bool_(),
    "IsDeleteMarker": pa.bool_(),
    "Size": pa.int64(),
    "LastModifiedDate": pa.timestamp("ms", tz="UTC"),
    "ETag": pa.string(),
    "StorageClass": pa.string(),
    "IsMultipartUploaded": pa.bool_(),
    "ObjectLockRetainUntilDate": pa.timestamp("ms", tz="UTC"),
    "ObjectLockMode": pa.string(),
    "ObjectLockLegalHoldStatus": pa.string(),
}
S3_NAMES = {
    "Bucket": "bucket",
    "Key": "key",
    "VersionId": "version_id",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "LastModifiedDate": "last_modified_date",
    "ETag": "e_tag",
    "StorageClass": "storage_class",
    "IsMultipartUploaded": "is_multipart_uploaded",
    "ObjectLockRetainUntilDate": "object_lock_retain_until_date",
    "ObjectLockMode": "object_lock_mode",
    "ObjectLockLegalHoldStatus": "object_lock_legal_hold_status",
}
"""How ORC and Parquet spell the columns."""


def s3_row(key: str = "a/b.bin", **overrides: Any) -> dict[str, Any]:
    return {
        "Bucket": "media",
        "Key": key,
        "VersionId": "v1",
        "IsLatest": True,
        "IsDeleteMarker": False,
        "Size": 2048,
        "LastModifiedDate": CHANGED,
        "ETag": "9b2cf535f27731c974343645a3985328",
        "StorageClass": "STANDARD_IA",
        "IsMultipartUploaded": False,
        "ObjectLockRetainUntilDate": None,
        "ObjectLockMode": None,
        "ObjectLockLegalHoldStatus": "OFF",
    } | overrides


def azure_row(key: str = "a/b.bin", **overrides: Any) -> dict[str, Any]:
    return {
        "Name": f"media/{key}",
        "Creation-Time": datetime(2025, 1, 1, tzinfo=UTC),
        "Last-Modified": CHANGED,
        "Etag": "0x8DC0000000000AA",
        "Content-Length": 2048,
        "Content-Type": "image/png",
        "BlobType": "BlockBlob",
        "AccessTier": "Cool",
        "AccessTierChangeTime": datetime(2026, 2, 1, tzinfo=UTC),
        "AccessTierInferred": None,
        "LeaseStatus": "unlocked",
        "LeaseState": "available",
        "LegalHold": None,
        "ImmutabilityPolicyUntilDate": None,
        "ImmutabilityPolicyMode": None,
        "Snapshot": None,
        "VersionId": None,
        "IsCurrentVersion": None,
        "Deleted": None,
        "hdi_isfolder": None,
    } | overrides


AZURE_TYPES = {
    "Content-Length": pa.int64(),
    "Creation-Time": pa.timestamp("ms"),
    "Last-Modified": pa.timestamp("ms"),
    "AccessTierChangeTime": pa.timestamp("ms"),
    "ImmutabilityPolicyUntilDate": pa.timestamp("ms"),
    "AccessTierInferred": pa.bool_(),
    "IsCurrentVersion": pa.bool_(),
    "Deleted": pa.bool_(),
    "hdi_isfolder": pa.bool_(),
    "LegalHold": pa.bool_(),
}


def gcs_row(key: str = "a/b.bin", **overrides: Any) -> dict[str, Any]:
    return {
        "project": "12345",
        "bucket": "media",
        "name": key,
        "location": "US",
        "size": 2048,
        "timeCreated": datetime(2026, 1, 1, tzinfo=UTC),
        "timeDeleted": None,
        "updated": CHANGED,
        "storageClass": "NEARLINE",
        "etag": "CJDd8bXI3vYCEAE=",
        "retentionExpirationTime": None,
        "generation": 1672531200000000,
        "contentType": "image/png",
        "timeStorageClassUpdated": datetime(2026, 1, 2, tzinfo=UTC),
    } | overrides


GCS_TYPES = {
    "size": pa.int64(),
    "generation": pa.int64(),
    "timeCreated": pa.timestamp("us", tz="UTC"),
    "timeDeleted": pa.timestamp("us", tz="UTC"),
    "updated": pa.timestamp("us", tz="UTC"),
    "retentionExpirationTime": pa.timestamp("us", tz="UTC"),
    "timeStorageClassUpdated": pa.timestamp("us", tz="UTC"),
}


def shown(value: Any, digits: int = 3) -> str:
    """Write a value as a CSV has it; ``digits`` of a second."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%f").ljust(27, "0")[: 20 + digits] + "Z"
    return str(value)


def csv_text(
    rows: Sequence[Row],
    *,
    header: bool,
    delimiter: str = ",",
    digits: int = 3,
    quoting: int = csv.QUOTE_MINIMAL,
    line_end: str = "\r\n",
) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    if header:
        writer.writerow(rows[0])
    writer.writerows([shown(value, digits) for value in row.values()] for row in rows)
    return text.getvalue().encode()


def s3_csv(rows: Sequence[Row]) -> bytes:
    """Every value is quoted, and keys are URL-encoded as Java does it."""
    encoded = [{**row, "Key": quote_plus(row["Key"], safe="/*")} if "Key" in row else row for row in rows]
    return gzip.compress(csv_text(encoded, header=False, quoting=csv.QUOTE_ALL, line_end="\n"), mtime=0)


def table(rows: Sequence[Row], types: Mapping[str, pa.DataType], names: Mapping[str, str] | None = None) -> pa.Table:
    columns = {}
    for name in rows[0]:
        kind = types.get(name, pa.string())
        columns[(names or {}).get(name, name)] = pa.array([row[name] for row in rows], kind)
    return pa.table(columns)


def parquet(content: pa.Table, compression: str = "snappy") -> bytes:
    sink = io.BytesIO()
    pq.write_table(content, sink, compression=compression, row_group_size=1000)
    return sink.getvalue()


def orc(content: pa.Table) -> bytes:
    naive = pa.schema(
        [
            pa.field(field.name, pa.timestamp("ns")) if pa.types.is_timestamp(field.type) else field
            for field in content.schema
        ]
    )
    columns = [
        column.cast(pa.timestamp("ns", tz="UTC")).cast(field.type) if pa.types.is_timestamp(field.type) else column
        for column, field in zip(content.columns, naive, strict=True)
    ]
    sink = io.BytesIO()
    pa_orc.write_table(pa.Table.from_arrays(columns, schema=naive), sink, compression="zlib")
    return sink.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def s3_data(rows: Sequence[Row], data_format: str) -> bytes:
    if data_format == "CSV":
        return s3_csv(rows)
    content = table(rows, S3_TYPES, S3_NAMES)
    return orc(content) if data_format == "ORC" else parquet(content)


def s3_schema(columns: Sequence[str], data_format: str) -> str:
    if data_format == "CSV":
        return ", ".join(columns)
    names = [S3_NAMES.get(name, name) for name in columns]
    if data_format == "ORC":
        return f"struct<{','.join(f'{name}:string' for name in names)}>"
    return "message s3.inventory { " + " ".join(f"optional binary {name} (UTF8);" for name in names) + "}"


def s3_report(
    files: Sequence[Sequence[Row]],
    *,
    data_format: str = "CSV",
    taken_at: datetime = TAKEN,
    prefix: str = "inventory/",
    bucket: str = "media",
    configuration: str = "daily",
    data: Sequence[bytes] | None = None,
    **overrides: Any,
) -> dict[str, bytes]:
    """Give the files of a report by key; ``data`` stands in for what the rows would be written as."""
    ending = {"CSV": "csv.gz", "ORC": "orc", "Parquet": "parquet"}[data_format]
    contents = list(data) if data is not None else [s3_data(rows, data_format) for rows in files]
    stored = {
        f"{prefix}{bucket}/{configuration}/data/{taken_at:%Y%m%d}-{number}.{ending}": content
        for number, content in enumerate(contents)
    }
    columns = list(files[0][0]) if files and files[0] else list(s3_row())
    manifest = {
        "sourceBucket": bucket,
        "destinationBucket": "arn:aws:s3:::reports",
        "version": "2016-11-30",
        "creationTimestamp": str(int(taken_at.timestamp() * 1000)),
        "fileFormat": data_format,
        "fileSchema": s3_schema(columns, data_format),
        "files": [{"key": key, "size": len(content), "MD5checksum": md5(content)} for key, content in stored.items()],
    } | overrides
    folder = f"{prefix}{bucket}/{configuration}/{taken_at:%Y-%m-%dT%H-%MZ}"
    return stored | with_checksum(f"{folder}/manifest.json", manifest)


def with_checksum(key: str, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    content = json.dumps(manifest).encode()
    return {key: content, key.removesuffix(".json") + ".checksum": md5(content).encode()}


def azure_report(
    files: Sequence[Sequence[Row]],
    *,
    data_format: str = "csv",
    taken_at: datetime = TAKEN,
    rule: str = "daily",
    data: Sequence[bytes] | None = None,
    filters: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> dict[str, bytes]:
    folder = f"{taken_at:%Y/%m/%d/%H-%M-%S}/{rule}"
    contents = list(data) if data is not None else [azure_data(rows, data_format) for rows in files]
    stored = {f"{folder}/{rule}_{number}.{data_format}": content for number, content in enumerate(contents)}
    columns = list(files[0][0]) if files and files[0] else list(azure_row())
    manifest = {
        "destinationContainer": "reports",
        "endpoint": "https://testaccount.blob.core.windows.net",
        "files": [{"blob": key, "size": len(content)} for key, content in stored.items()],
        "inventoryCompletionTime": shown(taken_at, 0),
        "inventoryStartTime": shown(taken_at, 0),
        "ruleDefinition": {
            "filters": {"blobTypes": ["blockBlob", "pageBlob"]} | dict(filters or {}),
            "format": data_format,
            "objectType": "blob",
            "schedule": "daily",
            "schemaFields": columns,
        },
        "ruleName": rule,
        "status": "Succeeded",
        "summary": {"objectCount": sum(len(rows) for rows in files), "totalObjectSize": 1},
        "version": "1.0",
    } | overrides
    return stored | with_checksum(f"{folder}/{rule}-manifest.json", manifest)


def azure_data(rows: Sequence[Row], data_format: str) -> bytes:
    if data_format == "csv":
        return csv_text(rows, header=True, digits=7)
    return parquet(table(rows, AZURE_TYPES))


def gcs_report(
    files: Sequence[Sequence[Row]],
    *,
    data_format: str = "csv",
    taken_at: datetime = TAKEN,
    prefix: str = "insights/",
    configuration: str = "fc95c52f-157a-494f-af4a-d4a53a69ba66",
    delimiter: str = ",",
    header: bool = True,
    data: Sequence[bytes] | None = None,
    **overrides: Any,
) -> dict[str, bytes]:
    base = f"{prefix}{configuration}_{taken_at:%Y-%m-%dT%H:%M}"
    contents = (
        list(data)
        if data is not None
        else [
            csv_text(rows, header=header, delimiter=delimiter, digits=6)
            if data_format == "csv"
            else parquet(table(rows, GCS_TYPES))
            for rows in files
        ]
    )
    stored = {f"{base}_{number}.{data_format}": content for number, content in enumerate(contents)}
    options = {"csv_options": {"delimiter": delimiter, "header_required": header, "record_separator": "\n"}}
    manifest = {
        "report_config": {
            "display_name": "daily",
            "object_metadata_report_options": {
                "metadata_fields": list(files[0][0]) if files and files[0] else list(gcs_row()),
                "storage_filters": {"bucket": "media"},
            },
            **(options if data_format == "csv" else {"parquet_options": {}}),
        },
        "records_processed": sum(len(rows) for rows in files),
        "snapshot_time": shown(taken_at, 0),
        "shard_count": len(stored),
        "report_shards_file_names": [key.rpartition("/")[2] for key in stored],
    } | overrides
    return stored | {f"{base}_manifest.json": json.dumps(manifest).encode()}
