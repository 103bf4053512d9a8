"""The generated world: the traits of real traces, the same for the same seed."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from cloudflux.domain.tiers import STANDARD_CLASS, Provider
from cloudflux.local.demo.world import DAILY_SCHEMA, WARM_CLASS, World, synthetic_world

LAST_DAY = date(2026, 11, 22)


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic_world(last_day=LAST_DAY)


def reads_of(world: World, kind: str) -> pl.DataFrame:
    kinds = world.objects.filter(pl.col("kind") == kind).select("object_id", born="created_day")
    return world.daily.join(kinds, on="object_id")


def without_crawls(world: World) -> pl.DataFrame:
    crawled = world.crawls.with_columns(crawl=pl.lit(1))
    return world.daily.join(crawled, on=["object_id", "day"], how="left").with_columns(
        pl.col("reads") - pl.col("crawl").fill_null(0)
    )


def test_world_has_what_the_demo_promises_when_made_with_defaults(world: World) -> None:
    assert world.objects.height == 6000
    assert world.days == 120
    assert world.last_day == LAST_DAY
    assert world.objects.group_by("provider").len()["len"].to_list() == [2000, 2000, 2000]
    assert len(world.buckets) >= 3
    assert world.objects["object_id"].n_unique() == 6000
    assert world.objects.select("bucket", "key").n_unique() == 6000
    assert world.objects["size_bytes"].max() <= 1024 * 1024
    assert world.objects["size_bytes"].sum() <= 1.31e9
    assert 140_000 < world.objects["size_bytes"].median() < 260_000


def test_daily_table_has_the_columns_of_a_trace_when_made(world: World) -> None:
    assert world.daily.schema == DAILY_SCHEMA
    assert world.daily["reads"].min() >= 1
    assert (world.daily["created_day"] <= world.daily["day"]).all()
    assert world.daily.select("object_id", "day").n_unique() == world.daily.height
    assert world.daily["day"].min() >= world.first_day
    assert world.daily["day"].max() <= world.last_day


def test_world_is_the_same_when_made_twice(world: World) -> None:
    again = synthetic_world(last_day=LAST_DAY)
    assert again.objects.equals(world.objects)
    assert again.daily.equals(world.daily)
    assert again.crawls.equals(world.crawls)


def test_world_is_another_with_buckets_of_its_own_when_the_seed_differs(world: World) -> None:
    other = synthetic_world(last_day=LAST_DAY, seed=8)
    assert not other.daily.equals(world.daily)
    assert not set(other.buckets) & set(world.buckets)


def test_few_objects_get_most_reads_when_popularity_follows_zipf(world: World) -> None:
    totals = np.sort(world.daily.group_by("object_id").agg(pl.col("reads").sum())["reads"].to_numpy())[::-1]
    assert totals[: len(totals) // 10].sum() > 0.5 * totals.sum()


def test_videos_are_hot_when_new(world: World) -> None:
    aged = reads_of(world, "video").with_columns(age=(pl.col("day") - pl.col("born")).dt.total_days())
    born_inside = aged.filter(pl.col("born").is_between(world.first_day, world.last_day - timedelta(days=40)))
    young = born_inside.filter(pl.col("age") < 7)["reads"].sum() / 7
    old = born_inside.filter(pl.col("age").is_between(30, 39))["reads"].sum() / 10
    assert young > 5 * old


def test_documents_rest_on_weekends(world: World) -> None:
    by_weekday = (
        reads_of(world, "documents")
        .join(world.crawls, on=["object_id", "day"], how="anti")
        .group_by(weekend=pl.col("day").dt.weekday() >= 6)
        .agg(pl.col("reads").sum())
    )
    counts = dict(by_weekday.iter_rows())
    assert counts[True] / 2 < 0.5 * counts[False] / 5


def test_reports_are_read_at_month_ends(world: World) -> None:
    tomorrow = pl.col("day") + pl.duration(days=1)
    month_end = (tomorrow.dt.day() == 1) | (pl.col("day").dt.day() <= 2)
    reports = reads_of(world, "reports").join(world.crawls, on=["object_id", "day"], how="anti")
    per_day = reports.group_by("day").agg(pl.col("reads").sum())
    assert per_day.filter(month_end)["reads"].mean() > 5 * per_day.filter(~month_end)["reads"].mean()


def test_logs_burst_when_something_happened(world: World) -> None:
    assert reads_of(world, "logs")["reads"].max() >= 40


def test_crawl_reads_every_public_object_of_one_cloud_on_one_day(world: World) -> None:
    placed = world.crawls.join(world.objects.select("object_id", "provider", "kind"), on="object_id")
    assert set(placed["kind"]) == {"images", "documents"}
    days = placed.group_by("provider").agg(pl.col("day").n_unique().alias("days"), pl.col("day").first())
    assert days["days"].to_list() == [1, 1, 1]
    for provider, _, day in days.iter_rows():
        public = world.objects.filter((pl.col("provider") == provider) & pl.col("kind").is_in(["images", "documents"]))
        alive = public.filter(pl.col("created_day") <= day)
        assert placed.filter(pl.col("provider") == provider).height == alive.height
    assert without_crawls(world)["reads"].min() >= 0


def test_some_hot_objects_are_misplaced_when_made(world: World) -> None:
    month = world.daily.filter(pl.col("day") > LAST_DAY - timedelta(days=30)).group_by("object_id").agg(pl.sum("reads"))
    classes = world.objects.join(month, on="object_id", how="left").with_columns(pl.col("reads").fill_null(0))
    for provider in Provider:
        own = classes.filter(pl.col("provider") == provider.value)
        warm = own.filter(pl.col("storage_class") == WARM_CLASS[provider])
        assert warm.filter(pl.col("reads") >= 20).height > 0
        assert own.filter(pl.col("storage_class") == STANDARD_CLASS[provider]).height > 0.9 * own.height
        dead = own.filter(pl.col("reads") <= 1)  # a crawl of last month counts
        assert dead.filter(pl.col("storage_class") == STANDARD_CLASS[provider]).height > 100


def test_world_is_refused_when_too_small() -> None:
    with pytest.raises(ValueError, match="at least 60 objects and 14 days"):
        synthetic_world(last_day=LAST_DAY, objects=10)
