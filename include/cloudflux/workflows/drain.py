"""Drain the ingestion topic: each message ends in staging or in the dead letters exactly once.

The rows and the offsets up to which they reach are stored in one transaction, conditional on the offsets being where
this drain found them. A drain that is killed leaves a whole number of batches; the next one goes on there. Two at once
do no harm: one of them finds that the offsets have moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa

from cloudflux.domain.errors import AuditFailed, TerminalError


class OffsetGap(TerminalError):
    """The broker no longer has the messages that come next, or the topic is another one than it was."""


class Batch(Protocol):
    """Some messages, and the offsets that they cover."""

    @property
    def messages(self) -> Sequence[Any]:
        """Kafka's records."""

    @property
    def ranges(self) -> Mapping[int, tuple[int, int]]:
        """By partition: the first offset, and the first one after the batch."""


class TopicReader(Protocol):
    """The topic."""

    def bounds(self) -> Mapping[int, tuple[int, int]]:
        """Give for each partition the oldest offset that is kept and the first one after the newest message."""

    def read(self, starts: Mapping[int, int], ends: Mapping[int, int], *, max_messages: int) -> Iterator[Batch]:
        """Read each partition from its start to before its end."""


class Parsed(Protocol):
    """Messages, told apart."""

    @property
    def events(self) -> pa.Table:
        """The valid ones."""

    @property
    def dead_letters(self) -> pa.Table:
        """The others, with their reasons."""


class Stored(Protocol):
    """What became of one batch."""

    @property
    def staged(self) -> int:
        """New rows."""

    @property
    def duplicates(self) -> int:
        """Events that were staged before."""

    @property
    def dead_lettered(self) -> int:
        """Dead letters."""


class Staging(Protocol):
    """The staging tables."""

    def next_offsets(self, topic: str) -> Mapping[int, int]:
        """Give the first offset of each partition that is not stored yet."""

    def store_batch(
        self,
        topic: str,
        ranges: Mapping[int, tuple[int, int]],
        events: pa.Table,
        dead_letters: pa.Table,
        at: datetime,
    ) -> Stored:
        """Store rows and move the offsets in one transaction."""

    def accept_gap(self, topic: str, partition: int, from_offset: int, to_offset: int, at: datetime) -> None:
        """Record that offsets are lost, and go on after them."""


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What one drain did."""

    topic: str
    read: int
    staged: int
    duplicates: int
    dead_lettered: int
    batches: int
    gaps: int
    """Partitions whose gap was accepted."""
    next_offsets: dict[int, int]
    """By partition, after this drain."""


def drain(
    reader: TopicReader,
    staging: Staging,
    *,
    topic: str,
    parse: Callable[[Sequence[Any]], Parsed],
    audit: Callable[[pa.Table, str], None],
    clock: Callable[[], datetime],
    batch_messages: int = 50_000,
    accept_gaps: bool = False,
) -> DrainReport:
    """Drain what the topic holds now, from the stored offsets on; what is produced meanwhile waits for the next drain.

    ``audit(events, batch)`` raises ``AuditFailed`` for a batch that must not be stored; the batches before it stay
    stored, it and those after it stay in the topic. Batches are large because one audit costs a second whatever it
    audits. A partition that was never drained starts at its oldest message.
    Raises ``OffsetGap`` when the next offset of a partition is gone, unless ``accept_gaps``: then the gap is put on
    the record and the drain goes on after it.
    """
    bounds = reader.bounds()
    stored = dict(staging.next_offsets(topic))
    gaps = _gaps(bounds, stored)
    if gaps and not accept_gaps:
        raise OffsetGap(_describe(topic, bounds, gaps))
    for partition, offset in gaps.items():
        if partition in bounds:
            staging.accept_gap(topic, partition, offset, bounds[partition][0], clock())
            stored[partition] = bounds[partition][0]
    starts = {partition: stored.get(partition, oldest) for partition, (oldest, _) in bounds.items()}
    ends = {partition: end for partition, (_, end) in bounds.items()}
    read = staged = duplicates = dead_lettered = batches = 0
    for batch in reader.read(starts, ends, max_messages=batch_messages):
        parsed = parse(batch.messages)
        if parsed.events.num_rows:
            name = _name(topic, batch.ranges)
            try:
                audit(parsed.events, name)
            except AuditFailed as exc:
                raise AuditFailed(f"nothing of batch {name} is stored, it stays in the topic: {exc}") from exc
        outcome = staging.store_batch(topic, batch.ranges, parsed.events, parsed.dead_letters, clock())
        batches += 1
        read += len(batch.messages)
        staged += outcome.staged
        duplicates += outcome.duplicates
        dead_lettered += outcome.dead_lettered
        stored.update({partition: after for partition, (_, after) in batch.ranges.items()})
    return DrainReport(topic, read, staged, duplicates, dead_lettered, batches, len(gaps), stored)


def _gaps(bounds: Mapping[int, tuple[int, int]], stored: Mapping[int, int]) -> dict[int, int]:
    """Give the stored offset of each partition where the broker has no message to go on with."""
    gone = {partition: offset for partition, offset in stored.items() if partition not in bounds}
    return gone | {
        partition: stored[partition]
        for partition, (oldest, end) in bounds.items()
        if partition in stored and not oldest <= stored[partition] <= end
    }


def _describe(topic: str, bounds: Mapping[int, tuple[int, int]], gaps: Mapping[int, int]) -> str:
    parts = []
    for partition, offset in sorted(gaps.items()):
        if partition not in bounds:
            parts.append(f"partition {partition} does not exist any more (drained up to {offset})")
            continue
        oldest, end = bounds[partition]
        if offset < oldest:
            parts.append(
                f"partition {partition}: offsets {offset} to {oldest - 1} were deleted before they were drained"
            )
        else:
            parts.append(f"partition {partition} ends at {end} but was drained up to {offset}: it was made anew")
    return (
        f"topic {topic} cannot be drained without a gap: {'; '.join(parts)}. Raise the topic's retention; to go on "
        "without those messages, drain once with accept_gaps, which puts the gap into staging.offset_gaps"
    )


def _name(topic: str, ranges: Mapping[int, tuple[int, int]]) -> str:
    return (
        f"{topic}[{', '.join(f'{partition}:{first}-{after}' for partition, (first, after) in sorted(ranges.items()))}]"
    )
