"""Collecting: each file once, each line once, whole days, and the same bytes whatever was cut off in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from access_log_lines import s3_line
from collecting import KeptLines, RecordedFiles, parser_of

from cloudflux.config import BucketSettings, Estate, LogSource
from cloudflux.domain.errors import AuditFailed, TransientError
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.source_files import SourceFile
from cloudflux.domain.tiers import Provider
from cloudflux.lake.partitions import Lake
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.workflows import collect, collect_chunks, collect_files

AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
ESTATE = Estate(
    buckets=(
        BucketSettings(
            provider=Provider.AWS,
            bucket="media",
            price_book="aws-us-east-1",
            connection_id="aws_default",
            logs=LogSource(bucket="logs", prefix="media/", format="s3_server_access"),
        ),
    )
)


class Passed:
    rejected = None

    def raise_if_failed(self) -> None:
        pass


class Failed:
    rejected = None

    def raise_if_failed(self) -> None:
        raise AuditFailed("the batch is wrong")


class World:
    """A log bucket in memory, a lake in a folder, and the stores."""

    def __init__(self, folder: Path) -> None:
        self.client = MemoryTierClient(Provider.AWS, lambda: AT)
        for bucket in ("logs", "media"):
            self.client.create_bucket(bucket)
        self.lake = Lake(str(folder), 3)
        self.folder = folder
        self.source_files = RecordedFiles()
        self.quarantine = KeptLines()
        self.audited: list[tuple[str, int]] = []

    def deliver(self, name: str, *lines: str | bytes) -> None:
        content = b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines)
        self.client.put_object(ObjectRef(Provider.AWS, "logs", f"media/{name}"), content)

    def audit(self, suite: str, data: Any, batch: str) -> Passed:
        self.audited.append((suite, data.count_rows()))
        return Passed()

    def parse(
        self, batch: str, chunk_files: int = 1500, parse_of: Callable[[str], Any] = parser_of, **settings: int
    ) -> list[dict[str, int]]:
        chunks = collect_files.find_new_files(
            ESTATE,
            lambda provider, connection: self.client,
            self.source_files,
            self.lake,
            provider=Provider.AWS,
            batch=batch,
            at=AT,
            chunk_files=chunk_files,
        )
        return [
            collect_chunks.parse_chunk(
                chunk,
                ESTATE,
                lambda provider, connection: self.client,
                parse_of,
                self.lake,
                batch=batch,
                **settings,
            )
            for chunk in chunks
        ]

    def publish(self, batch: str, audit: Callable[..., Any] | None = None) -> dict[str, int]:
        return collect.audit_and_publish(
            self.lake, self.source_files, self.quarantine, audit or self.audit, batch=batch, clock=lambda: AT
        )

    def collect(self, batch: str, chunk_files: int = 1500) -> dict[str, int]:
        self.parse(batch, chunk_files)
        return self.publish(batch)

    def daily(self) -> list[dict[str, Any]]:
        rows = self.lake.read("daily_access").to_pylist()
        return sorted(rows, key=lambda row: (row["day"], row["key"]))

    def published_bytes(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted((self.folder / "daily_access").rglob("*.parquet"))
        }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "lake")


def read(
    key: str, request_id: str, at: datetime = AT - timedelta(days=1), *, bytes_sent: int = 5, bucket: str = "media"
) -> str:
    return s3_line(
        bucket=bucket,
        key=key,
        request_id=request_id,
        time=at.strftime("[%d/%b/%Y:%H:%M:%S +0000]"),
        uri=f'"GET /{key} HTTP/1.1"',
        bytes_sent=str(bytes_sent),
    )


def test_reads_are_counted_by_object_and_day_when_collected(world: World) -> None:
    world.deliver("one", read("a", "R1", bytes_sent=10), read("a", "R2", bytes_sent=5), read("b", "R3", bytes_sent=1))
    world.deliver("two", read("a", "R4", at=AT - timedelta(days=2), bytes_sent=7))
    result = world.collect("batch-1")
    assert (result["files"], result["events"], result["quarantined"], result["days"]) == (2, 4, 0, 2)
    assert [(row["day"], row["key"], row["reads"], row["bytes_read"]) for row in world.daily()] == [
        (date(2026, 3, 8), "a", 1, 7),
        (date(2026, 3, 9), "a", 2, 15),
        (date(2026, 3, 9), "b", 1, 1),
    ]
    assert world.audited == [("access_events", 4), ("daily_access", 3)]


@pytest.mark.parametrize("events_at_once", [0, 1000], ids=["grouped", "sorted"])
def test_doubled_line_counts_once_when_it_comes_in_another_file(
    world: World, monkeypatch: pytest.MonkeyPatch, events_at_once: int
) -> None:
    monkeypatch.setattr("cloudflux.workflows.daily_access._EVENTS_AT_ONCE", events_at_once)
    line = read("a", "R1")
    world.deliver("one", line, line)
    world.collect("batch-1")
    world.deliver("late", line, read("a", "R2"))
    world.collect("batch-2")
    assert [row["reads"] for row in world.daily()] == [2]


def test_file_is_taken_once_when_collected_again(world: World) -> None:
    world.deliver("one", read("a", "R1"))
    world.collect("batch-1")
    before = world.published_bytes()
    again = world.collect("batch-2")
    assert (again["files"], again["lines"], again["days"], again["touched"]) == (0, 0, 0, [])
    assert world.published_bytes() == before


def test_late_file_republishes_its_day_only(world: World) -> None:
    world.deliver("one", read("a", "R1"), read("a", "R2", at=AT - timedelta(days=5)))
    world.collect("batch-1")
    before = world.published_bytes()
    world.deliver("late", read("a", "R3", at=AT - timedelta(days=5)))
    world.collect("batch-2")
    after = world.published_bytes()
    changed = {name for name in after if before.get(name) != after[name]}
    assert {name.split("/")[1] for name in changed} == {"day=2026-03-05"}
    assert [row["reads"] for row in world.daily()] == [2, 1]


def test_replaced_file_takes_back_what_it_no_longer_says(world: World) -> None:
    world.deliver("one", read("a", "R1"), read("b", "R2"))
    world.collect("batch-1")
    world.deliver("one", read("a", "R1"))
    world.collect("batch-2")
    assert [(row["key"], row["reads"]) for row in world.daily()] == [("a", 1)]


def test_bad_lines_are_quarantined_and_good_ones_go_through(world: World) -> None:
    world.deliver("one", read("a", "R1"), "this is not a valid log entry", read("b", "R2"))
    world.deliver("junk", bytes(range(256)))
    half = read("c", "R3")
    world.deliver("half", read("d", "R4"), half[: len(half) // 2].encode())
    result = world.collect("batch-1")
    assert {row["key"] for row in world.daily()} == {"a", "b", "d"}
    assert result["quarantined"] == len(world.quarantine.rows) >= 3
    assert all(row["reason"] for row in world.quarantine.rows.values())
    assert world.collect("batch-2")["quarantined"] == 0


def test_other_buckets_are_left_out_when_the_log_tells_of_them(world: World) -> None:
    world.deliver("one", read("a", "R1"), read("x", "R9", bucket="private"))
    assert world.parse("batch-1")[0]["elsewhere"] == 1
    world.publish("batch-1")
    assert [row["bucket"] for row in world.daily()] == ["media"]


def test_nothing_is_published_when_the_audit_fails(world: World) -> None:
    world.deliver("one", read("a", "R1"))
    world.parse("batch-1")
    with pytest.raises(AuditFailed):
        world.publish("batch-1", lambda suite, data, batch: Failed())
    assert world.lake.days("access_events") == []
    assert world.source_files.rows == {}
    assert world.collect("batch-2")["files"] == 1  # the files are taken again


@pytest.mark.parametrize("chunk_files", [1, 3])
def test_bytes_are_the_same_when_files_come_in_other_chunks(tmp_path: Path, chunk_files: int) -> None:
    worlds = [World(tmp_path / "one"), World(tmp_path / "other")]
    for world in worlds:
        for number in range(7):
            lines = [read(f"k{n}", f"R{number}-{n}", at=AT - timedelta(days=n % 3)) for n in range(20)]
            world.deliver(f"f{number}", *lines)
    worlds[0].collect("batch-1")
    worlds[1].collect("batch-9", chunk_files)
    assert worlds[0].published_bytes() == worlds[1].published_bytes()


@pytest.mark.parametrize(("written_rows", "part_rows"), [(1, 10**6), (25, 50), (10**6, 30)])
def test_bytes_are_the_same_when_rows_are_written_in_pieces_and_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_rows: int, part_rows: int
) -> None:
    def by_file(name: str) -> Callable[..., Any]:
        parse = parser_of(name)
        return lambda contents, exclusions: (part for one in contents for part in parse([one], exclusions))

    worlds = [World(tmp_path / "one"), World(tmp_path / "other")]
    for world in worlds:
        for number in range(7):
            lines = [read(f"k{n}", f"R{number}-{n}", at=AT - timedelta(days=n % 3)) for n in range(20)]
            world.deliver(f"f{number}", *lines, "rubbish")
    worlds[0].collect("batch-1")
    monkeypatch.setattr(collect_chunks, "_WRITTEN_ROWS", written_rows)
    (found,) = worlds[1].parse("batch-1", part_rows=part_rows, parse_of=by_file)
    worlds[1].publish("batch-1")
    assert (found["events"], found["quarantined"]) == (140, 7)
    assert worlds[0].published_bytes() == worlds[1].published_bytes()
    rows = [world.lake.read("access_events").sort_by("request_id") for world in worlds]
    assert rows[0] == rows[1]
    assert rows[0].num_rows == 140
    parts = {path.name for path in (worlds[1].folder / "access_events").rglob("*.parquet")}
    assert len(parts) == (1 if part_rows > 140 else len(range(0, 7, -(-part_rows // 21))))


@pytest.mark.parametrize("broken", ["publish_files", "stage_sorted", "publish", "discard", "intend", "record", "add"])
def test_second_attempt_publishes_the_same_bytes_when_the_first_is_cut_off(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = World(tmp_path / "whole"), World(tmp_path / "cut")
    for world in (whole, cut):
        world.deliver("one", *[read(f"k{n}", f"R{n}", at=AT - timedelta(days=n % 3)) for n in range(30)], "rubbish")
    whole.collect("batch-1")
    cut.parse("batch-1")
    owner: Any = {"intend": cut.source_files, "record": cut.source_files, "add": cut.quarantine}.get(broken, cut.lake)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise TransientError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(owner, broken, fails)
        with pytest.raises(TransientError):
            cut.publish("batch-1")
    cut.publish("batch-1")
    assert cut.published_bytes() == whole.published_bytes()
    assert len(cut.quarantine.rows) == len(whole.quarantine.rows) == 1
    assert len(cut.source_files.rows) == 1
    assert cut.publish("batch-1")["files"] == 0


def test_chunks_are_even_when_sizes_differ() -> None:
    files = [
        SourceFile(Provider.AWS, "logs", f"f{number:03}", "e", size, "s3_server_access", AT)
        for number, size in enumerate([50_000_000, *[1000] * 500, 40_000_000, *[200_000] * 100])
    ]
    chunks = collect_files.even_chunks(files, 30_000_000, 400)
    assert [file for chunk in chunks for file in chunk] == files
    weights = [sum(file.size_bytes + 65_536 for file in chunk) for chunk in chunks]
    largest = 50_065_536
    assert max(weights) <= sum(weights) / len(weights) + largest
    assert len(chunks) == 4
    assert collect_files.even_chunks([], 1, 1) == []
