"""What the log writers write is what the parsers read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import polars as pl
import pytest

from cloudflux.access_logs.formats import log_format, parse_whole
from cloudflux.access_logs.parsed import ParsedFile
from cloudflux.domain.exclusions import Exclusions
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider
from cloudflux.local.demo.log_writers import (
    CRAWLER_AGENT,
    LogFile,
    log_buckets,
    log_source,
    write_logs,
    write_wrong_logs,
)
from cloudflux.local.demo.trace import replay
from cloudflux.local.demo.world import World, synthetic_world

LAST_DAY = date(2026, 11, 22)
PARSERS = {
    Provider.AWS: "s3_server_access",
    Provider.AZURE: "azure_resource",
    Provider.GCP: "gcs_usage",
}
IDENTITY = ["provider", "request_id", "operation", "key"]


def parsed(files: Iterable[LogFile]) -> dict[Provider, ParsedFile]:
    delivered = datetime.combine(LAST_DAY + timedelta(days=1), time(8), UTC)
    by_provider = defaultdict(list)
    for file in files:
        name = PARSERS[file.provider]
        source = SourceFile(file.provider, file.bucket, file.key, "etag", len(file.data), name, delivered)
        by_provider[file.provider].append((source, file.data))
    return {
        provider: parse_whole(log_format(PARSERS[provider]), found, Exclusions(("cloudflux/",)))
        for provider, found in by_provider.items()
    }


def events_of(found: dict[Provider, ParsedFile]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(one.events) for one in found.values()])


def daily_of(events: pl.DataFrame) -> pl.DataFrame:
    return (
        events.unique(IDENTITY)
        .filter((pl.col("kind") == "read") & ~pl.col("excluded"))
        .group_by("provider", "bucket", "key", "day")
        .agg(pl.len().cast(pl.Int64).alias("reads"), pl.col("bytes_sent").sum())
        .sort("provider", "bucket", "key", "day")
    )


def expected_daily(world: World) -> pl.DataFrame:
    named = world.objects.select("object_id", "provider", "bucket", "key")
    return (
        world.daily.join(named, on="object_id")
        .select("provider", "bucket", "key", "day", "reads", bytes_sent=pl.col("reads") * pl.col("size_bytes"))
        .sort("provider", "bucket", "key", "day")
    )


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic_world(last_day=LAST_DAY, objects=600, days=60)


@pytest.fixture(scope="module")
def files(world: World) -> list[LogFile]:
    return list(write_logs(world))


def test_parsers_read_the_world_when_they_read_its_logs(world: World, files: list[LogFile]) -> None:
    found = parsed(files)
    assert all(one.quarantine.num_rows == 0 for one in found.values())
    assert daily_of(events_of(found)).equals(expected_daily(world))


def test_each_object_is_uploaded_once_when_it_is_created_inside_the_history(world: World, files: list[LogFile]) -> None:
    events = events_of(parsed(files)).unique(IDENTITY)
    writes = events.filter(pl.col("kind") == "write").select("provider", "bucket", "key", "day")
    born = world.objects.filter(pl.col("created_day") >= world.first_day)
    expected = born.select("provider", "bucket", "key", day="created_day")
    keys = ["provider", "bucket", "key"]
    assert writes.sort(keys).equals(expected.sort(keys))
    first_reads = events.filter(pl.col("kind") == "read").group_by(keys).agg(pl.col("at").min())
    uploads = events.filter(pl.col("kind") == "write").select(*keys, uploaded_at="at")
    both = first_reads.join(uploads, on=keys)
    assert both.height > 0
    assert (both["uploaded_at"] < both["at"]).all()


def test_logs_hold_noise_doubles_and_our_own_requests_when_generated(files: list[LogFile]) -> None:
    found = parsed(files)
    events = events_of(found)
    assert events.height > events.unique(IDENTITY).height
    assert events.filter("excluded").height > 0
    assert all(one.lines > one.events.num_rows for one in found.values())
    agents = [CRAWLER_AGENT.encode() in file.data for file in files]
    assert any(agents)
    assert not all(agents)


def test_bytes_are_the_same_when_written_twice(world: World, files: list[LogFile]) -> None:
    assert list(write_logs(world)) == files


def test_file_names_are_distinct_and_below_their_log_source_when_written(world: World, files: list[LogFile]) -> None:
    assert len({(file.provider, file.bucket, file.key) for file in files}) == len(files)
    assert {(file.provider, file.bucket) for file in files} == set(log_buckets(world))
    prefixes = {(provider, log_source(world, provider, bucket).prefix) for provider, bucket in world.buckets}
    assert all(
        any(file.provider == provider and file.key.startswith(prefix) for provider, prefix in prefixes)
        for file in files
    )


def test_wrong_files_end_in_quarantine_and_add_nothing_when_parsed(world: World, files: list[LogFile]) -> None:
    wrong = write_wrong_logs(world)
    assert {file.provider for file in wrong} == set(Provider)
    assert not {(file.bucket, file.key) for file in wrong} & {(file.bucket, file.key) for file in files}
    found = parsed(wrong)
    assert [one.quarantine.num_rows for one in found.values()] == [1, 1, 1]
    assert daily_of(pl.concat([events_of(parsed(files)), events_of(found)])).equals(expected_daily(world))


def test_parsers_read_a_replayed_trace_when_they_read_its_logs(tmp_path: Path) -> None:
    days = [date(2020, 1, 1) + timedelta(days=number % 9) for number in range(300)]
    pl.DataFrame(
        {
            "object_id": [f'söme, "odd" näme/{number} 100%+' for number in range(300)],
            "day": days,
            "reads": [1 + number % 5 for number in range(300)],
            "size_bytes": [number * 10 for number in range(300)],
            "created_day": days,
        }
    ).write_parquet(tmp_path / "odd.parquet")
    world = replay(tmp_path / "odd.parquet", last_day=LAST_DAY, seed=7)
    found = parsed(write_logs(world))
    assert daily_of(events_of(found)).equals(expected_daily(world))
    assert not any(one.events.column("excluded").to_pylist().count(True) for one in found.values())


def test_files_stay_few_when_the_history_is_long(tmp_path: Path) -> None:
    days = [date(2020, 1, 1) + timedelta(days=number) for number in range(700)] * 3
    pl.DataFrame(
        {
            "object_id": [f"{number // 700}/{number}" for number in range(2100)],
            "day": days,
            "reads": [1] * 2100,
            "size_bytes": [10] * 2100,
            "created_day": days,
        }
    ).write_parquet(tmp_path / "long.parquet")
    world = replay(tmp_path / "long.parquet", last_day=LAST_DAY, seed=7)
    assert sum(1 for _ in write_logs(world)) <= 3000
