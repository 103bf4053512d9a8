"""Collecting inventories: whole snapshots, audited before they are published."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from inventory_report_files import (
    TAKEN,
    azure_report,
    azure_row,
    gcs_report,
    gcs_row,
    s3_report,
    s3_row,
)
from unit.workflows.inventory.world import (
    AT,
    DAY,
    Failed,
    Passed,
    World,
    a_bucket,
)

from cloudflux.domain.errors import AuditFailed, TerminalError, TransientError
from cloudflux.domain.inventory_reports import ReportFile
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.lake.snapshots import Snapshots
from cloudflux.workflows import inventory_reports


def test_snapshot_holds_all_buckets_when_reports_and_listings_are_mixed(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        a_bucket(),
        a_bucket("listed", live=True),
        a_bucket("media", Provider.AZURE),
        a_bucket("media", Provider.GCP),
    )
    world.deliver(
        s3_report([[s3_row("a"), s3_row("old", IsLatest=False, Size=5)], [s3_row("b", StorageClass="GLACIER")]])
    )
    world.deliver(
        azure_report([[azure_row("c"), azure_row("x", Name="elsewhere/x")]], data_format="parquet"), Provider.AZURE
    )
    world.deliver(gcs_report([[gcs_row("d")], [gcs_row("e", timeDeleted=AT)]]), Provider.GCP)
    world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "listed", "f"), b"12345")
    result = world.collect()
    assert world.published_keys() == ["a", "b", "c", "d", "f"]
    assert (result["objects"], result["bytes"], result["reports"]) == (5, 4 * 2048 + 5, 3)
    assert result["tiers"] == {
        "archive": {"objects": 1, "bytes": 2048},
        "hot": {"objects": 1, "bytes": 5},
        "warm": {"objects": 3, "bytes": 3 * 2048},
    }
    assert (result["noncurrent_objects"], result["noncurrent_bytes"], result["quarantined"]) == (2, 5 + 2048, 0)
    assert world.audited == [("inventory", 5)]
    assert world.taken_at == {
        ("aws", "media"): TAKEN,
        ("aws", "listed"): AT,
        ("azure", "media"): TAKEN,
        ("gcp", "media"): TAKEN,
    }
    recorded = world.reports.rows["aws", "media"]
    assert (recorded["format"], recorded["objects"], recorded["noncurrent_objects"]) == ("s3_inventory", 2, 1)
    assert recorded["manifest"].startswith("reports/inventory/media/daily/2026-03-09T01-00Z/manifest.json")
    live = world.reports.rows["aws", "listed"]
    assert (live["format"], live["manifest"], live["objects"], live["bytes"], live["taken_at"]) == (
        "live",
        "",
        1,
        5,
        AT,
    )
    assert not list((tmp_path / "_staging").rglob("*.parquet"))


def test_inventory_replaces_the_days_snapshot_when_collected_again(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(live=True))
    for number in range(12):
        storage_class = "STANDARD" if number % 3 else "GLACIER_IR"
        ref = ObjectRef(Provider.AWS, "media", f"k{number}")
        world.clients[Provider.AWS].put_object(ref, b"12345", storage_class=storage_class)
    first = world.collect("batch-1")
    assert (first["objects"], first["bytes"]) == (12, 60)
    assert first["tiers"] == {"cold": {"objects": 4, "bytes": 20}, "hot": {"objects": 8, "bytes": 40}}
    for number in range(11):
        world.clients[Provider.AWS].delete_object(ObjectRef(Provider.AWS, "media", f"k{number}"))
    assert world.collect("batch-2")["objects"] == 1
    assert world.published_keys() == ["k11"]


def test_listing_again_leaves_no_object_twice_when_the_first_was_cut_off(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(live=True))
    world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "media", "a"), b"1")
    parts = world.find()
    for _ in range(2):
        world.read(parts)
    assert (world.publish()["objects"], world.published_keys()) == (1, ["a"])


def test_buckets_keep_their_objects_when_one_name_begins_with_the_other(tmp_path: Path) -> None:
    buckets = [a_bucket(name, live=True) for name in ("media", "media-archive", "media.archive")]
    world = World(tmp_path, *buckets)
    for settings in buckets:
        world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, settings.bucket, settings.bucket), b"1")
    parts = world.find()
    world.read(parts)
    world.read(parts[:1])  # again: it must not take the others' objects away
    assert world.publish()["objects"] == 3


def test_rows_are_sorted_and_sharded_as_the_lake_does_it(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(), a_bucket("listed", live=True), shards=4)
    world.deliver(s3_report([[s3_row(f"k/{number * 7919 % 1000}") for number in range(1000)]]))
    for number in range(50):
        world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "listed", f"k/{number}"), b"1")
    world.collect()
    published = world.lake.read("inventory", days=[DAY])
    again = Snapshots(str(tmp_path / "again"), 4)
    again.stage_shards("inventory", published.take(pa.array(range(published.num_rows - 1, -1, -1))), "b")
    again.publish("inventory", "b")
    for shard in range(4):
        mine = world.lake.read("inventory", days=[DAY], shard=shard)
        assert mine.num_rows
        assert mine.equals(again.read("inventory", days=[DAY], shard=shard))


@pytest.mark.parametrize("data_format", ["CSV", "ORC", "Parquet"])
def test_bytes_are_the_same_when_rows_come_in_other_files_and_formats(tmp_path: Path, data_format: str) -> None:
    rows = [s3_row(f"k{number:04d}", Size=number) for number in range(400)]
    one, other = World(tmp_path / "one"), World(tmp_path / "other")
    one.deliver(s3_report([rows]))
    other.deliver(s3_report([rows[300:], rows[100:300][::-1], rows[:100]], data_format=data_format))
    one.collect()
    parts = other.find("x", chunk_bytes=1)
    assert len(parts) == 3
    other.read(reversed(parts), "x")
    other.publish("x")
    assert one.published_bytes() == other.published_bytes()
    assert len(one.published_bytes()) == 3


def test_later_row_stays_when_a_key_is_there_twice(world: World) -> None:
    rows = [s3_row("a", Size=1), s3_row("a", Size=2, LastModifiedDate=AT - timedelta(days=3)), s3_row("b")]
    world.deliver(s3_report([rows[:2], rows[2:]]))
    assert world.collect(chunk_bytes=1)["doubled"] == 1
    assert {row["key"]: row["size_bytes"] for row in world.lake.read("inventory").to_pylist()} == {"a": 2, "b": 2048}
    assert world.reports.rows["aws", "media"]["objects"] == 2


def test_empty_report_gives_no_objects_when_the_bucket_is_empty(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(), a_bucket("listed", live=True))
    world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "listed", "x"), b"1")
    world.deliver(s3_report([]))
    assert world.collect()["objects"] == 1
    assert world.reports.rows["aws", "media"]["objects"] == 0


def test_nothing_is_published_when_the_audit_fails(world: World) -> None:
    world.deliver(s3_report([[s3_row("a")]]))
    world.read(world.find())
    with pytest.raises(AuditFailed):
        world.publish(audit=lambda suite, data, batch, taken_at: Failed())
    assert (world.published_bytes(), world.reports.rows) == ({}, {})
    world.publish()
    assert world.published_keys() == ["a"]


def test_rows_are_left_out_when_the_audit_rejects_them(world: World) -> None:
    class Rejecting(Passed):
        rejected = pa.table(
            {"provider": ["aws"], "bucket": ["media"], "key": ["k3"], "reason": ["too big"], "raw": ["{}"]}
        )

        def kept(self, rows: pa.Table) -> pa.Table:
            return pl.DataFrame(pl.from_arrow(rows)).filter(pl.col("key") != "k3").to_arrow().cast(rows.schema)

    world.deliver(s3_report([[s3_row(f"k{number}") for number in range(20)]]))
    world.read(world.find())
    result = world.publish(audit=lambda suite, data, batch, taken_at: Rejecting())
    assert (result["objects"], result["quarantined"]) == (19, 1)
    assert "k3" not in world.published_keys()
    (row,) = world.quarantine.rows.values()
    assert (row["key"], row["reason"], row["line"]) == ("k3", "too big", 1)


def test_live_listing_fails_as_a_whole_when_a_page_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, a_bucket(live=True))
    world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "media", "a"), b"1")
    parts = world.find()
    real = world.clients[Provider.AWS].list_inventory

    def breaks(bucket: str, day: date) -> Any:
        yield from real(bucket, day)
        raise TransientError("lost")

    monkeypatch.setattr(world.clients[Provider.AWS], "list_inventory", breaks)
    with pytest.raises(TransientError):
        world.read(parts)
    with pytest.raises(TerminalError, match="was not collected"):
        world.publish()


def test_chunk_is_refused_when_it_is_not_in_the_notes(world: World) -> None:
    world.deliver(s3_report([[s3_row("a")]]))
    world.find()
    with pytest.raises(TerminalError, match="find it again"):
        world.read([(Provider.AWS, {"bucket": "media", "chunk": "other-00000"})])


def test_chunks_are_even_when_sizes_differ() -> None:
    sizes = [500, *[10] * 50, 400, *[100] * 20]
    files = [ReportFile(f"f{number:03}", size * 1_000_000) for number, size in enumerate(sizes)]
    chunks = inventory_reports.even_chunks(files, 500_000_000)
    assert sorted(place for chunk in chunks for place in chunk) == list(range(len(files)))
    filled = [sum(files[place].size_bytes or 0 for place in chunk) for chunk in chunks]
    assert max(filled) - min(filled) <= 100_000_000
    assert chunks == inventory_reports.even_chunks(files, 500_000_000)
    assert inventory_reports.even_chunks([], 1) == []
    assert len(inventory_reports.even_chunks(files, 1)) == len(files)


def test_notes_hold_ids_and_counts_only(world: World) -> None:
    world.deliver(s3_report([[s3_row("a")]]))
    parts = world.find()
    assert json.dumps(parts[0][1]) == json.dumps({"bucket": "media", "chunk": parts[0][1]["chunk"]})
    assert world.read(parts) == [
        {"records": 1, "bad": 0, "elsewhere": 0, "objects": 1, "noncurrent_objects": 0, "noncurrent_bytes": 0}
    ]
