"""S3 Inventory: three data formats, one meaning."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from foreign_warnings import GREAT_EXPECTATIONS
from inventory_report_files import CHANGED, S3_NAMES, S3_TYPES, TAKEN, parquet, s3_csv, s3_report, s3_row, table

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.format_notices import NoticeKind
from cloudflux.domain.inventory_reports import DamagedFile, InventoryReport, OtherBucketsReport, UnusableReport
from cloudflux.inventories import s3_inventory
from cloudflux.lake.schemas import INVENTORY
from cloudflux.quality import audit

FORMATS = ["CSV", "ORC", "Parquet"]


@pytest.mark.parametrize("data_format", FORMATS)
def test_rows_are_mapped_when_read(read_report: Any, data_format: str) -> None:
    rows = [s3_row(), s3_row("old", IsLatest=False, Size=7), s3_row("gone", IsDeleteMarker=True, Size=None, ETag=None)]
    found = read_report(
        "s3_inventory", s3_report([rows, [s3_row("z", StorageClass="GLACIER")]], data_format=data_format)
    )
    assert found.objects[0] == {
        "provider": "aws",
        "bucket": "media",
        "key": "a/b.bin",
        "version_id": "v1",
        "size_bytes": 2048,
        "storage_class": "STANDARD_IA",
        "tier": "warm",
        "etag": "9b2cf535f27731c974343645a3985328",
        "last_modified_at": CHANGED,
        "class_since_at": CHANGED,
        "content_type": None,
        "lock_reason": None,
        "day": datetime(2026, 3, 10, tzinfo=UTC).date(),
    }
    assert [(row["key"], row["tier"]) for row in found.objects] == [("a/b.bin", "warm"), ("z", "archive")]
    assert (found.records, found.bad, found.noncurrent) == (4, 0, (1, 7))
    assert found.report.taken_at == TAKEN
    assert found.notices == []


@pytest.mark.parametrize("data_format", FORMATS)
def test_locks_are_named_when_an_object_has_one(read_report: Any, data_format: str) -> None:
    until = datetime(2026, 6, 1, 12, tzinfo=UTC)
    rows = [
        s3_row("held", ObjectLockLegalHoldStatus="ON"),
        s3_row("kept", ObjectLockRetainUntilDate=until, ObjectLockMode="COMPLIANCE"),
        s3_row("kept-no-mode", ObjectLockRetainUntilDate=until),
        s3_row("over", ObjectLockRetainUntilDate=datetime(2026, 3, 9, tzinfo=UTC), ObjectLockMode="GOVERNANCE"),
    ]
    found = read_report("s3_inventory", s3_report([rows], data_format=data_format))
    assert {row["key"]: row["lock_reason"] for row in found.objects} == {
        "held": "legal hold",
        "kept": "compliance retention until 2026-06-01 12:00 UTC",
        "kept-no-mode": "retention until 2026-06-01 12:00 UTC",
        "over": None,
    }


@pytest.mark.parametrize("data_format", FORMATS)
def test_all_is_live_when_the_list_has_current_versions_only(read_report: Any, data_format: str) -> None:
    row = {name: value for name, value in s3_row().items() if name not in ("VersionId", "IsLatest", "IsDeleteMarker")}
    found = read_report("s3_inventory", s3_report([[row]], data_format=data_format))
    assert found.keys == ["a/b.bin"]
    assert found.objects[0]["version_id"] is None
    assert found.notices == []


@pytest.mark.parametrize("data_format", FORMATS)
def test_unknown_class_counts_as_hot_and_is_noticed(read_report: Any, data_format: str) -> None:
    found = read_report("s3_inventory", s3_report([[s3_row(StorageClass="FROZEN")]], data_format=data_format))
    assert found.objects[0]["tier"] == "hot"
    assert [(notice.kind, notice.name) for notice in found.notices] == [(NoticeKind.UNKNOWN_CLASS, "FROZEN")]


def test_columns_follow_the_manifest_when_their_order_is_another(read_report: Any) -> None:
    row = dict(reversed(list(s3_row().items())))
    assert read_report("s3_inventory", s3_report([[row]])).keys == ["a/b.bin"]


def test_new_and_missing_columns_are_noticed(read_report: Any) -> None:
    row = s3_row() | {"Temperature": "cold", "IntelligentTieringAccessTier": "FREQUENT"}
    del row["ObjectLockMode"]
    for data_format in ("CSV", "Parquet"):
        found = read_report("s3_inventory", s3_report([[row]], data_format=data_format))
        assert [(notice.kind, notice.name) for notice in found.notices] == [
            (NoticeKind.NEW_FIELD, "Temperature"),
            (NoticeKind.MISSING_FIELD, "ObjectLockMode"),
        ]


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("column", ["Key", "Size", "StorageClass", "ETag", "LastModifiedDate"])
def test_missing_column_is_an_error_that_says_what_to_switch_on(
    read_report: Any, data_format: str, column: str
) -> None:
    row = s3_row()
    del row[column]
    with pytest.raises(TerminalError, match=f"has no {column}: switch on {column} among the optional fields"):
        read_report("s3_inventory", s3_report([[row]], data_format=data_format))


def test_bad_rows_are_quarantined_and_good_ones_kept_when_read(read_report: Any) -> None:
    lines = s3_csv(
        [
            s3_row("a"),
            s3_row("no size", Size="many"),
            s3_row("b"),
            s3_row("negative", Size=-1),
            s3_row("no date", LastModifiedDate="yesterday"),
            s3_row("no etag", ETag=None),
            s3_row("maybe", IsLatest="maybe"),
            s3_row("no class", StorageClass=None),
            s3_row("lock", ObjectLockRetainUntilDate="for ever"),
            s3_row("", Size=1),
            s3_row("c"),
        ]
    )
    text = (
        gzip.decompress(lines)
        + b'"media","short"\n'
        + b'"media","%zz","v1","true","false","1","2026-01-01T00:00:00.000Z",'
        + b'"e","STANDARD","false","","",""\n'
        + b'"media","bad%FF","v1","true","false","1","2026-01-01T00:00:00.000Z","e","STANDARD","false","","",""\n'
        + b'"media","raw\xff","v1","true","false","1","2026-01-01T00:00:00.000Z","e","STANDARD","false","","",""\n'
    )
    found = read_report("s3_inventory", s3_report([[s3_row()]], data=[gzip.compress(text)]))
    assert found.keys == ["a", "b", "c"]
    assert found.reasons == [
        (2, "Size is not a number of bytes"),
        (4, "Size is not a number of bytes"),
        (5, "LastModifiedDate is missing, or not readable"),
        (6, "ETag is missing, or not readable"),
        (7, "IsLatest is neither true nor false"),
        (8, "StorageClass is missing, or not readable"),
        (9, "ObjectLockRetainUntilDate is not a time"),
        (10, "Key is empty, or not readable"),
        (12, "too few columns"),
        (13, "Key is empty, or not readable"),
        (14, "Key is empty, or not readable"),
        (15, "the text is not UTF-8"),
    ]
    assert found.bad == 12
    assert '"size": "many"' in found.quarantine[0]["raw"]
    assert found.quarantine[8]["raw"] == '"media","short"'
    assert "%zz" in found.quarantine[9]["raw"]
    assert len({row["source_file"] for row in found.quarantine}) == 1


@GREAT_EXPECTATIONS
@pytest.mark.parametrize("data_format", FORMATS)
def test_rows_that_the_audit_would_reject_keep_their_file_and_row(read_report: Any, data_format: str) -> None:
    rows = [
        s3_row("a"),
        s3_row("huge", Size=2**50 + 1),
        s3_row("b", Size=2**50),
        s3_row("bare", ETag='""'),
        s3_row("old", IsLatest=False, Size=2**51),
    ]
    found = read_report("s3_inventory", s3_report([rows], data_format=data_format))
    assert found.keys == ["a", "b"]
    assert found.reasons == [
        (2, "Size is more than 1125899906842624 bytes"),
        (4, "ETag is empty"),
        (5, "Size is more than 1125899906842624 bytes"),
    ]
    assert {row["key"].rpartition("-")[2].partition(".")[0] for row in found.quarantine} == {"0"}
    assert audit("inventory", pa.Table.from_pylist(found.objects, schema=INVENTORY), "b").rejected is None


def test_rows_have_their_numbers_when_a_file_has_more_than_one_batch(read_report: Any) -> None:
    rows = [s3_row(f"k{number}", Size="x" if number in (5, 200_000) else 1) for number in range(200_010)]
    found = read_report("s3_inventory", s3_report([rows]))
    assert [line for line, _ in found.reasons] == [6, 200_001]
    assert found.records == 200_010
    typed = [row | {"Size": None if row["Size"] == "x" else 1} for row in rows]
    for data_format in ("Parquet", "ORC"):
        again = read_report("s3_inventory", s3_report([typed], data_format=data_format))
        assert [line for line, _ in again.reasons] == [6, 200_001]
        assert again.keys == found.keys


def test_rows_of_another_bucket_are_left_out_when_there_are_some(read_report: Any) -> None:
    found = read_report("s3_inventory", s3_report([[s3_row("a"), s3_row("b", Bucket="other", Size="junk")]]))
    assert (found.keys, found.elsewhere, found.bad) == (["a"], 1, 0)


def test_binary_columns_are_text_when_parquet_does_not_say_so(read_report: Any) -> None:
    content = table([s3_row("ünïcode")], S3_TYPES, S3_NAMES)
    for name in ("key", "e_tag"):
        place = content.schema.get_field_index(name)
        content = content.set_column(place, name, content[name].cast(pa.binary()))
    found = read_report("s3_inventory", s3_report([[s3_row()]], data_format="Parquet", data=[parquet(content)]))
    assert found.keys == ["ünïcode"]


@pytest.mark.parametrize(
    ("data_format", "cut"),
    [("CSV", 10), ("CSV", -10), *((form, cut) for form in ("ORC", "Parquet") for cut in (0, 10, -10))],
)
def test_damaged_file_is_told_when_it_is_cut_off(read_report: Any, data_format: str, cut: int) -> None:
    whole = next(iter(s3_report([[s3_row(str(n)) for n in range(100)]], data_format=data_format).values()))
    with pytest.raises(DamagedFile):
        read_report("s3_inventory", s3_report([[s3_row()]], data_format=data_format, data=[whole[:cut]]))


def test_empty_csv_gives_nothing_when_the_bucket_is_empty(read_report: Any) -> None:
    assert read_report("s3_inventory", s3_report([[s3_row()]], data=[b""])).keys == []


@pytest.mark.parametrize(
    ("key", "bucket", "expected"),
    [
        ("inventory/media/daily/2026-03-09T01-00Z/manifest.json", "media", TAKEN),
        ("media/daily/2026-03-09T01-00Z/manifest.json", "media", TAKEN),
        ("inventories//media/daily/2026-03-09T01-00Z/manifest.json", "media", TAKEN),
        ("2026-03-09T01-00Z/manifest.json", "media", TAKEN),
        ("inventory/other/daily/2026-03-09T01-00Z/manifest.json", "media", None),
        ("inventory/media/daily/2026-03-09T01-00Z/manifest.checksum", "media", None),
        ("inventory/media/daily/2026-13-09T01-00Z/manifest.json", "media", None),
        ("inventory/media/daily/2026-03-09T01-00Z/manifest.json.bak", "media", None),
        ("inventory/media/daily/data/x.csv.gz", "media", None),
    ],
)
def test_manifests_are_told_from_other_files(key: str, bucket: str, expected: datetime | None) -> None:
    assert s3_inventory.taken_at(key, bucket) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no sourceBucket"),
        (b'{"sourceBucket": "media", "fileFormat": "CSV", "fileSchema": "Key"}', "no list of files"),
        (b'{"sourceBucket": "media", "fileFormat": "XML", "fileSchema": "Key", "files": []}', "'xml'"),
        (b'{"sourceBucket": "media", "fileFormat": "CSV", "fileSchema": " , ", "files": []}', "names no columns"),
        (b'{"sourceBucket": "media", "fileFormat": "CSV", "fileSchema": "Key", "files": [{"key": 1}]}', "no key"),
    ],
)
def test_manifest_is_unusable_when_it_is_not_whole(content: bytes, reason: str) -> None:
    with pytest.raises(UnusableReport, match=reason):
        s3_inventory.read_manifest("reports", "media/daily/2026-03-09T01-00Z/manifest.json", content, "media")


def test_manifest_of_another_bucket_is_told() -> None:
    with pytest.raises(OtherBucketsReport, match="'other'"):
        s3_inventory.read_manifest("reports", "m", b'{"sourceBucket": "other"}', "media")


def test_report_survives_notes_when_written_and_read(read_report: Any) -> None:
    report = read_report("s3_inventory", s3_report([[s3_row()]], version="2027-01-01")).report
    assert InventoryReport.from_json(report.to_json()) == report
    assert report.unknown_version == "2027-01-01"
    assert [notice.kind for notice in s3_inventory.check(report, ())] == [NoticeKind.UNKNOWN_VERSION]


def test_changed_order_is_noticed_when_the_report_before_had_another(read_report: Any) -> None:
    report = read_report("s3_inventory", s3_report([[s3_row()]])).report
    swapped = ("Key", "Bucket", *report.fields[2:])
    assert [(n.kind, n.name[:12]) for n in s3_inventory.check(report, swapped)] == [
        (NoticeKind.CHANGED_ORDER, "Bucket, Key,")
    ]
    told = s3_inventory.check(report, (*report.fields[:-1], "Dropped"))
    assert [(notice.kind, notice.name) for notice in told] == [
        (NoticeKind.NEW_FIELD, "ObjectLockLegalHoldStatus"),
        (NoticeKind.MISSING_FIELD, "Dropped"),
    ]
    assert s3_inventory.check(report, report.fields) == []
