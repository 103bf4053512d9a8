"""Snapshots out of sorted runs: one order whatever the runs and ranges, in a folder and at a URL."""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

import fsspec
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.lake import row_groups, snapshots
from cloudflux.lake.schemas import INVENTORY
from cloudflux.lake.shards import shard_of
from cloudflux.lake.snapshots import Snapshots

DAY = date(2026, 3, 10)
AT = datetime(2026, 3, 1, tzinfo=UTC)


def objects(*keys: str, size: int = 1, at: datetime = AT, provider: str = "aws", bucket: str = "media") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "provider": [provider] * len(keys),
            "bucket": [bucket] * len(keys),
            "key": list(keys),
            "version_id": [None] * len(keys),
            "size_bytes": [size] * len(keys),
            "storage_class": ["STANDARD"] * len(keys),
            "tier": ["hot"] * len(keys),
            "etag": [f"e{key}" for key in keys],
            "last_modified_at": [at] * len(keys),
            "class_since_at": [at] * len(keys),
            "content_type": [None] * len(keys),
            "lock_reason": [None] * len(keys),
            "day": [DAY] * len(keys),
        },
        schema=pl.Schema(INVENTORY),
    )


def published(lake: Snapshots, runs: list[tuple[str, str, str]], range_rows: int = 500_000) -> list[str]:
    written, _ = lake.merge_runs(runs, DAY, "b", range_rows=range_rows)
    lake.publish("inventory", "b")
    assert [shard for _, shard in written] == lake.published_shards("inventory", DAY)
    return [
        f"{row['provider']} {row['bucket']} {row['key']}"
        for row in lake.read("inventory", days=[DAY]).select(["provider", "bucket", "key"]).to_pylist()
    ]


def test_objects_are_in_their_shards_and_sorted_when_merged(tmp_path: Path) -> None:
    lake = Snapshots(str(tmp_path), 4)
    keys = [f"k{number * 31 % 500}" for number in range(500)]
    lake.stage_run("aws", "media", "one", objects(*keys[:200]), "b")
    lake.stage_run("aws", "media", "two", objects(*keys[200:]), "b")
    lake.stage_run("azure", "a", "one", objects("x", provider="azure", bucket="a"), "b")
    lake.merge_runs([("azure", "a", "one"), ("aws", "media", "two"), ("aws", "media", "one")], DAY, "b")
    lake.publish("inventory", "b")
    for shard in range(4):
        rows = lake.read("inventory", days=[DAY], shard=shard).to_pylist()
        names = [(row["provider"], row["bucket"], row["key"]) for row in rows]
        assert names == sorted(names)
        assert {shard_of(*name, 4) for name in names} == {shard}
    assert lake.read("inventory", days=[DAY]).num_rows == 501


@pytest.mark.parametrize("range_rows", [1, 7, 50, 10_000])
def test_bytes_are_the_same_when_ranges_and_runs_differ(
    tmp_path: Path, range_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_RUN_ROW_GROUP", 16)
    monkeypatch.setattr(row_groups, "ROW_GROUP", 64)
    keys = [f"k{number:04d}" for number in range(600)]
    whole, cut = Snapshots(str(tmp_path / "whole"), 2), Snapshots(str(tmp_path / "cut"), 2)
    whole.stage_run("aws", "media", "all", objects(*keys), "b")
    published(whole, [("aws", "media", "all")])
    for number in range(5):
        cut.stage_run("aws", "media", f"r{number}", objects(*keys[number::5][::-1]), "b")
    published(cut, [("aws", "media", f"r{number}") for number in (3, 0, 4, 1, 2)], range_rows)
    for shard in range(2):
        name = f"inventory/day=2026-03-10/shard={shard:04d}.parquet"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
        groups = pq.read_metadata(tmp_path / "cut" / name)
        sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
        assert set(sizes[:-1]) == {64}


@settings(max_examples=40)
@given(
    keys=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    range_rows=st.integers(1, 30),
)
def test_every_key_is_there_once_in_order_whatever_the_keys(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], cuts: list[int], range_rows: int
) -> None:
    lake = Snapshots(str(tmp_path_factory.mktemp("lake")), 1)
    ends = [0, *sorted(cuts), len(keys)]
    runs = []
    for number, (start, end) in enumerate(pairwise(ends)):
        if keys[start:end]:
            lake.stage_run("aws", "media", str(number), objects(*keys[start:end]), "b")
            runs.append(("aws", "media", str(number)))
    found = published(lake, runs, range_rows)
    assert found == [f"aws media {key}" for key in sorted(set(keys), key=lambda key: key.encode())]


