"""Azure blob inventory: versions, snapshots, folders, inferred tiers, and rules that do not cover a container."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from inventory_report_files import AZURE_TYPES, CHANGED, TAKEN, azure_report, azure_row, csv_text, parquet, table

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.format_notices import NoticeKind
from cloudflux.domain.inventory_reports import DamagedFile, OtherBucketsReport, UnusableReport
from cloudflux.inventories import azure_inventory

FORMATS = ["csv", "parquet"]
TIERED = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize("data_format", FORMATS)
def test_rows_are_mapped_when_read(read_report: Any, data_format: str) -> None:
    rows = [
        azure_row(),
        azure_row("never-moved", AccessTierChangeTime=None, AccessTier="Hot", AccessTierInferred=True),
        azure_row('with,comma "and\nnewline', **{"Content-Type": None}),
    ]
    found = read_report("azure_inventory", azure_report([rows], data_format=data_format))
    assert found.objects[0] == {
        "provider": "azure",
        "bucket": "media",
        "key": "a/b.bin",
        "version_id": None,
        "size_bytes": 2048,
        "storage_class": "Cool",
        "tier": "warm",
        "etag": "0x8DC0000000000AA",
        "last_modified_at": CHANGED,
        "class_since_at": TIERED,
        "content_type": "image/png",
        "lock_reason": None,
        "day": datetime(2026, 3, 10, tzinfo=UTC).date(),
    }
    assert found.objects[1]["class_since_at"] == CHANGED
    assert found.keys[2] == 'with,comma "and\nnewline'
    assert found.notices == []
    assert found.report.taken_at == TAKEN


@pytest.mark.parametrize("data_format", FORMATS)
def test_old_versions_snapshots_and_deleted_blobs_are_counted_apart(read_report: Any, data_format: str) -> None:
    rows = [
        azure_row("live", VersionId="2026-01-02T00:00:00.0000000Z", IsCurrentVersion=True),
        azure_row("live", VersionId="2026-01-01T00:00:00.0000000Z", **{"Content-Length": 10}),
        azure_row("live", VersionId="2025-01-01T00:00:00.0000000Z", IsCurrentVersion=False, **{"Content-Length": 20}),
        azure_row("unversioned"),
        azure_row("live", Snapshot="2026-01-01T00:00:00.0000000Z", **{"Content-Length": 30}),
        azure_row("deleted", Deleted=True, **{"Content-Length": 40}),
        azure_row("folder", hdi_isfolder=True, Etag=None, AccessTier=None, **{"Content-Length": None}),
        azure_row("file", hdi_isfolder=False, Deleted=False),
    ]
    found = read_report("azure_inventory", azure_report([rows], data_format=data_format))
    assert found.keys == ["live", "unversioned", "file"]
    assert found.objects[0]["version_id"] == "2026-01-02T00:00:00.0000000Z"
    assert (found.noncurrent, found.bad) == ((4, 100), 0)


@pytest.mark.parametrize("data_format", FORMATS)
def test_locks_are_named_when_a_blob_has_one(read_report: Any, data_format: str) -> None:
    until = datetime(2026, 6, 1, tzinfo=UTC)
    rows = [
        azure_row("leased", LeaseStatus="locked", LeaseState="leased"),
        azure_row("held", LegalHold=True),
        azure_row("immutable", ImmutabilityPolicyUntilDate=until, ImmutabilityPolicyMode="Locked"),
        azure_row("immutable-no-mode", ImmutabilityPolicyUntilDate=until),
        azure_row("over", ImmutabilityPolicyUntilDate=datetime(2026, 1, 1, tzinfo=UTC), LegalHold=False),
        azure_row("disk.vhd", BlobType="PageBlob", AccessTier=None, AccessTierChangeTime=None),
    ]
    found = read_report("azure_inventory", azure_report([rows], data_format=data_format))
    assert {row["key"]: row["lock_reason"] for row in found.objects} == {
        "leased": "leased (leased)",
        "held": "legal hold",
        "immutable": "immutable until 2026-06-01 00:00 UTC (locked)",
        "immutable-no-mode": "immutable until 2026-06-01 00:00 UTC",
        "over": None,
        "disk.vhd": "a PageBlob has no tier that could be changed",
    }
    assert found.objects[5]["storage_class"] == "Hot"
    assert found.objects[5]["tier"] == "hot"


@pytest.mark.parametrize("data_format", FORMATS)
def test_blobs_of_other_containers_are_left_out(read_report: Any, data_format: str) -> None:
    rows = [azure_row("a"), azure_row("b", Name="media-archive/b"), azure_row("c", Name="other/media/c")]
    found = read_report("azure_inventory", azure_report([rows], data_format=data_format))
    assert (found.keys, found.elsewhere, found.records) == (["a"], 2, 3)


def test_milliseconds_are_times_when_parquet_does_not_say_so(read_report: Any) -> None:
    content = table([azure_row()], AZURE_TYPES)
    for name in ("Last-Modified", "AccessTierChangeTime"):
        place = content.schema.get_field_index(name)
        content = content.set_column(place, name, content[name].cast(pa.int64()))
    files = azure_report([[azure_row()]], data_format="parquet", data=[parquet(content)])
    found = read_report("azure_inventory", files)
    assert (found.objects[0]["last_modified_at"], found.objects[0]["class_since_at"]) == (CHANGED, TIERED)


def test_columns_are_found_when_spelt_as_in_the_enumeration(read_report: Any) -> None:
    spelt = {"Content-Type": "ContentType", "Etag": "ETag"}
    row = {spelt.get(name, name): value for name, value in azure_row().items()}
    found = read_report("azure_inventory", azure_report([[row]]))
    assert (found.keys, found.objects[0]["content_type"], found.notices) == (["a/b.bin"], "image/png", [])


def test_new_and_missing_columns_are_noticed(read_report: Any) -> None:
    row = azure_row() | {"Mood": "fine"}
    del row["AccessTierChangeTime"], row["LeaseStatus"], row["Snapshot"]
    found = read_report("azure_inventory", azure_report([[row]]))
    assert [(notice.kind, notice.name) for notice in found.notices] == [
        (NoticeKind.NEW_FIELD, "Mood"),
        (NoticeKind.MISSING_FIELD, "AccessTierChangeTime"),
        (NoticeKind.MISSING_FIELD, "LeaseStatus"),
    ]
    assert found.objects[0]["class_since_at"] == CHANGED


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("column", ["Content-Length", "AccessTier", "Etag", "Last-Modified"])
def test_missing_column_is_an_error_that_says_what_to_add(read_report: Any, data_format: str, column: str) -> None:
    row = azure_row()
    del row[column]
    with pytest.raises(TerminalError, match=f"has no {column}: add {column} to the schemaFields of the inventory rule"):
        read_report("azure_inventory", azure_report([[row]], data_format=data_format))


def test_bad_rows_are_quarantined_and_good_ones_kept_when_read(read_report: Any) -> None:
    rows = [
        azure_row("a"),
        azure_row("size", **{"Content-Length": "1.5"}),
        azure_row("x", Name="nocontainer"),
        azure_row("date", **{"Last-Modified": "13/03/2026"}),
        azure_row("tiered", AccessTierChangeTime="soon"),
        azure_row("", Name="media/"),
        azure_row("flag", IsCurrentVersion="perhaps"),
        azure_row("b"),
    ]
    text = csv_text(rows, header=True, digits=7) + b"media/x,too,few\n"
    found = read_report("azure_inventory", azure_report([[azure_row()]], data=[text]))
    assert found.keys == ["a", "b"]
    assert found.reasons == [  # the header is record 1
        (3, "Content-Length is not a number of bytes"),
        (4, "Name does not begin with a container"),
        (5, "Last-Modified is missing, or not readable"),
        (6, "AccessTierChangeTime is not a time"),
        (7, "Name is empty, or not readable"),
        (8, "IsCurrentVersion is neither true nor false"),
        (10, "too few columns"),
    ]


def test_damaged_file_is_told_when_it_has_no_header(read_report: Any) -> None:
    with pytest.raises(DamagedFile, match="without the header"):
        read_report("azure_inventory", azure_report([[azure_row()]], data=[b""]))
    with pytest.raises(DamagedFile):
        read_report("azure_inventory", azure_report([[azure_row()]], data_format="parquet", data=[b"PAR1"]))


def test_byte_order_mark_is_no_part_of_the_first_column(read_report: Any) -> None:
    text = b"\xef\xbb\xbf" + csv_text([azure_row()], header=True, digits=7)
    assert read_report("azure_inventory", azure_report([[azure_row()]], data=[text])).keys == ["a/b.bin"]


@pytest.mark.parametrize(
    ("filters", "covered"),
    [
        ({}, True),
        ({"prefixMatch": []}, True),
        ({"prefixMatch": ["media"]}, True),
        ({"prefixMatch": ["media/"]}, True),
        ({"prefixMatch": ["med", "x"]}, True),
        ({"prefixMatch": [""]}, True),
        ({"prefixMatch": ["med/"]}, False),
        ({"prefixMatch": ["/"]}, False),
        ({"prefixMatch": ["media-archive"]}, False),
        ({"prefixMatch": ["media/2026/"]}, False),
        ({"prefixMatch": ["media/2025", "media/2026"]}, False),
        ({"prefixMatch": ["media/2026"]}, False),
        ({"prefixMatch": ["other"]}, False),
        ({"excludePrefix": ["media/tmp"]}, True),
        ({"excludePrefix": ["media"]}, False),
        ({"excludePrefix": ["media-archive"]}, True),
        ({"blobTypes": ["pageBlob"]}, False),
        ({"creationTime": {"lastNDays": 7}}, False),
    ],
)
def test_rule_is_used_when_it_covers_the_container(read_report: Any, filters: dict[str, Any], covered: bool) -> None:
    files = azure_report([[azure_row()]], filters=filters)
    if covered:
        assert read_report("azure_inventory", files).keys == ["a/b.bin"]
    else:
        with pytest.raises(OtherBucketsReport):
            read_report("azure_inventory", files)


@pytest.mark.parametrize("status", ["Pending", "Failed", "PartiallySucceeded"])
def test_run_is_unusable_when_it_did_not_succeed(read_report: Any, status: str) -> None:
    with pytest.raises(UnusableReport, match=status):
        read_report("azure_inventory", azure_report([[azure_row()]], status=status))


def test_report_of_containers_is_passed_over(read_report: Any) -> None:
    files = azure_report([[azure_row()]], ruleDefinition={"objectType": "container", "format": "csv"})
    with pytest.raises(OtherBucketsReport, match="containers"):
        read_report("azure_inventory", files)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("2026/03/09/01-00-00/daily/daily-manifest.json", TAKEN),
        ("2026/03/09/01-00-00/daily/manifest.json", TAKEN),
        ("2026/03/09/01-00-00/daily/other-manifest.json", None),
        ("2026/03/09/01-00-00/daily/daily-manifest.checksum", None),
        ("2026/03/09/25-00-00/daily/daily-manifest.json", None),
        ("2026/03/09/01-00-00/daily/daily_0.csv", None),
    ],
)
def test_manifests_are_told_from_other_files(key: str, expected: datetime | None) -> None:
    assert azure_inventory.taken_at(key, "media") == expected
