import os
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import ACCESS_EVENTS, DAILY_ACCESS, FORECASTS
from cloudflux.lake.shards import shard_of, shards_of

DAY = date(2026, 11, 1)
NEXT = DAY + timedelta(days=1)


def daily(rows: int, day: date = DAY, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "provider": rng.choice(["aws", "azure", "gcp"], rows).tolist(),
            "bucket": ["b"] * rows,
            "key": [f"key-{n}" for n in rng.permutation(rows)],
            "day": pa.array([day] * rows, pa.date32()),
            "reads": rng.integers(0, 9, rows),
            "writes": rng.integers(0, 9, rows),
            "bytes_read": rng.integers(0, 9, rows),
            "excluded_reads": rng.integers(0, 9, rows),
            "excluded_writes": rng.integers(0, 9, rows),
        }
    )


def event(day: date, source_file: str, request_id: str = "r") -> dict[str, object]:
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return {
        "provider": "aws",
        "bucket": "b",
        "key": "k",
        "at": at,
        "day": day,
        "kind": "read",
        "operation": "REST.GET.OBJECT",
        "bytes_sent": 1,
        "request_id": request_id,
        "excluded": False,
        "source_file": source_file,
        "line": 1,
    }


def daily_row(day: date, key: str) -> dict[str, object]:
    counts = dict.fromkeys(("reads", "writes", "bytes_read", "excluded_reads", "excluded_writes"), 1)
    return {"provider": "aws", "bucket": "b", "key": key, "day": day, **counts}


def with_column(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), pa.field(name, column.type, nullable=False), column)


