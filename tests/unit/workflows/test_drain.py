"""The drain against a topic and a staging area in memory; tests/integration/test_drain.py has the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pytest

from cloudflux.domain.errors import AuditFailed
from cloudflux.events.schema import parse_messages
from cloudflux.workflows.drain import DrainReport, OffsetGap, drain

AT = datetime(2026, 11, 1, tzinfo=UTC)


class Message(NamedTuple):
    partition: int
    offset: int
    value: bytes
    timestamp: int = -1


def good(name: str) -> bytes:
    return orjson.dumps(
        {
            "file_id": name, "size_gb": 1, "timestamp": 0, "source": "app_log",
            "metadata": {"content_type": "log", "user_id": "u"},
        }
    )  # fmt: skip


@dataclass
class Batch:
    messages: tuple[Message, ...]
    ranges: dict[int, tuple[int, int]]


@dataclass
class Topic:
    """Partitions as lists of values; ``oldest`` are deleted from the front. Reads one partition after the other."""

    partitions: dict[int, list[bytes]]
    oldest: dict[int, int] = field(default_factory=dict)

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {number: (self.oldest.get(number, 0), len(values)) for number, values in self.partitions.items()}

    def read(self, starts: Mapping[int, int], ends: Mapping[int, int], *, max_messages: int) -> Iterator[Batch]:
        for number, start in starts.items():
            for first in range(start, ends[number], max_messages):
                after = min(first + max_messages, ends[number])
                messages = tuple(Message(number, at, self.partitions[number][at]) for at in range(first, after))
                yield Batch(messages, {number: (first, after)})


@dataclass
class Stored:
    staged: int
    duplicates: int
    dead_lettered: int


@dataclass
class Staging:
    offsets: dict[int, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    gaps: list[tuple[int, int, int]] = field(default_factory=list)

    def next_offsets(self, topic: str) -> dict[int, int]:
        return self.offsets

    def store_batch(
        self, topic: str, ranges: Mapping[int, tuple[int, int]], events: pa.Table, dead_letters: pa.Table, at: datetime
    ) -> Stored:
        new = [file for file in events["file_id"].to_pylist() if file not in self.files]
        self.files += new
        self.letters += dead_letters["reason"].to_pylist()
        self.offsets = {**self.offsets, **{number: after for number, (_, after) in ranges.items()}}
        return Stored(len(new), events.num_rows - len(new), dead_letters.num_rows)

    def accept_gap(self, topic: str, partition: int, from_offset: int, to_offset: int, at: datetime) -> None:
        self.gaps.append((partition, from_offset, to_offset))


def passes(events: pa.Table, batch: str) -> None:
    """Every batch."""


def run(topic: Topic, staging: Staging, audit: Callable[[pa.Table, str], None] = passes, **options: Any) -> DrainReport:
    return drain(topic, staging, topic="t", parse=parse_messages, audit=audit, clock=lambda: AT, **options)


def test_every_message_ends_in_one_place_when_drained() -> None:
    staging = Staging()
    report = run(Topic({0: [good("a"), b"junk", good("b"), good("a")], 1: [good("c")]}), staging, batch_messages=3)
    assert (report.read, report.staged, report.duplicates, report.dead_lettered, report.batches) == (5, 3, 1, 1, 3)
    assert report.next_offsets == {0: 4, 1: 1}
    assert (staging.files, staging.letters) == (["a", "b", "c"], ["not JSON"])


def test_only_what_is_new_is_read_when_drained_again() -> None:
    topic, staging = Topic({0: [good("a")], 1: []}), Staging()
    run(topic, staging)
    topic.partitions[0].append(good("b"))
    topic.partitions[1].append(good("c"))
    assert run(topic, staging).read == 2
    assert run(topic, staging).read == 0
    assert staging.files == ["a", "b", "c"]


def test_nothing_of_the_batch_is_stored_when_its_audit_fails() -> None:
    def refuses(events: pa.Table, batch: str) -> None:
        if "bad" in events["file_id"].to_pylist():
            raise AuditFailed("size_gb: expected below 1, e.g. 7")

    topic, staging = Topic({0: [good("a"), b"junk", good("b"), good("bad"), good("c")]}), Staging()
    with pytest.raises(AuditFailed, match=r"batch t\[0:2-4\] is stored.*size_gb: expected below 1"):
        run(topic, staging, refuses, batch_messages=2)
    assert (staging.files, staging.offsets) == (["a"], {0: 2})
    run(topic, staging, batch_messages=2)
    assert staging.files == ["a", "b", "bad", "c"]


def test_audit_is_not_asked_when_a_batch_has_dead_letters_only() -> None:
    def refuses(events: pa.Table, batch: str) -> None:
        raise AuditFailed("there is no row")

    staging = Staging()
    assert run(Topic({0: [b"junk"]}), staging, refuses).dead_lettered == 1
    assert staging.offsets == {0: 1}


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ({0: 1}, "partition 0: offsets 1 to 2 were deleted before they were drained"),
        ({0: 9}, "partition 0 ends at 4 but was drained up to 9: it was made anew"),
        ({7: 3}, "partition 7 does not exist any more"),
    ],
)
def test_gap_is_an_error_that_names_it_when_the_next_offset_is_gone(offsets: dict[int, int], message: str) -> None:
    topic, staging = Topic({0: [b""] * 3 + [good("d")]}, oldest={0: 3}), Staging(dict(offsets))
    with pytest.raises(OffsetGap, match=message):
        run(topic, staging)
    assert (staging.files, staging.offsets) == ([], offsets)


@pytest.mark.parametrize(("stored", "gaps"), [(1, [(0, 1, 3)]), (9, [(0, 9, 3)]), (3, []), (4, [])])
def test_drain_goes_on_after_the_gap_when_it_is_accepted(stored: int, gaps: list[tuple[int, int, int]]) -> None:
    topic, staging = Topic({0: [b""] * 3 + [good("d")]}, oldest={0: 3}), Staging({0: stored})
    report = run(topic, staging, accept_gaps=True)
    assert (staging.gaps, report.gaps, report.next_offsets) == (gaps, len(gaps), {0: 4})
    assert staging.files == ([] if stored == 4 else ["d"])


def test_partition_starts_at_its_oldest_message_when_it_was_never_drained() -> None:
    staging = Staging()
    assert run(Topic({0: [b""] * 3 + [good("d")]}, oldest={0: 3}), staging).read == 1