def test_row_that_was_written_last_stays_when_a_key_is_doubled(tmp_path: Path) -> None:
    lake = Snapshots(str(tmp_path), 1)
    later = AT.replace(day=2)
    lake.stage_run("aws", "media", "one", objects("a", "b", size=1, at=later), "b")
    lake.stage_run("aws", "media", "two", objects("a", "c", "c", size=2), "b")
    _, merged = lake.merge_runs([("aws", "media", "two"), ("aws", "media", "one")], DAY, "b")
    counts = merged["aws", "media"]
    assert (counts.objects, counts.bytes, counts.doubled) == (3, 1 + 1 + 2, 2)
    rows = lake.staged("inventory", "b").to_table().to_pylist()
    assert [(row["key"], row["size_bytes"]) for row in rows] == [("a", 1), ("b", 1), ("c", 2)]


def test_run_is_replaced_when_it_is_written_again(tmp_path: Path) -> None:
    lake = Snapshots(str(tmp_path), 4)
    lake.stage_run("aws", "media", "one", objects("a", "b", "c", "d", "e"), "b")
    lake.stage_run("aws", "media", "one", objects("z"), "b")
    lake.stage_run("aws", "media", "other", objects("never merged"), "b")
    assert published(lake, [("aws", "media", "one")]) == ["aws media z"]


def test_runs_of_one_bucket_alone_go_when_discarded(tmp_path: Path) -> None:
    lake = Snapshots(str(tmp_path), 1)
    for bucket in ("media", "media-archive", "$web", "=24web"):
        lake.stage_run("aws", bucket, "one", objects("a", bucket=bucket), "b")
    lake.discard_runs("b", "aws", "media")
    runs = [("aws", bucket, "one") for bucket in ("media", "media-archive", "$web", "=24web")]
    assert published(lake, runs) == ["aws $web a", "aws =24web a", "aws media-archive a"]


def test_nothing_is_staged_when_there_are_no_runs(tmp_path: Path) -> None:
    lake = Snapshots(str(tmp_path), 2)
    lake.stage_run("aws", "media", "empty", objects(), "b")
    written, merged = lake.merge_runs([("aws", "media", "empty")], DAY, "b")
    assert (written, merged["aws", "media"].objects) == ([], 0)


def test_what_an_attempt_left_behind_is_not_published_when_merged_again(tmp_path: Path) -> None:
    lake = Snapshots(str(tmp_path), 4)
    lake.stage_run("aws", "media", "one", objects(*"abcdefgh"), "b")
    lake.merge_runs([("aws", "media", "one")], DAY, "b")
    lake.stage_run("aws", "media", "two", objects("a"), "b")
    assert published(lake, [("aws", "media", "two")]) == ["aws media a"]


def test_null_is_refused_when_the_column_allows_none(tmp_path: Path) -> None:
    lake = Snapshots(str(tmp_path), 1)
    with pytest.raises(ValueError, match="1 rows have no etag"):
        lake.stage_run("aws", "media", "one", objects("a").with_columns(etag=pl.lit(None, dtype=pl.String)), "b")


def test_snapshot_is_the_same_when_the_lake_is_no_folder(tmp_path: Path) -> None:
    url = f"memory://snapshots-{tmp_path.name}"
    remote, local = Snapshots(url, 2), Snapshots(str(tmp_path), 2)
    for lake in (remote, local):
        lake.stage_run("aws", "media", "one", objects(*"gfedcba"), "b")
        lake.stage_run("aws", "media", "two", objects(*"nmlkjih"), "b")
        assert len(published(lake, [("aws", "media", "one"), ("aws", "media", "two")], 3)) == 14
    files = fsspec.filesystem("memory")
    for shard in range(2):
        name = f"inventory/day=2026-03-10/shard={shard:04d}.parquet"
        assert files.cat_file(f"/snapshots-{tmp_path.name}/{name}") == (tmp_path / name).read_bytes()
    remote.discard_runs("b", "aws", "media")
    remote.discard("b")
