"""Storage Insights: shards, any delimiter, with a header or without."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from inventory_report_files import CHANGED, TAKEN, csv_text, gcs_report, gcs_row

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.format_notices import NoticeKind
from cloudflux.domain.inventory_reports import DamagedFile, OtherBucketsReport, UnusableReport
from cloudflux.inventories import gcs_insights

FORMATS = ["csv", "parquet"]


@pytest.mark.parametrize("data_format", FORMATS)
def test_rows_are_mapped_when_read(read_report: Any, data_format: str) -> None:
    rows = [gcs_row(), gcs_row("old", timeDeleted=CHANGED, size=9), gcs_row("x", timeStorageClassUpdated=None)]
    found = read_report("gcs_insights", gcs_report([rows, [gcs_row("y")]], data_format=data_format))
    assert found.objects[0] == {
        "provider": "gcp",
        "bucket": "media",
        "key": "a/b.bin",
        "version_id": "1672531200000000",
        "size_bytes": 2048,
        "storage_class": "NEARLINE",
        "tier": "warm",
        "etag": "CJDd8bXI3vYCEAE=",
        "last_modified_at": CHANGED,
        "class_since_at": datetime(2026, 1, 2, tzinfo=UTC),
        "content_type": "image/png",
        "lock_reason": None,
        "day": datetime(2026, 3, 10, tzinfo=UTC).date(),
    }
    assert found.keys == ["a/b.bin", "x", "y"]
    assert found.objects[1]["class_since_at"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert (found.noncurrent, found.notices, found.report.taken_at, found.report.rows) == ((1, 9), [], TAKEN, 4)


@pytest.mark.parametrize("data_format", FORMATS)
def test_locks_are_named_when_an_object_has_one(read_report: Any, data_format: str) -> None:
    rows = [
        gcs_row("kept", retentionExpirationTime=datetime(2026, 6, 1, tzinfo=UTC)),
        gcs_row("over", retentionExpirationTime=datetime(2026, 3, 9, tzinfo=UTC)),
    ]
    holds = [row | {"temporaryHold": None, "eventBasedHold": None} for row in rows]
    holds += [
        gcs_row("t", temporaryHold="TRUE", eventBasedHold="false"),
        gcs_row("e", temporaryHold=None, eventBasedHold="true"),
    ]
    found = read_report("gcs_insights", gcs_report([holds], data_format=data_format))
    assert {row["key"]: row["lock_reason"] for row in found.objects} == {
        "kept": "retention until 2026-06-01 00:00 UTC",
        "over": None,
        "t": "temporary hold",
        "e": "event-based hold",
    }


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [True, False])
def test_delimiter_and_header_are_those_of_the_configuration(read_report: Any, delimiter: str, header: bool) -> None:
    rows = [gcs_row("a;b"), gcs_row("c|d,e\tf")]
    found = read_report("gcs_insights", gcs_report([rows], delimiter=delimiter, header=header))
    assert found.keys == ["a;b", "c|d,e\tf"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found_in_the_header_when_the_manifest_does_not_tell(read_report: Any, delimiter: str) -> None:
    files = gcs_report([[gcs_row("a;b"), gcs_row("c|d,e\tf")]], delimiter=delimiter, report_config={})
    assert read_report("gcs_insights", files).keys == ["a;b", "c|d,e\tf"]


def test_configuration_is_read_when_its_names_are_in_camel_case(read_report: Any) -> None:
    config = {
        "displayName": "daily",
        "csvOptions": {"delimiter": ";"},
        "objectMetadataReportOptions": {"metadataFields": list(gcs_row()), "storageFilters": {"bucket": "media"}},
    }
    files = gcs_report([[gcs_row("a")]], delimiter=";", header=False, report_config={})
    manifest = next(key for key in files if key.endswith("_manifest.json"))
    import json

    told = json.loads(files[manifest])
    del told["report_config"]
    files[manifest] = json.dumps(told | {"reportConfig": config}).encode()
    assert read_report("gcs_insights", files).keys == ["a"]


def test_shards_are_found_when_the_manifest_names_their_addresses(read_report: Any) -> None:
    files = gcs_report([[gcs_row("a")]])
    shard = next(key for key in files if key.endswith(".csv"))
    files = gcs_report([[gcs_row("a")]], report_shards_file_names=[f"gs://reports/{shard}"])
    assert read_report("gcs_insights", files).keys == ["a"]


def test_new_and_missing_columns_are_noticed(read_report: Any) -> None:
    row = gcs_row() | {"softDeleteTime": None}
    del row["generation"], row["timeStorageClassUpdated"]
    found = read_report("gcs_insights", gcs_report([[row]]))
    assert [(notice.kind, notice.name) for notice in found.notices] == [
        (NoticeKind.NEW_FIELD, "softDeleteTime"),
        (NoticeKind.MISSING_FIELD, "timeStorageClassUpdated"),
        (NoticeKind.MISSING_FIELD, "generation"),
    ]
    assert found.objects[0]["version_id"] is None
    assert found.objects[0]["class_since_at"] == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("column", ["size", "storageClass", "etag", "updated", "timeDeleted"])
def test_missing_column_is_an_error_that_says_what_to_add(read_report: Any, data_format: str, column: str) -> None:
    row = gcs_row()
    del row[column]
    with pytest.raises(TerminalError, match=f"has no {column}: add {column} to the metadata fields"):
        read_report("gcs_insights", gcs_report([[row]], data_format=data_format))


def test_bad_rows_are_quarantined_and_good_ones_kept_when_read(read_report: Any) -> None:
    rows = [
        gcs_row("a"),
        gcs_row("b", size="large"),
        gcs_row("c", timeDeleted="never"),
        gcs_row("d", updated=None),
        gcs_row("", size=1),
        gcs_row("e"),
    ]
    text = csv_text(rows, header=True, digits=6) + b"1,2\n"
    found = read_report("gcs_insights", gcs_report([[gcs_row()]], data=[text]))
    assert found.keys == ["a", "e"]
    assert found.reasons == [
        (3, "size is not a number of bytes"),
        (4, "timeDeleted is not a time"),
        (5, "updated is missing, or not readable"),
        (6, "name is empty, or not readable"),
        (8, "too few columns"),
    ]


def test_report_of_another_bucket_is_told(read_report: Any) -> None:
    with pytest.raises(OtherBucketsReport, match="'media'"):
        read_report("gcs_insights", gcs_report([[gcs_row()]]), bucket="other")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"shard_count": 2}, "counts 2 shards and names 1"),
        ({"report_shards_file_names": None}, "no list of report_shards_file_names"),
        ({"report_shards_file_names": ["a.csv", "b.parquet"], "shard_count": 2}, "different formats"),
        ({"report_config": {"csv_options": {"delimiter": "::"}}}, "not one character"),
    ],
)
def test_manifest_is_unusable_when_it_contradicts_itself(
    read_report: Any, overrides: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnusableReport, match=reason):
        read_report("gcs_insights", gcs_report([[gcs_row()]], **overrides))


def test_damaged_file_is_told_when_parquet_does_not_open(read_report: Any) -> None:
    with pytest.raises(DamagedFile):
        read_report("gcs_insights", gcs_report([[gcs_row()]], data_format="parquet", data=[b"junk"]))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("insights/fc95c52f-157a-494f-af4a-d4a53a69ba66_2026-03-09T01:00_manifest.json", TAKEN),
        ("fc95c52f_2026-03-09T01:00:00Z_manifest.json", TAKEN),
        ("fc95c52f_2026-03-09T01-00-00_manifest.json", TAKEN),
        ("fc95c52f_2026-03-09T01:00_0.csv", None),
        ("fc95c52f_2026-13-09T01:00_manifest.json", None),
        ("manifest.json", None),
    ],
)
def test_manifests_are_told_from_other_files(key: str, expected: datetime | None) -> None:
    assert gcs_insights.taken_at(key, "media") == expected
