"""Replaying a real trace: what is validated, what is shifted, what is left out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from real_traces import real_trace

from cloudflux.domain.tiers import Provider
from cloudflux.local.demo.trace import TraceError, replay
from cloudflux.local.demo.world import DAILY_SCHEMA

YESTERDAY = date(2026, 11, 22)


def trace(**overrides: Any) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "object_id": ["a/1", "a/1", "b/2", "c/3"],
        "day": [date(2020, 1, 1), date(2020, 1, 3), date(2020, 1, 2), date(2020, 1, 5)],
        "reads": [1, 2, 3, 4],
        "size_bytes": [100, 100, 200_000, 5_000_000],
        "created_day": [date(2019, 12, 1), date(2019, 12, 1), date(2020, 1, 2), date(2020, 1, 5)],
    }
    return pl.DataFrame(columns | overrides)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[pl.DataFrame], Path]:
    def write(frame: pl.DataFrame) -> Path:
        path = tmp_path / "trace.parquet"
        frame.write_parquet(path)
        return path

    return write


def test_last_day_is_yesterday_when_replayed(written: Callable[[pl.DataFrame], Path]) -> None:
    world = replay(written(trace()), last_day=YESTERDAY, seed=7)
    # the trace's last day belongs to an object that is left out; the days keep their distances
    assert world.last_day == YESTERDAY
    assert world.first_day == date(2026, 11, 18)
    assert world.daily.schema == DAILY_SCHEMA
    assert world.daily["day"].to_list() == [date(2026, 11, 18), date(2026, 11, 19), date(2026, 11, 20)]
    assert world.daily["reads"].to_list() == [1, 3, 2]
    assert world.objects.filter(pl.col("object_id") == "a/1")["created_day"].item() == date(2026, 10, 18)


def test_large_objects_are_left_out_and_counted_when_above_the_cap(written: Callable[[pl.DataFrame], Path]) -> None:
    path = written(trace())
    world = replay(path, last_day=YESTERDAY, seed=7)
    assert (world.left_out_objects, world.left_out_reads) == (1, 4)
    assert replay(path, last_day=YESTERDAY, seed=7, max_object_bytes=5_000_000).left_out_objects == 0
    with pytest.raises(TraceError, match="every object is larger than 50 bytes"):
        replay(path, last_day=YESTERDAY, seed=7, max_object_bytes=50)


def test_nothing_about_an_object_is_made_up_when_replayed(written: Callable[[pl.DataFrame], Path]) -> None:
    world = replay(written(trace()), last_day=YESTERDAY, seed=7)
    assert world.objects["key"].to_list() == world.objects["object_id"].to_list()
    assert world.objects["kind"].null_count() == world.objects.height
    assert world.crawls.is_empty()
    assert not world.invented_noise


def test_cloud_is_stable_when_the_trace_grows(written: Callable[[pl.DataFrame], Path]) -> None:
    ids = [f"x/{number}" for number in range(300)]
    frame = pl.DataFrame(
        {
            "object_id": ids,
            "day": [date(2020, 1, 1)] * 300,
            "reads": [1] * 300,
            "size_bytes": [10] * 300,
            "created_day": [date(2020, 1, 1)] * 300,
        }
    )
    whole = replay(written(frame), last_day=YESTERDAY, seed=7).objects
    part = replay(written(frame.head(100)), last_day=YESTERDAY, seed=9).objects
    clouds = dict(whole.select("object_id", "provider").iter_rows())
    assert all(
        clouds[object_id] == provider for object_id, provider in part.select("object_id", "provider").iter_rows()
    )
    assert {Provider(cloud) for cloud in clouds.values()} == set(Provider)
    assert min(whole.group_by("provider").len()["len"]) > 60


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"reads": [1, -2, 3, 4]}, r"column 'reads' is negative in row 2"),
        ({"reads": [1, None, 3, 4]}, r"column 'reads' is empty in row 2"),
        ({"reads": [1.5, 2.0, 3.0, 4.0]}, r"column 'reads' is Float64, not Int64"),
        ({"object_id": ["a/1", "a/1", "", "c/3"]}, r"column 'object_id' is an empty text in row 3"),
        ({"object_id": ["a/1", "a/1", "b\n2", "c/3"]}, r"column 'object_id' holds a control character in row 3"),
        ({"object_id": ["a/1", "a/1", "/b", "c/3"]}, r"column 'object_id' starts with, ends in or doubles a slash"),
        ({"object_id": ["a/1", "a/1", "b" * 901, "c/3"]}, r"column 'object_id' is longer than 900 bytes in row 3"),
        ({"size_bytes": [100, 101, 200, 300]}, r"column 'size_bytes' differs from the object's first row in row 2"),
        ({"size_bytes": [100, 100, -1, 300]}, r"column 'size_bytes' is negative in row 3"),
        ({"day": [date(2020, 1, 1), date(2020, 1, 1), date(2020, 1, 2), date(2020, 1, 5)]}, r"twice .* in row 2"),
        ({"day": ["2020-01-01"] * 4}, r"column 'day' is String, not Date"),
        ({"created_day": [date(2021, 1, 1)] * 4}, r"column 'created_day' lies after the row's day in row 1"),
    ],
)
def test_trace_is_refused_with_column_and_row_when_wrong(
    written: Callable[[pl.DataFrame], Path], overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        replay(written(trace(**overrides)), last_day=YESTERDAY, seed=7)


def test_trace_is_refused_when_a_column_is_missing(written: Callable[[pl.DataFrame], Path]) -> None:
    with pytest.raises(TraceError, match="lacks the column 'size_bytes'"):
        replay(written(trace().drop("size_bytes")), last_day=YESTERDAY, seed=7)


def test_trace_is_refused_when_it_has_no_rows(written: Callable[[pl.DataFrame], Path]) -> None:
    with pytest.raises(TraceError, match="has no rows"):
        replay(written(trace().clear()), last_day=YESTERDAY, seed=7)


def test_trace_is_refused_when_the_file_is_none(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="there is no trace file"):
        replay(tmp_path / "absent.parquet", last_day=YESTERDAY, seed=7)
    junk = tmp_path / "junk.parquet"
    junk.write_bytes(b"no parquet at all")
    with pytest.raises(TraceError, match="is not a Parquet file"):
        replay(junk, last_day=YESTERDAY, seed=7)


@pytest.mark.parametrize(
    ("name", "objects", "left_out", "days"), [("media", 1846, 9624, 695), ("retail", 669, 3289, 374)]
)
def test_real_trace_is_replayed_when_it_is_there(name: str, objects: int, left_out: int, days: int) -> None:
    path = real_trace(name)
    world = replay(path, last_day=YESTERDAY, seed=7)
    assert (world.objects.height, world.left_out_objects, world.days) == (objects, left_out, days)
    assert world.last_day == YESTERDAY
