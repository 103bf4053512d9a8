"""What delivery does in practice: three formats, growing files, doubled lines, our own copies, a kill at any step."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from access_log_lines import GCS_HEADER, azure_line, gcs_line, s3_line
from collecting import KeptLines, RecordedFiles, parser_of

from cloudflux.config import BucketSettings, Estate, LogSource
from cloudflux.domain.errors import AuditFailed, TerminalError
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.tiers import Provider
from cloudflux.lake.partitions import Lake
from cloudflux.lake.schemas import QUARANTINE
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.workflows import collect, collect_chunks, collect_files

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Report:
    rejected = None

    def __init__(self, suite: str, passed: bool) -> None:
        self.suite, self.passed = suite, passed

    def raise_if_failed(self) -> None:
        if not self.passed:
            raise AuditFailed(self.suite)


class World:
    """A lake, three clouds in memory, and the collection of their logs."""

    def __init__(self, folder: Path, *, chunk_files: int = 1500) -> None:
        self.lake = Lake(str(folder), shards=4)
        self.folder = folder
        self.files = RecordedFiles()
        self.kept = KeptLines()
        self.chunk_files = chunk_files
        self.refused: set[str] = set()
        self.clients = {provider: MemoryTierClient(provider, lambda: NOW) for provider in Provider}
        self.estate = Estate(
            buckets=(
                _settings(Provider.AWS, "media", LogSource(bucket="logs", prefix="s3/", format="s3_server_access")),
                _settings(Provider.AZURE, "reports", LogSource(bucket="logs", format="azure_resource")),
                _settings(Provider.GCP, "kanjiapi.dev", LogSource(bucket="logs", format="gcs_usage")),
            )
        )
        for client in self.clients.values():
            client.create_bucket("logs")

    def deliver(self, provider: Provider, key: str, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        self.clients[provider].put_object(ObjectRef(provider, "logs", key), data)

    def client_of(self, provider: Provider, connection_id: str) -> MemoryTierClient:
        assert connection_id == f"{provider}_default"
        return self.clients[provider]

    def audit(self, suite: str, data: Any, batch: str) -> Report:
        return Report(suite, suite not in self.refused)

    def find(self, batch: str = "run-1") -> list[str]:
        return [
            name
            for provider in Provider
            for name in collect_files.find_new_files(
                self.estate,
                self.client_of,
                self.files,
                self.lake,
                provider=provider,
                batch=batch,
                at=NOW,
                chunk_files=self.chunk_files,
            )
        ]

    def parse(self, names: list[str], batch: str = "run-1") -> list[dict[str, int]]:
        return [
            collect_chunks.parse_chunk(name, self.estate, self.client_of, parser_of, self.lake, batch=batch)
            for name in names
        ]

    def publish(self, batch: str = "run-1") -> dict[str, int]:
        return collect.audit_and_publish(self.lake, self.files, self.kept, self.audit, batch=batch, clock=lambda: NOW)

    def collect(self, batch: str = "run-1") -> dict[str, int]:
        self.parse(self.find(batch), batch)
        return self.publish(batch)

    def daily(self) -> dict[str, tuple[int, int, int, int]]:
        return {
            row["key"]: (row["reads"], row["writes"], row["bytes_read"], row["excluded_reads"])
            for row in self.lake.read("daily_access").to_pylist()
        }

    def published(self, *datasets: str) -> dict[str, bytes]:
        """The bytes of all that is published."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for dataset in datasets or ("access_events", "log_hours", "quarantine", "daily_access")
            for path in sorted((self.folder / dataset).rglob("*.parquet"))
        }


def _settings(provider: Provider, bucket: str, logs: LogSource) -> BucketSettings:
    return BucketSettings(
        provider=provider, bucket=bucket, logs=(logs,), price_book="any", connection_id=f"{provider}_default"
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "lake")


def get(key: str, request_id: str, day: int = 6, **overrides: str) -> str:
    return s3_line(
        key=key,
        request_id=request_id,
        time=f"[{day:02d}/Nov/2026:10:00:00 +0000]",
        uri=f'"GET /{key} HTTP/1.1"',
        **overrides,
    )


