"""Collecting inventories: the newest complete report, whole snapshots, and the same bytes whatever was cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from inventory_report_files import (
    azure_report,
    azure_row,
    gcs_report,
    gcs_row,
    s3_report,
    s3_row,
    with_checksum,
)

from cloudflux.config import BucketSettings, Estate, InventorySource
from cloudflux.domain.errors import AuditFailed, TerminalError, TransientError
from cloudflux.domain.format_notices import NoticeKind
from cloudflux.domain.inventory_reports import ReportFile
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.inventories.formats import format_of
from cloudflux.lake.snapshots import Snapshots
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.workflows import inventory, inventory_parts, inventory_reports

AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = AT.date()
FORMAT_OF = {Provider.AWS: "s3_inventory", Provider.AZURE: "azure_inventory", Provider.GCP: "gcs_insights"}
PREFIX = {Provider.AWS: "inventory/media/", Provider.AZURE: "", Provider.GCP: "insights/"}


def a_bucket(bucket: str = "media", provider: Provider = Provider.AWS, *, live: bool = False) -> BucketSettings:
    source = InventorySource(bucket="reports", prefix=PREFIX[provider], format=FORMAT_OF[provider])  # type: ignore[arg-type]  # a str here, checked at run time
    return BucketSettings(
        provider=provider,
        bucket=bucket,
        price_book="any",
        connection_id="any",
        inventory=None if live else source,
    )


@dataclass(frozen=True)
class Recorded:
    format: str
    manifest: str


class Reports:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Mapping[str, Any]] = {}

    def latest(self, provider: str, bucket: str) -> Recorded | None:
        row = self.rows.get((provider, bucket))
        return Recorded(row["format"], row["manifest"]) if row else None

    def record(self, rows: Iterable[Mapping[str, Any]], at: datetime) -> None:
        for row in rows:
            self.rows[row["provider"], row["bucket"]] = row


class Quarantine:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}

    def add(self, rows: pa.Table) -> int:
        before = len(self.rows)
        for row in rows.to_pylist():
            self.rows.setdefault((row["source_file"], row["line"]), row)
        return len(self.rows) - before


class Passed:
    rejected: pa.Table | None = None

    def raise_if_failed(self) -> None:
        pass


class Failed(Passed):
    def raise_if_failed(self) -> None:
        raise AuditFailed("the batch is wrong")


class World:
    """Buckets in memory, a lake in a folder, and the stores."""

    def __init__(self, folder: Path, *buckets: BucketSettings, shards: int = 3) -> None:
        self.estate = Estate(buckets=buckets or (a_bucket(),))
        self.clients = {provider: MemoryTierClient(provider, lambda: AT) for provider in Provider}
        for settings in self.estate.buckets:
            for name in ("reports", settings.bucket):
                self.clients[settings.provider].create_bucket(name)
        self.folder = folder
        self.lake = Snapshots(str(folder), shards)
        self.reports = Reports()
        self.quarantine = Quarantine()
        self.audited: list[tuple[str, int]] = []

    def deliver(self, files: Mapping[str, bytes], provider: Provider = Provider.AWS) -> None:
        for key, content in files.items():
            self.clients[provider].put_object(ObjectRef(provider, "reports", key), content)

    def remove(self, key: str, provider: Provider = Provider.AWS) -> None:
        self.clients[provider].delete_object(ObjectRef(provider, "reports", key))

    def audit(self, suite: str, data: Any, batch: str) -> Passed:
        self.audited.append((suite, data.count_rows()))
        return Passed()

    def find(
        self, batch: str = "b", *, now: datetime = AT, chunk_bytes: int = 1 << 28
    ) -> list[tuple[Provider, dict[str, str]]]:
        return [
            (provider, part)
            for provider in Provider
            for part in inventory_reports.find_inventories(
                self.estate,
                lambda of, connection: self.clients[of],
                format_of,
                self.reports,
                self.lake,
                provider=provider,
                batch=batch,
                now=now,
                chunk_bytes=chunk_bytes,
            )
        ]

    def read(self, parts: Iterable[tuple[Provider, dict[str, str]]], batch: str = "b") -> list[dict[str, int]]:
        return [
            inventory_parts.collect_part(
                self.estate,
                lambda of, connection: self.clients[of],
                format_of,
                self.lake,
                provider=provider.value,
                **part,
                batch=batch,
                day=DAY,
                clock=lambda: AT,
            )
            for provider, part in parts
        ]

    def publish(self, batch: str = "b", audit: Callable[..., Any] | None = None) -> dict[str, Any]:
        return inventory.publish_inventory(
            self.lake,
            self.reports,
            self.quarantine,
            audit or self.audit,
            batch=batch,
            day=DAY,
            clock=lambda: AT,
        )

    def collect(self, batch: str = "b", **options: Any) -> dict[str, Any]:
        self.read(self.find(batch, **options), batch)
        return self.publish(batch)

    def published_keys(self) -> list[str]:
        return sorted(row["key"] for row in self.lake.read("inventory", days=[DAY]).to_pylist())

    def published_bytes(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted((self.folder / "inventory").rglob("*.parquet"))
        }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "lake")


def days_before(days: float) -> datetime:
    return (AT - timedelta(days=days)).replace(second=0)


# -- whole snapshots ---------------------------------------------------------------------------------------------------


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


# -- which report ------------------------------------------------------------------------------------------------------


def test_newest_report_is_read_when_there_are_several(world: World) -> None:
    world.deliver(s3_report([[s3_row("old")]], taken_at=days_before(2)))
    world.deliver(s3_report([[s3_row("new")]], taken_at=days_before(1)))
    world.deliver(s3_report([[s3_row("foreign", Bucket="other")]], taken_at=days_before(0.5), bucket="other"))
    assert world.collect()["passed_over"] == []
    assert world.published_keys() == ["new"]


def damaged(files: dict[str, bytes], how: str) -> dict[str, bytes]:
    manifest = next(key for key in files if key.endswith("manifest.json"))
    checksum = manifest.removesuffix(".json") + ".checksum"
    data = next(key for key in files if "/data/" in key)
    match how:
        case "no checksum":
            del files[checksum]
        case "wrong checksum":
            files[checksum] = b"d41d8cd98f00b204e9800998ecf8427e"
        case "changed manifest":
            files[manifest] += b" "
        case "no JSON":
            files |= with_checksum(manifest, {})
        case "missing file":
            del files[data]
        case "short file":
            files[data] = files[data][:-1]
    return files


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no checksum", "its checksum is not there"),
        ("wrong checksum", "not that of the manifest"),
        ("changed manifest", "not that of the manifest"),
        ("no JSON", "no sourceBucket"),
        ("missing file", r"daily/data/.* is not there"),
        ("short file", r"has \d+ bytes, not \d+"),
    ],
)
def test_report_before_is_read_when_the_newest_is_not_whole(world: World, how: str, reason: str) -> None:
    newest = damaged(s3_report([[s3_row("new")]], taken_at=days_before(1)), how)
    world.deliver(newest)
    with pytest.raises(
        TerminalError, match=f"no complete s3_inventory report of aws bucket 'media' below reports/.*{reason}"
    ):
        world.find("first")
    world.deliver(s3_report([[s3_row("old")]], taken_at=days_before(2)))
    result = world.collect()
    assert world.published_keys() == ["old"]
    assert [text.split(": ", 1)[0].rsplit("/", 2)[1] for text in result["passed_over"]] == ["2026-03-09T12-00Z"]


@pytest.mark.parametrize("provider", list(Provider))
def test_missing_report_is_an_error_that_says_where_it_looked(tmp_path: Path, provider: Provider) -> None:
    world = World(tmp_path, a_bucket(provider=provider))
    world.clients[provider].put_object(ObjectRef(provider, "media", "a"), b"1")
    with pytest.raises(
        TerminalError, match=f"no complete {FORMAT_OF[provider]} report of {provider} bucket 'media' below reports/"
    ):
        world.find()
    with pytest.raises(TerminalError, match=r"inventory\.prefix"):
        world.find()


def test_every_bucket_without_a_report_is_named_when_there_are_several(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket("one"), a_bucket("two"))
    with pytest.raises(TerminalError, match=r"'one'.*'two'"):
        world.find()


def test_report_is_refused_when_it_is_older_than_eight_days(world: World) -> None:
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(8.01)))
    with pytest.raises(TerminalError, match=r"is of 2026-03-02 11:45 UTC, older than 8 days"):
        world.find()
    world.deliver(s3_report([[s3_row("b")]], taken_at=days_before(7.9)))
    assert world.collect()["objects"] == 1


def test_old_report_tells_what_was_passed_over_when_the_newest_is_not_whole(world: World) -> None:
    world.deliver(damaged(s3_report([[s3_row("a")]], taken_at=days_before(1)), "no checksum"))
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(10)))
    with pytest.raises(TerminalError, match=r"older than 8 days.*passed over: .*checksum is not there"):
        world.find()


def test_reports_of_years_are_not_all_read_when_none_can_be_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for days in range(9, 60):
        world.deliver(damaged(s3_report([[s3_row("a")]], taken_at=days_before(days)), "no JSON"))
    client, read = world.clients[Provider.AWS], []
    real = client.get_object
    monkeypatch.setattr(client, "get_object", lambda ref: read.append(ref) or real(ref))
    with pytest.raises(TerminalError, match="no complete s3_inventory report"):
        world.find()
    assert len(read) == 40


def test_azure_run_is_passed_over_when_it_is_not_over(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(provider=Provider.AZURE))
    world.deliver(azure_report([[azure_row("old")]], taken_at=days_before(1)), Provider.AZURE)
    world.deliver(azure_report([[azure_row("new")]], taken_at=days_before(0.5), status="Pending"), Provider.AZURE)
    world.deliver(
        azure_report([[azure_row("b")]], taken_at=days_before(0.1), rule="few", filters={"prefixMatch": ["x"]}),
        Provider.AZURE,
    )
    assert len(world.collect()["passed_over"]) == 2
    assert world.published_keys() == ["old"]


def test_gcs_report_before_is_read_when_a_shard_is_missing(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(provider=Provider.GCP))
    world.deliver(gcs_report([[gcs_row("old")]], taken_at=days_before(1)), Provider.GCP)
    newest = gcs_report([[gcs_row("new")], [gcs_row("lost")]], taken_at=days_before(0.5))
    del newest[next(key for key in newest if key.endswith("_1.csv"))]
    world.deliver(newest, Provider.GCP)
    assert world.collect()["objects"] == 1
    assert world.published_keys() == ["old"]


def test_files_are_found_when_the_manifest_has_lost_a_slash(tmp_path: Path) -> None:
    world = World(tmp_path)
    files = s3_report([[s3_row("a")]])
    world.deliver({key.replace("inventory/media/", "inventory/media//"): content for key, content in files.items()})
    assert world.collect()["objects"] == 1


def test_files_are_found_when_they_lie_outside_the_prefix(tmp_path: Path) -> None:
    settings = a_bucket()
    assert settings.inventory
    deep = settings.inventory.model_copy(update={"prefix": "inventory/media/daily/2026"})
    world = World(tmp_path, settings.model_copy(update={"inventory": deep}))
    world.deliver(s3_report([[s3_row("a")]]))
    assert world.collect()["objects"] == 1


# -- damage and bad rows -----------------------------------------------------------------------------------------------


def test_report_is_refused_with_the_files_name_when_its_md5_is_wrong(world: World) -> None:
    files = s3_report([[s3_row("a")], [s3_row("b")]])
    data = sorted(key for key in files if "/data/" in key)[1]
    files[data] = bytes([*files[data][:-1], files[data][-1] ^ 1])
    world.deliver(files)
    parts = world.find()
    with pytest.raises(TerminalError, match=rf"{data} is damaged: its MD5 is"):
        world.read(parts)
    with pytest.raises(TerminalError, match="was not collected"):
        world.publish()
    assert world.published_bytes() == {}


def test_report_is_refused_with_the_files_name_when_parquet_does_not_open(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(provider=Provider.GCP))
    world.deliver(gcs_report([[gcs_row()]], data_format="parquet", data=[b"PAR1 no more"]), Provider.GCP)
    with pytest.raises(TerminalError, match=r"_0\.parquet is damaged"):
        world.read(world.find())


def test_report_is_refused_when_a_file_expires_meanwhile(world: World) -> None:
    files = s3_report([[s3_row("a")]])
    world.deliver(files)
    parts = world.find()
    world.remove(next(key for key in files if "/data/" in key))
    with pytest.raises(TerminalError, match="is damaged: it is gone"):
        world.read(parts)


def test_bad_rows_go_to_quarantine_when_they_are_few(world: World) -> None:
    rows = [s3_row(f"k{number}", Size="junk" if number in (7, 250) else 1) for number in range(300)]
    world.deliver(s3_report([rows]))
    result = world.collect()
    assert (result["objects"], result["quarantined"]) == (298, 2)
    assert sorted(line for _, line in world.quarantine.rows) == [8, 251]
    row = next(iter(world.quarantine.rows.values()))
    assert (row["provider"], row["bucket"], row["reason"]) == ("aws", "reports", "Size is not a number of bytes")
    assert row["key"].endswith(".csv.gz")
    assert '"key": "k7"' in row["raw"]
    assert world.reports.rows["aws", "media"]["quarantined"] == 2
    assert world.collect("again")["quarantined"] == 2
    assert len(world.quarantine.rows) == 2


def test_report_is_refused_when_more_than_one_row_in_a_hundred_is_bad(world: World) -> None:
    rows = [s3_row(f"k{number}", Size="junk" if number in (7, 8, 250, 251) else 1) for number in range(300)]
    world.deliver(s3_report([rows[:150], rows[150:]]))
    world.read(world.find(chunk_bytes=1))
    with pytest.raises(
        TerminalError, match=r"manifest.json of aws bucket 'media' is refused: 4 of 300 rows.*row 8: Size is"
    ):
        world.publish()
    assert (world.published_bytes(), world.quarantine.rows, world.reports.rows) == ({}, {}, {})


@pytest.mark.parametrize("provider", [Provider.AZURE, Provider.GCP])
def test_report_is_refused_when_rows_are_missing(tmp_path: Path, provider: Provider) -> None:
    world = World(tmp_path, a_bucket(provider=provider))
    if provider is Provider.AZURE:
        world.deliver(azure_report([[azure_row("a")]], summary={"objectCount": 2}), provider)
    else:
        world.deliver(gcs_report([[gcs_row("a")]], records_processed=2), provider)
    world.read(world.find())
    with pytest.raises(TerminalError, match="its manifest counts 2 rows, its data files have 1"):
        world.publish()


def test_report_is_refused_when_it_tells_of_another_bucket_only(world: World) -> None:
    world.deliver(s3_report([[s3_row("a", Bucket="other")]]))
    world.read(world.find())
    with pytest.raises(TerminalError, match="tells of another bucket only"):
        world.publish()


def test_container_is_empty_when_an_account_has_blobs_elsewhere_only(tmp_path: Path) -> None:
    world = World(tmp_path, a_bucket(provider=Provider.AZURE))
    world.deliver(azure_report([[azure_row("a", Name="other/a")]]), Provider.AZURE)
    assert world.collect()["objects"] == 0


def test_column_is_named_before_anything_is_read_when_it_is_missing(world: World) -> None:
    row = s3_row()
    del row["StorageClass"]
    world.deliver(s3_report([[row]]))
    with pytest.raises(TerminalError, match="has no StorageClass: switch on StorageClass"):
        world.find()


# -- drift -------------------------------------------------------------------------------------------------------------


def kinds(result: Mapping[str, Any]) -> list[tuple[NoticeKind, str]]:
    return [(notice.kind, notice.name) for notice in result["notices"]]


def test_drift_is_noticed_once_when_it_comes(world: World) -> None:
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(3)))
    assert kinds(world.collect("one")) == []
    swapped = {"Key": "a", "Bucket": "media"} | {k: v for k, v in s3_row("a").items() if k not in ("Key", "Bucket")}
    world.deliver(s3_report([[swapped | {"Mood": "fine", "StorageClass": "FROZEN"}]], taken_at=days_before(2)))
    result = world.collect("two")
    assert [kind for kind, _ in kinds(result)] == [
        NoticeKind.CHANGED_ORDER,
        NoticeKind.NEW_FIELD,
        NoticeKind.NEW_FIELD,
        NoticeKind.UNKNOWN_CLASS,
    ]
    assert world.lake.read("inventory")["tier"].to_pylist() == ["hot"]
    # The same report again, a week long: what was new in its manifest is no news.
    assert [kind for kind, _ in kinds(world.collect("three"))] == [NoticeKind.NEW_FIELD, NoticeKind.UNKNOWN_CLASS]


def test_unknown_class_is_noticed_when_a_bucket_is_listed_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, a_bucket(live=True))
    world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "media", "a"), b"1")
    real = world.clients[Provider.AWS].list_inventory

    def listed(bucket: str, day: date) -> Any:
        for rows in real(bucket, day):
            place = rows.schema.get_field_index("storage_class")
            yield rows.set_column(place, rows.schema.field(place), pa.array(["SNOW"] * rows.num_rows))

    monkeypatch.setattr(world.clients[Provider.AWS], "list_inventory", listed)
    assert kinds(world.collect()) == [(NoticeKind.UNKNOWN_CLASS, "SNOW")]


def test_order_is_compared_with_the_report_that_was_read_last(world: World) -> None:
    swapped = {"Key": "a", "Bucket": "media"} | {k: v for k, v in s3_row("a").items() if k not in ("Key", "Bucket")}
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(3)))
    world.collect("one")
    world.deliver(s3_report([[swapped]], taken_at=days_before(2)))
    world.deliver(s3_report([[swapped]], taken_at=days_before(1)))
    assert [kind for kind, _ in kinds(world.collect("two"))] == [NoticeKind.CHANGED_ORDER]


def test_order_is_compared_with_the_report_before_when_none_was_read(world: World) -> None:
    swapped = {"Key": "a", "Bucket": "media"} | {k: v for k, v in s3_row("a").items() if k not in ("Key", "Bucket")}
    world.deliver(s3_report([[s3_row("a")]], taken_at=days_before(3)))
    world.deliver(s3_report([[swapped]], taken_at=days_before(2)))
    assert [kind for kind, _ in kinds(world.collect())] == [NoticeKind.CHANGED_ORDER]


# -- cut off -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def fill(world: World) -> None:
    rows = [s3_row(f"k{number:03d}", Size="junk" if number == 5 else number) for number in range(200)]
    world.deliver(s3_report([rows[:120], rows[120:]]))
    for number in range(20):
        world.clients[Provider.AWS].put_object(ObjectRef(Provider.AWS, "listed", f"l{number}"), b"1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    world = World(tmp_path_factory.mktemp("whole"), a_bucket(), a_bucket("listed", live=True))
    fill(world)
    world.collect(chunk_bytes=1)
    return world.published_bytes()


STEPS = [
    *(("note", call) for call in range(1, 12)),
    *(("stage_run", call) for call in range(1, 4)),
    *((step, 1) for step in ("stage_rows", "merge_runs", "publish", "keep_only", "discard", "add", "record")),
    *(("staged", call) for call in (1, 2)),
]
"""All calls that change something, in one run of three parts."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]}-{step[1]}")
def test_bytes_are_the_same_when_a_run_is_killed_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes], step: tuple[str, int], after: bool
) -> None:
    name, call = step
    world = World(tmp_path, a_bucket(), a_bucket("listed", live=True))
    fill(world)
    owner: Any = {"add": world.quarantine, "record": world.reports}.get(name, world.lake)
    real, calls = getattr(owner, name), 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        result = real(*args, **kwargs)
        if calls == call:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        parts = attempt(lambda: world.find(chunk_bytes=1), again=2)
        for part in parts:
            attempt(partial(world.read, [part]), again=2)
        attempt(world.publish, again=2)
    assert calls >= call, "the step was never killed"
    assert world.published_bytes() == undisturbed
    assert sorted(line for _, line in world.quarantine.rows) == [6]
    assert set(world.reports.rows) == {("aws", "media"), ("aws", "listed")}
    assert world.publish()["objects"] == 219
    assert world.published_bytes() == undisturbed