@pytest.fixture(params=["folder", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    url = str(tmp_path / "lake") if request.param == "folder" else f"memory://lake-{uuid.uuid4().hex}"
    return Lake(url, shards=4)


def content(lake: Lake) -> dict[str, bytes]:
    """Every published file's bytes by its path below the lake."""
    fs, root = lake._fs, lake._root
    return {path.removeprefix(root): fs.cat_file(path) for path in fs.find(root) if "/_staging/" not in path}


def test_reading_gives_an_empty_table_with_the_schema_when_nothing_is_published(lake: Lake) -> None:
    assert lake.read("daily_access") == DAILY_ACCESS.empty_table()
    assert lake.read("daily_access", days=(DAY, NEXT), shard=2).num_rows == 0
    assert lake.days("daily_access") == []
    assert lake.latest_day("daily_access") is None
    assert lake.staged("daily_access", "b1").count_rows() == 0
    assert lake.publish("daily_access", "b1") == []


def test_staged_rows_stay_unseen_when_they_are_not_published(lake: Lake) -> None:
    lake.stage("daily_access", DAY, 1, daily(10), "b1")
    assert lake.read("daily_access").num_rows == 0
    assert lake.staged("daily_access", "b1").count_rows() == 10
    assert lake.publish("daily_access", "b1") == [(DAY, 1)]
    assert lake.read("daily_access", shard=1).num_rows == 10
    assert lake.read("daily_access", shard=0).num_rows == 0
    assert lake.publish("daily_access", "b1") == []


def test_publishing_replaces_the_partition_when_it_is_there_already(lake: Lake) -> None:
    for rows in (10, 3):
        lake.stage("daily_access", DAY, 0, daily(rows), "b1")
        lake.publish("daily_access", "b1")
    assert lake.read("daily_access").num_rows == 3


def test_bytes_are_the_same_when_rows_and_chunks_come_in_another_order(tmp_path: Path) -> None:
    rows = daily(1000)
    doubled = pa.concat_tables([rows, rows])  # ties in the sort keys
    doubled = doubled.set_column(4, "reads", pa.array(range(2000)))
    found = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(2000)
        shuffled = doubled.take(pa.array(order))
        shuffled = pa.concat_tables([shuffled.slice(0, 700 + seed), shuffled.slice(700 + seed)])
        uri = Lake(str(tmp_path), 1).stage("daily_access", DAY, 0, shuffled, f"b{seed}")
        found.append(Path(uri).read_bytes())
    assert found[0] == found[1] == found[2]


def test_stage_shards_writes_the_bytes_of_stage_when_the_rows_are_the_same(lake: Lake) -> None:
    table = pa.concat_tables([daily(200), daily(100, NEXT, seed=1)])
    parts = lake.stage_shards("daily_access", table, "many")
    lake.publish("daily_access", "many")
    many = content(lake)
    for day, shard in parts:
        mine = table.filter(pa.array(shards_of(table, 4) == shard)).filter(
            pa.compute.field("day") == pa.scalar(day, pa.date32())
        )
        lake.stage("daily_access", day, shard, mine, "single")
    lake.publish("daily_access", "single")
    assert content(lake) == many
    assert {day for day, _ in parts} == {DAY, NEXT}
    for row in lake.read("daily_access", shard=2).to_pylist():
        assert shard_of(row["provider"], row["bucket"], row["key"], 4) == 2


def test_rows_of_a_replaced_file_go_and_the_others_stay(lake: Lake) -> None:
    first = [event(DAY, "aa", "1"), event(NEXT, "aa", "2"), event(DAY, "bb", "3")]
    assert lake.stage_rows("access_events", pa.Table.from_pylist(first, ACCESS_EVENTS), "p1", "b1") == [DAY, NEXT]
    assert lake.staged_parts("access_events", "b1") == [(DAY, "p1"), (NEXT, "p1")]
    assert lake.publish_files("access_events", "b1") == [(DAY, "p1"), (NEXT, "p1")]
    again = [event(DAY, "aa", "4")]
    lake.stage_rows("access_events", pa.Table.from_pylist(again, ACCESS_EVENTS), "p2", "b2")
    lake.publish_files("access_events", "b2")
    assert lake.remove_rows("access_events", [DAY, NEXT], ["aa"], keep=[(DAY, "p2")]) == 2
    assert sorted(lake.read("access_events", days=[DAY])["request_id"].to_pylist()) == ["3", "4"]
    assert lake.partitions("access_events", DAY) == ["p1", "p2"]
    assert lake.days("access_events") == [DAY]
    assert lake.remove_rows("access_events", [DAY, NEXT], ["aa"], keep=[(DAY, "p2")]) == 0


def test_text_is_read_as_text_when_it_was_staged_as_dictionaries(lake: Lake) -> None:
    parts = [
        pa.Table.from_pylist([event(DAY, name), event(DAY, "both")], ACCESS_EVENTS) for name in ("first", "second")
    ]
    coded = [with_column(part, "source_file", part["source_file"].dictionary_encode()) for part in parts]
    lake.stage_rows("access_events", pa.concat_tables(coded), "p1", "b1")
    lake.publish_files("access_events", "b1")
    found = lake.read("access_events")
    assert found.schema == ACCESS_EVENTS
    assert found["source_file"].to_pylist() == ["first", "both", "second", "both"]


@pytest.mark.parametrize("coded", [False, True])
def test_a_part_is_the_same_when_its_rows_come_little_by_little(lake: Lake, coded: bool) -> None:
    rows = 300_000  # more than two row groups, on two days
    table = pa.Table.from_pylist([event(DAY, "x")], ACCESS_EVENTS).take(pa.array(np.zeros(rows, np.int64)))
    days = np.where(np.arange(rows) % 4, np.datetime64(DAY), np.datetime64(NEXT))
    table = with_column(table, "day", pa.array(days, pa.date32()))
    table = with_column(table, "request_id", pa.array(np.arange(rows)).cast(pa.string()))
    if coded:  # each piece with a dictionary of its own
        table = with_column(table, "source_file", pa.array(np.arange(rows) // 1000).cast(pa.string()))
    opened = lake.open_part("access_events", "p1", "pieces")
    for first in range(0, rows, 70_001):
        piece = table.slice(first, 70_001).combine_chunks()
        if coded:
            piece = with_column(piece, "source_file", piece["source_file"].dictionary_encode())
        opened.add(piece)
    assert lake.staged_parts("access_events", "pieces") == []  # not before it is closed
    assert opened.close() == [DAY, NEXT]
    lake.publish_files("access_events", "pieces")
    found = {day: lake.read("access_events", days=[day]) for day in (DAY, NEXT)}
    for day, of_day in found.items():
        assert of_day.equals(table.filter(pc.equal(table["day"], pa.scalar(day))))
    if not coded:
        lake.stage_rows("access_events", table, "p2", "whole")
        lake.publish_files("access_events", "whole")
        files = content(lake)
        for name in (name for name in files if name.endswith("/p1.parquet")):
            assert files[name] == files[name.replace("/p1.", "/p2.")]


def test_a_part_without_rows_stages_nothing(lake: Lake) -> None:
    opened = lake.open_part("access_events", "p1", "b1")
    opened.add(ACCESS_EVENTS.empty_table())
    assert opened.close() == []
    assert lake.staged_parts("access_events", "b1") == []


def test_stage_rows_refuses_when_a_part_is_a_path(lake: Lake) -> None:
    with pytest.raises(ValueError, match="cannot name a part"):
        lake.stage_rows("access_events", pa.Table.from_pylist([event(DAY, "x")], ACCESS_EVENTS), "../x", "b1")


def test_sorted_rows_give_the_same_bytes_however_they_are_cut(lake: Lake) -> None:
    rows = pa.Table.from_pylist(
        [daily_row(day, f"k{n:03}") | {"shard": shard} for day in (DAY, NEXT) for shard in (0, 3) for n in range(50)],
        DAILY_ACCESS.append(pa.field("shard", pa.int32())),
    )
    assert lake.stage_sorted("daily_access", rows.to_batches(), "b1") == [(DAY, 0), (DAY, 3), (NEXT, 0), (NEXT, 3)]
    lake.publish("daily_access", "b1")
    before = content(lake)
    lake.stage_sorted("daily_access", rows.to_batches(max_chunksize=7), "b2")
    lake.publish("daily_access", "b2")
    assert content(lake) == before
    assert lake.read("daily_access").num_rows == 200
    assert lake.stage_sorted("daily_access", [], "b3") == []


def test_publishing_again_completes_when_it_was_killed_between_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path), shards=4)
    parts = lake.stage_shards("daily_access", daily(100), "b1")
    expected = lake.staged("daily_access", "b1").to_table()
    assert len(parts) == 4
    real: Callable[..., None] = os.replace
    calls = iter(range(10))

    def killed(source: str, target: str) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            lake.publish("daily_access", "b1")
    assert lake.published_shards("daily_access", DAY) == [0, 1]
    assert lake.publish("daily_access", "b1") == parts[2:]
    assert lake.read("daily_access") == expected


def test_a_day_range_is_inclusive_and_a_collection_is_exact_when_reading(lake: Lake) -> None:
    days = [DAY + timedelta(days=n) for n in range(5)]
    lake.stage_shards("daily_access", pa.concat_tables([daily(20, day) for day in days]), "b1")
    lake.publish("daily_access", "b1")
    assert set(lake.read("daily_access", days=(days[1], days[3]))["day"].to_pylist()) == set(days[1:4])
    assert set(lake.read("daily_access", days=[days[0], days[4]])["day"].to_pylist()) == {days[0], days[4]}
    assert lake.read("daily_access", columns=["reads"]).column_names == ["reads"]
    assert lake.days("daily_access") == days
    assert lake.latest_day("daily_access") == days[-1]


def test_a_deleted_partition_is_gone_when_its_day_is_read(lake: Lake) -> None:
    lake.stage("daily_access", DAY, 0, daily(3), "b1")
    lake.publish("daily_access", "b1")
    lake.delete_partition("daily_access", DAY, 0)
    lake.delete_partition("daily_access", DAY, 0)
    assert lake.days("daily_access") == []


def test_parts_become_one_partition_a_shard_when_they_are_merged(lake: Lake) -> None:
    table = daily(100)
    lake.stage_part("daily_access", "bucket-a-0", table.slice(0, 50), "b1")
    lake.stage_part("daily_access", "bucket-a-1", table.slice(0, 10), "b1")
    lake.discard_part("daily_access", "bucket-a-1", "b1")
    lake.stage_part("daily_access", "bucket-b-0", table.slice(50), "b1")
    assert lake.staged("daily_access", "b1").count_rows() == 0
    merged = lake.merge_parts("daily_access", DAY, "b1")
    assert lake.publish("daily_access", "b1") == merged
    assert lake.read("daily_access").num_rows == 100


def test_nothing_of_a_batch_is_left_when_it_is_discarded(lake: Lake) -> None:
    batch = "manual__2026-11-23T07:00:00+00:00/../x"
    lake.stage("daily_access", DAY, 0, daily(3), batch)
    lake.note(batch, "chunk-000", {"files": 3})
    assert lake.noted(batch, "chunk-000") == {"files": 3}
    lake.discard(batch)
    lake.discard(batch)
    assert lake.noted(batch, "chunk-000") is None
    assert lake.publish("daily_access", batch) == []


def test_notes_stay_when_what_is_staged_is_discarded(lake: Lake) -> None:
    lake.stage("daily_access", DAY, 0, daily(3), "b")
    lake.note("b", "chunk-000", {"files": 3})
    for _ in range(2):
        lake.discard_staged("b")
    assert (lake.staged_parts("daily_access", "b"), lake.noted("b", "chunk-000")) == ([], {"files": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["reads"]), "lacks the columns reads"),
        (lambda table: table.set_column(4, "reads", pa.array([None, 1, 2])), "1 rows have no reads"),
        (lambda table: table.set_column(4, "reads", pa.array(["x", "1", "2"])), "column reads is not int64"),
    ],
)
def test_staging_refuses_by_name_when_a_column_is_wrong(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    with pytest.raises(ValueError, match=f"daily_access: .*{message}"):
        Lake(str(tmp_path), 4).stage("daily_access", DAY, 0, change(daily(3)), "b1")


def test_an_unknown_dataset_is_refused_when_it_is_read(lake: Lake) -> None:
    with pytest.raises(ValueError, match="no dataset 'daily'"):
        lake.read("daily")


def test_later_columns_are_null_when_an_earlier_release_wrote_the_partition(tmp_path: Path) -> None:
    """Bytes by horizon came after reads by horizon."""
    later = [f"expected_read_bytes_{days}" for days in (7, 30, 90, 180)]
    filled = {
        "provider": "aws",
        "bucket": "b",
        "key": "k",
        "day": DAY,
        "band": "cold",
        "tier": "cold",
        "source": "rules",
    }
    row = dict.fromkeys(FORECASTS.names, 1) | filled
    old = pa.Table.from_pylist([row], schema=FORECASTS).drop_columns(later)
    path = tmp_path / "forecasts" / f"day={DAY}" / "shard=0000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(old, path)
    read = Lake(str(tmp_path), 1).read("forecasts").to_pylist()
    assert [read[0][name] for name in later] == [None] * 4
    assert read[0]["expected_reads_180"] == 1.0
