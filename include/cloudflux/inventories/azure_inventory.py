"""Azure Storage blob inventory: CSV (with a header) and Parquet.

Follows https://learn.microsoft.com/azure/storage/blobs/blob-inventory: a run of a rule lies at
``YYYY/MM/DD/HH-MM-SS/<rule>/`` in the rule's container; ``<rule>-manifest.json`` is there from the start and says
``Pending`` until the run is over, ``<rule>-manifest.checksum`` has its MD5 and marks the end. A rule lists blobs of all
containers of an account: names begin with the container's. The service refuses the enumeration's ``ContentType`` and
takes ``Content-Type`` (https://github.com/Azure/azure-rest-api-specs/issues/21503); both are read.

- Without ``IsCurrentVersion``, ``Snapshot``, ``Deleted`` or ``hdi_isfolder`` the rule lists none of these: all is live.
- Without an access tier (page and append blobs have none) a blob counts as ``Hot``, as in a live listing; whether a
  tier is inferred from the account makes no difference to its price, unless the account has smart tier on: then these
  blobs are the ones in it, which a rule is taken to list as ``Smart``.
- Without ``AccessTierChangeTime`` a blob has been in its tier since its last write: overwriting starts the clock anew,
  and the creation time outlives it.
- "In rare cases, duplicate blob entries might appear": of two rows with one name the later written one stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

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
from cloudflux.inventories.manifests import instant_of, json_object, number_of, object_in, objects_in, text_in
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

PROVIDER: Final = Provider.AZURE
FORMAT: Final = "azure_inventory"

_MANIFEST: Final = re.compile(
    r"(?:^|/)(?P<at>\d{4}/\d\d/\d\d/\d\d-\d\d-\d\d)/(?P<rule>[^/]+)/(?:(?P=rule)-)?manifest\.json"
)
_VERSION: Final = "1.0"
_DEFAULT_TIER: Final = "Hot"
_LOCKS: Final = "a lock is seen only when the blob is about to move"
_COLUMNS: Final = (
    Column("Name", required=True),
    Column("Last-Modified", required=True),
    Column("Content-Length", required=True),
    Column("Etag", required=True),
    Column("AccessTier", required=True),
    Column("AccessTierChangeTime", without="blobs count as being in their tier since their last write"),
    Column("BlobType", without="page and append blobs are told from others only when they are about to move"),
    Column("Content-Type", without="the content type is unknown"),
    Column("hdi_isfolder"),
    Column("Snapshot"),
    Column("VersionId"),
    Column("IsCurrentVersion"),
    Column("Deleted"),
    Column("LeaseStatus", without=_LOCKS),
    Column("LeaseState"),
    Column("LegalHold", without=_LOCKS),
    Column("ImmutabilityPolicyUntilDate", without=_LOCKS),
    Column("ImmutabilityPolicyMode"),
)
_OTHERS: Final = (
    "Creation-Time", "Content-MD5", "Content-CRC64", "Content-Encoding", "Content-Language", "Content-Disposition",
    "Cache-Control", "Cache-Disposition", "AccessTierInferred", "LastAccessTime", "Expiry-Time", "Owner", "Group",
    "Permissions", "Acl", "DeletionId", "DeletedTime", "RemainingRetentionDays", "TagCount", "Tags", "Metadata",
    "CopyId", "CopySource", "CopyStatus", "CopyProgress", "CopyCompletionTime", "CopyStatusDescription",
    "LeaseDuration", "ServerEncrypted", "CustomerProvidedKeySha256", "RehydratePriority", "ArchiveStatus",
    "EncryptionScope", "IncrementalCopy", "x-ms-blob-sequence-number", "XmsBlobSequenceNumber",
)  # fmt: skip
"""Columns that Azure offers and nobody needs here."""
_ADVICE: Final = "add {} to the schemaFields of the inventory rule"
_NAMES: Final = {
    "key": "Name",
    "size_bytes": "Content-Length",
    "storage_class": "AccessTier",
    "etag": "Etag",
    "last_modified_at": "Last-Modified",
    "class_since_at": "AccessTierChangeTime",
}


def taken_at(key: str, bucket: str) -> datetime | None:
    """Tell when the run was begun whose manifest ``key`` may be; None when it is no manifest.

    The name tells no bucket: a rule may list any.
    """
    found = _MANIFEST.search(key)
    if found is None or found.end() != len(key):
        return None
    try:
        return datetime.strptime(found["at"], "%Y/%m/%d/%H-%M-%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def configuration(manifest: str) -> str:
    """Name the rule that a manifest's report was made by."""
    found = _MANIFEST.search(manifest)
    return found["rule"] if found else ""


