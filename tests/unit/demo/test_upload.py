"""Uploading the world: once, with real bytes, and an estate file that names it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from cloudflux.config import load_estate
from cloudflux.domain.migrations import ChangeOutcome, TierChange
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.local.demo.clients import tiers_of
from cloudflux.local.demo.log_writers import log_buckets
from cloudflux.local.demo.upload import estate_of, object_bytes, upload, write_estate
from cloudflux.local.demo.world import World, synthetic_world
from cloudflux.providers.memory import MemoryTierClient

LAST_DAY = date(2026, 11, 22)


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic_world(last_day=LAST_DAY, objects=90, days=14)


@pytest.fixture
def clients() -> dict[Provider, MemoryTierClient]:
    return {provider: MemoryTierClient(provider, lambda: datetime(2026, 11, 23, tzinfo=UTC)) for provider in Provider}


def silent(what: str, done: int, total: int) -> None:
    assert done <= total


def test_objects_are_real_when_uploaded(world: World, clients: dict[Provider, MemoryTierClient]) -> None:
    done = upload(world, clients, wrong_logs=True, on_progress=silent)
    assert (done.objects, done.objects_there, done.wrong_log_files) == (90, 0, 3)
    assert done.bytes == world.objects["size_bytes"].sum()
    row = world.objects.filter(pl.col("storage_class") == "STANDARD").row(0, named=True)
    ref = ObjectRef(Provider(row["provider"]), row["bucket"], row["key"])
    assert clients[ref.provider].get_object(ref) == object_bytes(world.seed, row["object_no"], row["size_bytes"])
    state = clients[ref.provider].head(ref)
    assert (state.size_bytes, state.storage_class) == (row["size_bytes"], row["storage_class"])
    assert state.content_type == row["content_type"]
    assert state.metadata["kind"] == row["kind"]


def test_nothing_is_uploaded_twice_when_all_is_there(world: World, clients: dict[Provider, MemoryTierClient]) -> None:
    first = upload(world, clients, wrong_logs=False, on_progress=silent)
    provider, bucket = world.buckets[0]
    seen = next(clients[provider].list_pages(bucket))[0]
    assert clients[provider].change_tiers([TierChange(seen, "GLACIER_IR")])[0].outcome is ChangeOutcome.CHANGED
    again = upload(world, clients, wrong_logs=False, on_progress=silent)
    assert (again.objects, again.bytes, again.log_files) == (0, 0, 0)
    assert (again.objects_there, again.log_files_there) == (90, first.log_files)
    assert clients[provider].head(seen.ref).storage_class == "GLACIER_IR"


def test_deleted_object_stays_away_when_it_was_deleted_on_purpose(
    world: World, clients: dict[Provider, MemoryTierClient]
) -> None:
    provider, bucket, key = world.objects.select("provider", "bucket", "key").row(0)
    gone = ObjectRef(Provider(provider), bucket, key).uri
    assert upload(world, clients, wrong_logs=False, gone={gone}, on_progress=silent).objects == 89


def test_tiers_are_counted_as_the_buckets_list_them(world: World, clients: dict[Provider, MemoryTierClient]) -> None:
    upload(world, clients, wrong_logs=False, on_progress=silent)
    counted = tiers_of(clients, world.buckets)  # type: ignore[arg-type]  # the memory client has all that is asked of it
    expected = world.objects.group_by("provider", "storage_class").agg(pl.len().cast(pl.Int64).alias("objects"))
    keys = ["provider", "storage_class"]
    assert counted.select(*keys, "objects").sort(keys).equals(expected.sort(keys))
    assert counted["bytes"].sum() == world.objects["size_bytes"].sum()


def test_estate_file_names_every_bucket_with_its_logs_when_written(world: World, tmp_path: Path) -> None:
    write_estate(world, tmp_path / "estate.yaml")
    estate = load_estate(tmp_path / "estate.yaml")
    assert estate == estate_of(world)
    assert {(bucket.provider, bucket.bucket) for bucket in estate.buckets} == set(world.buckets)
    delivered_to = {source.bucket for bucket in estate.buckets for source in bucket.logs}
    assert delivered_to == {name for _, name in log_buckets(world)}
    assert "cloudflux/" in estate.excluded_agents