def test_what_can_be_listed_is_published_when_a_source_is_refused(world: World) -> None:
    gone = LogSource(bucket="gone", format="s3_server_access")
    world.estate = Estate(buckets=(*world.estate.buckets, _settings(Provider.AWS, "other", gone)))
    world.deliver(Provider.AWS, "s3/a", get("k", "R1"))
    published = world.collect()
    assert world.daily()["k"][0] == 1
    assert published["unlisted"] == [["aws", "other"]]
    (reason,) = published["refused"]
    assert "'gone'" in reason


def test_containers_are_told_apart_by_their_accounts_logs_when_names_are_the_same(world: World) -> None:
    # Of two accounts with a container "reports" each the estate names one; the other account's logs lie beside.
    place = "resourceId=/subscriptions/s/storageAccounts/{}/blobServices/default/"
    world.estate = Estate(
        buckets=tuple(
            _settings(
                Provider.AZURE, bucket, LogSource(bucket="logs", prefix=place.format(of), format="azure_resource")
            )
            for bucket, of in (("reports", "acct"), ("data", "other"))
        )
    )
    for of, request_id in (("acct", "R1"), ("other", "R2")):
        lines = [
            azure_line(properties={"objectKey": f"/{of}/{bucket}/q1"}, correlationId=request_id)
            for bucket in ("reports", "data")
        ]
        world.deliver(Provider.AZURE, f"{place.format(of)}y=2026/m=11/d=06/h=10/m=00/PT1H.json", "\n".join(lines))
    world.collect()
    daily = world.lake.read("daily_access").select(["bucket", "key", "reads"]).to_pylist()
    assert sorted((row["bucket"], row["reads"]) for row in daily) == [("data", 1), ("reports", 1)]


def test_all_three_providers_are_collected_when_their_logs_are_delivered(world: World) -> None:
    world.deliver(Provider.AWS, "s3/a", s3_line())
    world.deliver(Provider.AZURE, "y=2026/PT1H.json", azure_line())
    world.deliver(Provider.GCP, "b_usage_v0", GCS_HEADER + "\n" + gcs_line())
    assert world.collect() == {
        "files": 3,
        "lines": 3,
        "events": 3,
        "quarantined": 0,
        "replaced": 0,
        "days": 1,
        "touched": [("2026-11-06", "2026-11-06")],
        "collected_until": NOW.isoformat(),
        "refused": [],
        "unlisted": [],
        "notices": [],
    }
    assert world.daily() == {
        "a/b.bin": (1, 0, 2048, 0),
        "q1 final.xlsx": (1, 0, 18432, 0),
        "v1/kanji/集": (1, 0, 277, 0),
    }
    assert {row["published_at"] for row in world.files.rows.values()} == {NOW}
    assert not list((world.folder / "_staging").iterdir())


def test_a_grown_file_replaces_what_was_read_of_it_when_its_etag_changes(world: World) -> None:
    first, second = azure_line(correlationId="A"), azure_line(correlationId="B")
    world.deliver(Provider.AZURE, "PT1H.json", first + "\n" + second[:100])
    assert world.collect("run-1")["quarantined"] == 1
    world.deliver(Provider.AZURE, "PT1H.json", first + "\n" + second)
    assert world.collect("run-2")["events"] == 2
    assert world.daily()["q1 final.xlsx"][0] == 2
    assert world.lake.read("access_events").num_rows == 2
    assert world.kept.rows == {}
    assert world.lake.read("log_hours")["records"].to_pylist() == [2]
    assert world.lake.read("quarantine").num_rows == 0


def test_our_own_requests_are_no_use_when_their_agent_is_excluded(world: World) -> None:
    ours = '"Boto3/1.40 cloudflux/0.1"'
    nobody = {"referer": "-", "agent": "-"}  # S3 logs the source of a copy so
    lines = [
        get("k", "R1", agent=ours),
        get("k", "R2"),
        get("moved", "R3", operation="REST.COPY.OBJECT", agent=ours),
        get("moved", "R3", operation="REST.COPY.OBJECT_GET", **nobody),
        get("copied", "R4", operation="REST.COPY.OBJECT_GET", **nobody),
        get("large", "R5", operation="REST.COPY.PART", agent=ours),
        get("large", "R5", operation="REST.COPY.PART_GET", **nobody),
        get("large", "R6", operation="REST.COPY.PART", agent=ours),
        get("large", "R6", operation="REST.COPY.PART_GET", **nobody),
        get("large", "R7", operation="REST.POST.UPLOAD", agent=ours),
    ]
    world.deliver(Provider.AWS, "s3/a", "\n".join(lines[:3]))
    world.deliver(Provider.AWS, "s3/b", "\n".join(lines[3:]))
    world.collect()
    daily = world.daily()
    assert daily["k"] == (1, 0, 2048, 1)
    assert daily["moved"][:2] == (0, 0)
    assert daily["large"] == (0, 0, 0, 2)
    assert daily["copied"][0] == 1