def scope(manifest: str, content: bytes, bucket: str) -> str:
    """Tell which blobs of the container a report lists: reports of one scope stand for one another.

    That is all of them, whatever the run's status, but for the types and the paths that its rule leaves out. Raises
    ``UnusableReport``.
    """
    rule = object_in(json_object(content), "ruleDefinition")
    _check_coverage(rule, bucket)
    filters = object_in(rule, "filters")
    types, excluded = filters.get("blobTypes"), filters.get("excludePrefix") or []
    inside = sorted({str(prefix) for prefix in excluded if str(prefix).startswith(f"{bucket}/")})
    return repr((sorted(map(str, types)) if isinstance(types, list) else None, inside))


def checksum_key(manifest: str) -> str | None:
    """Name the file with the manifest's MD5."""
    return manifest.removesuffix(".json") + ".checksum"


def read_manifest(holder: str, manifest: str, content: bytes, bucket: str) -> InventoryReport:
    """Read the manifest of a report that lies in ``holder`` and tells of ``bucket``. Raises ``UnusableReport``."""
    told = json_object(content)
    rule = object_in(told, "ruleDefinition")
    _check_coverage(rule, bucket)
    status = text_in(told, "status")
    if status != "Succeeded":
        raise UnusableReport(f"the run's status is {status!r}")
    written = text_in(rule, "format").lower()
    if written not in (DataFormat.CSV, DataFormat.PARQUET):
        raise UnusableReport(f"its data files are {written!r}: choose csv or parquet")
    begun = taken_at(manifest, bucket) or instant_of(told.get("inventoryStartTime"))
    if begun is None:
        raise UnusableReport("neither its name nor its inventoryStartTime tells when it was taken")
    fields = rule.get("schemaFields")
    version = told.get("version")
    return InventoryReport(
        provider=PROVIDER,
        format=FORMAT,
        bucket=holder,
        manifest=manifest,
        taken_at=begun,
        data_format=DataFormat(written),
        files=tuple(
            ReportFile(text_in(file, "blob"), number_of(file.get("size"))) for file in objects_in(told, "files")
        ),
        fields=tuple(str(field) for field in fields) if isinstance(fields, list) else (),
        rows=number_of(object_in(told, "summary").get("objectCount")),
        configuration=str(told.get("ruleName", "")),
        unknown_version=None if version == _VERSION else str(version),
        of_account=True,
    )


def _check_coverage(rule: Mapping[str, Any], bucket: str) -> None:
    """Raise ``OtherBucketsReport`` when a rule does not list the container's block blobs, or only some by age or path.

    A prefix is text that ``<container>/<blob>`` begins with: ``disks-`` takes in all containers that are named so,
    ``data`` also ``data-archive``, ``data/`` only ``data``, an empty one all.
    Paths below the container that a rule excludes are its owner's choice.
    """
    if rule.get("objectType", "blob") != "blob":
        raise OtherBucketsReport("it is a report of containers, not of blobs")
    filters = object_in(rule, "filters")
    prefixes = filters.get("prefixMatch") or []
    if prefixes and not any(f"{bucket}/".startswith(str(prefix)) for prefix in prefixes):
        raise OtherBucketsReport(f"its prefixMatch does not cover the whole container {bucket!r}")
    if any(f"{bucket}/".startswith(str(prefix)) for prefix in filters.get("excludePrefix") or []):
        raise OtherBucketsReport(f"its excludePrefix leaves container {bucket!r} out")
    types = filters.get("blobTypes")
    if isinstance(types, list) and "blockBlob" not in types:
        raise OtherBucketsReport("it lists no block blobs")
    if filters.get("creationTime"):
        raise OtherBucketsReport("it lists new blobs only (filters.creationTime)")