def attempt(task: Callable[[], Any], again: int) -> Any:
    """Run a task as Airflow does: anew after it was killed."""
    for _ in range(again):
        try:
            return task()
        except Killed:
            continue
    raise AssertionError("it was killed more than once")


def test_snapshot_is_whole_when_a_publication_is_killed_between_two_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    world = World(tmp_path, a_bucket(), a_bucket("listed", live=True))
    fill(world)
    world.read(world.find())
    real, calls = os.replace, 0

    def killed(source: Any, target: Any) -> None:
        nonlocal calls
        if "_staging" not in str(target):
            calls += 1
            if calls == 2:
                raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            world.publish()
    world.publish()
    assert world.published_bytes() == undisturbed


def test_another_report_leaves_nothing_behind_when_it_comes_between_two_attempts(world: World) -> None:
    world.deliver(s3_report([[s3_row("old")], [s3_row("older")]], taken_at=days_before(2)))
    world.read(world.find(chunk_bytes=1))
    world.deliver(s3_report([[s3_row("new")]], taken_at=days_before(1)))
    world.read(world.find())
    assert world.publish()["objects"] == 1
    assert world.published_keys() == ["new"]


def test_nothing_is_published_when_the_audit_fails(world: World) -> None:
    world.deliver(s3_report([[s3_row("a")]]))
    world.read(world.find())
    with pytest.raises(AuditFailed):
        world.publish(audit=lambda suite, data, batch: Failed())
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
    result = world.publish(audit=lambda suite, data, batch: Rejecting())
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