def test_the_good_lines_go_through_when_files_are_cut_or_junk(world: World) -> None:
    good = "\n".join(get("k", f"R{number}") for number in range(10))
    world.deliver(Provider.AWS, "s3/a", good[: len(good) - 200])
    world.deliver(Provider.AWS, "s3/junk", random.Random(1).randbytes(5000))
    world.deliver(Provider.GCP, "junk", b"\x1f\x8b" + random.Random(2).randbytes(500))
    world.deliver(Provider.GCP, "empty", b"")
    assert world.collect()["quarantined"] == 3
    assert world.daily() == {"k": (9, 0, 9 * 2048, 0)}
    assert sorted(row["reason"] for row in world.kept.rows.values()) == [
        "binary data, not a log file",
        "gzip: the file is damaged",
        "not a server access log line: fields are missing or cut off",
    ]
    assert len(world.files.rows) == 3  # junk is recorded too: it is not read again every time


def test_a_file_is_passed_over_when_it_is_gone_before_it_is_read(world: World) -> None:
    world.deliver(Provider.AWS, "s3/a", get("k", "R1"))
    world.deliver(Provider.AWS, "s3/b", get("k", "R2"))
    names = world.find()
    world.clients[Provider.AWS].delete_object(ObjectRef(Provider.AWS, "logs", "s3/a"))
    (counts,) = world.parse(names)
    assert (counts["files"], counts["gone"], counts["events"]) == (1, 1, 1)
    world.publish()
    assert [key for _, _, key, _ in world.files.rows] == ["s3/b"]