def check(report: InventoryReport, previous: tuple[str, ...]) -> list[FormatNotice]:
    """Notice what is new in a manifest against the columns of the report before.

    Raises ``TerminalError`` when a column is missing that a snapshot needs.
    """
    if report.fields:
        check_columns(report, report.fields, _COLUMNS, _ADVICE)
    return [*version_notices(report), *order_notices(report, previous)]


def open_file(report: InventoryReport, path: Path) -> DataFile:
    """Open a data file that was fetched to ``path``. Raises ``DamagedFile``."""
    if report.data_format is DataFormat.CSV:
        return open_csv(path, (), header=True, delimiter=",")
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
    name = cells.text("Name")
    container = name.str.extract(r"^([^/]*)/")
    folder, deleted, current = cells.flag("hdi_isfolder"), cells.flag("Deleted"), cells.flag("IsCurrentVersion")
    modified, changed = cells.instant("Last-Modified"), cells.instant("AccessTierChangeTime")
    until, held, kind = cells.instant("ImmutabilityPolicyUntilDate"), cells.flag("LegalHold"), cells.text("BlobType")
    version, snapshot = cells.text("VersionId"), cells.text("Snapshot")
    # List Blobs names the current version as such and says nothing of the others.
    old = snapshot.is_not_null() | deleted.fill_null(False) | ~current.fill_null(version.is_null())
    mode = pl.concat_str(pl.lit(" ("), cells.text("ImmutabilityPolicyMode").str.to_lowercase(), pl.lit(")"))
    immutable = pl.concat_str(pl.lit("immutable until "), until.dt.strftime("%Y-%m-%d %H:%M UTC"), mode.fill_null(""))
    return Reading(
        kind=pl.when(container.is_not_null() & (container != bucket))
        .then(pl.lit(ELSEWHERE))
        .when(folder.fill_null(False))
        .then(pl.lit(IGNORED))
        .when(old)
        .then(pl.lit(NONCURRENT))
        .otherwise(pl.lit(LIVE)),
        size_bytes=cells.number("Content-Length"),
        columns={
            "key": pl.when(container == bucket).then(name.str.slice(len(bucket) + 1)).replace("", None),
            "version_id": version,
            "storage_class": cells.text("AccessTier").fill_null(_DEFAULT_TIER),
            "etag": cells.text("Etag").str.strip_chars('"'),
            "last_modified_at": modified,
            "class_since_at": changed.fill_null(modified),
            "content_type": cells.text("Content-Type"),
            "lock_reason": pl.when(cells.text("LeaseStatus").str.to_lowercase() == "locked")
            .then(pl.format("leased ({})", cells.text("LeaseState").fill_null("locked").str.to_lowercase()))
            .when(held.fill_null(False))
            .then(pl.lit("legal hold"))
            .when(until > datetime(day.year, day.month, day.day, tzinfo=UTC))
            .then(immutable)
            .when(kind != "BlockBlob")
            .then(pl.format("a {} has no tier that could be changed", kind)),
        },
        problems=(
            (container.is_null() & ~folder.fill_null(False), "Name does not begin with a container"),
            (cells.unreadable("hdi_isfolder", folder), "hdi_isfolder is neither true nor false"),
            (cells.unreadable("Deleted", deleted), "Deleted is neither true nor false"),
            (cells.unreadable("IsCurrentVersion", current), "IsCurrentVersion is neither true nor false"),
            (cells.unreadable("AccessTierChangeTime", changed), "AccessTierChangeTime is not a time"),
            (cells.unreadable("ImmutabilityPolicyUntilDate", until), "ImmutabilityPolicyUntilDate is not a time"),
            (cells.unreadable("LegalHold", held), "LegalHold is neither true nor false"),
        ),
        names=_NAMES,
    )