def many_files(seed: int, files: int = 12, lines: int = 40) -> dict[str, str]:
    rng = random.Random(seed)
    made = [
        get(f"key-{rng.randrange(50)}", f"R{number}", day=rng.randint(1, 12), bytes_sent=str(rng.randrange(9999)))
        for number in range(files * lines)
    ]
    made += rng.sample(made, len(made) // 20 + 1)  # delivered twice
    return {f"s3/log-{number:03d}": "\n".join(made[number::files]) for number in range(files)}


def test_published_bytes_are_the_same_when_files_come_in_another_order_in_other_chunks_and_runs(
    tmp_path: Path,
) -> None:
    contents = many_files(1)
    results = []
    for number, chunk_files in enumerate((1500, 5, 1)):
        world = World(tmp_path / str(number), chunk_files=chunk_files)
        names = sorted(contents)
        random.Random(number).shuffle(names)
        half = len(names) // 2 if number else len(names)
        for batch, some in (("x", names[:half]), ("y", names[half:])):
            for name in some:
                lines = contents[name].split("\n")
                random.Random(number).shuffle(lines)
                world.deliver(Provider.AWS, name, "\n".join(lines))
            chunks = world.find(batch)
            random.Random(number).shuffle(chunks)
            world.parse(chunks, batch)
            world.publish(batch)
        assert sum(world.lake.read("daily_access")["reads"].to_pylist()) == 12 * 40
        results.append(world.published("daily_access"))
    assert results[0] == results[1] == results[2]


class Killed(BaseException):
    """The process was killed here."""


def test_the_bytes_are_the_same_when_publishing_is_killed_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = many_files(2, files=2, lines=5) | {"s3/bad": "rubbish"}

    def delivered(name: str) -> World:
        world = World(tmp_path / name)
        for key, text in contents.items():
            world.deliver(Provider.AWS, key, text)
        world.parse(world.find())
        return world

    whole = delivered("whole")
    whole.publish()
    finished, killed_at = False, 0
    while not finished:
        assert killed_at < 200, "publishing takes more steps than it has files to move"
        world = delivered(f"killed-{killed_at}")
        with monkeypatch.context() as patch:
            _kill_at(patch, killed_at, world)
            try:
                world.publish()
                finished = True
            except Killed:
                pass
        world.publish()
        assert world.published() == whole.published(), f"killed at step {killed_at}"
        assert world.files.rows == whole.files.rows
        assert world.kept.rows == whole.kept.rows
        killed_at += 1
    assert killed_at > 30  # between all renames of events, of daily access, and around the stores


def _kill_at(patch: pytest.MonkeyPatch, step: int, world: World) -> None:
    left = iter(range(step))

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return real(*arguments, **named)

        return act

    patch.setattr(os, "replace", killing(os.replace))
    patch.setattr(world.lake, "discard", killing(world.lake.discard))
    patch.setattr(world.files, "intend", killing(world.files.intend))
    patch.setattr(world.files, "record", killing(world.files.record))
    patch.setattr(world.kept, "add", killing(world.kept.add))


@pytest.mark.parametrize("suite", ["access_events", "daily_access"])
def test_the_published_days_stay_when_the_audit_refuses_the_new_ones(world: World, suite: str) -> None:
    world.deliver(Provider.AWS, "s3/a", get("k", "R1"))
    world.collect("run-1")
    before = world.daily()
    world.deliver(Provider.AWS, "s3/b", get("k", "R2"))
    world.refused = {suite}
    with pytest.raises(AuditFailed):
        world.collect("run-2")
    assert world.daily() == before
    assert len(world.files.rows) == 1
    world.refused = set()
    world.collect("run-3")
    assert world.daily()["k"][0] == 2


def test_a_chunk_is_refused_by_name_when_the_lake_does_not_know_it(world: World) -> None:
    with pytest.raises(TerminalError, match="chunk aws-x of batch run-1"):
        world.parse(["aws-x"])


def test_rejected_rows_go_to_quarantine_with_their_line_and_the_rest_is_published(world: World) -> None:
    lines = [get("k", "R1"), get("odd", "R2"), get("k", "R3")]
    world.deliver(Provider.AWS, "s3/a", "\n".join(lines))

    class Rejecting(Report):
        def __init__(self, rows: pa.Table) -> None:
            super().__init__("access_events", True)
            bad = rows.filter(pc.equal(rows["key"], "odd"))
            self.rejected = pa.table(
                {
                    **{name: bad[name] for name in ("source_file", "provider", "line", "day")},
                    **dict.fromkeys(("bucket", "key"), [""] * bad.num_rows),
                    "reason": ["audit: odd"] * bad.num_rows,
                    "raw": ["{}"] * bad.num_rows,
                }
            ).select(QUARANTINE.names).cast(QUARANTINE)  # fmt: skip

        def kept(self, rows: pa.Table) -> pa.Table:
            return rows.filter(pc.not_equal(rows["key"], "odd"))

    def audit(suite: str, data: Any, batch: str) -> Report:
        return Rejecting(data.to_table()) if suite == "access_events" else Report(suite, True)

    world.parse(world.find())
    published = collect.audit_and_publish(world.lake, world.files, world.kept, audit, batch="run-1", clock=lambda: NOW)
    assert published["quarantined"] == 1
    assert world.daily() == {"k": (2, 0, 4096, 0)}
    assert world.lake.read("access_events")["request_id"].to_pylist() == ["R1", "R3"]
    (row,) = world.kept.rows.values()
    assert (row["bucket"], row["key"], row["line"], row["reason"]) == ("logs", "s3/a", 2, "audit: odd")


def test_a_large_file_is_read_in_pieces_when_it_is_collected(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_chunks, "_STREAMED_ABOVE_BYTES", 1000)
    monkeypatch.setattr(collect_chunks, "_PIECE_BYTES", 700)
    client = world.clients[Provider.AWS]
    streamed: list[int] = []
    read_blocks = client.read_blocks
    monkeypatch.setattr(client, "read_blocks", lambda ref, size: streamed.append(size) or read_blocks(ref, size))
    world.deliver(Provider.AWS, "s3/a", "\n".join(get("k", f"R{number}") for number in range(50)))
    world.collect()
    assert world.daily()["k"][0] == 50
    assert world.lake.read("access_events")["line"].to_pylist() == list(range(1, 51))
    assert streamed == [700]
