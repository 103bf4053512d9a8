"""What came from Kafka: valid events, dead letters, and up to where each partition is drained, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
from sqlalchemy import Connection, Engine, func, select

from cloudflux.domain.errors import TransientError
from cloudflux.stores.bulk import copy_rows, copy_table, temporary_copy_of
from cloudflux.stores.tables import DeadLetterRow, IngestionEventRow, KafkaOffsetRow, OffsetGapRow

_EVENTS: Final = "staging.ingestion_events"
_EVENT_COLUMNS: Final = (
    "file_id", "timestamp", "source", "size_gb", "content_type", "user_id", "partition", "offset", "produced_at",
)  # fmt: skip
_LISTED: Final = ", ".join(f'"{name}"' for name in _EVENT_COLUMNS)
_LETTER_COLUMNS: Final = ("partition", "offset", "reason", "detail", "payload", "payload_bytes", "produced_at")


class OffsetsMoved(TransientError):
    """Somebody else drained the partition meanwhile: nothing of the batch was stored, and nothing is lost."""


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """What became of one batch."""

    staged: int
    duplicates: int
    """Events whose identity was staged already: a producer's retry."""
    dead_lettered: int


@dataclass(frozen=True, slots=True)
class StagingCounts:
    """How much is there."""

    staged: int
    dead_lettered: int
    skipped_offsets: int
    """Offsets inside accepted gaps: messages that the broker deleted before they were drained."""


class Staging:
    """The staging tables. An event's identity is (file_id, timestamp, source)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def next_offsets(self, topic: str) -> dict[int, int]:
        """Give, for each partition that was ever drained, the first offset that is not stored yet."""
        wanted = select(KafkaOffsetRow.partition, KafkaOffsetRow.next_offset).where(KafkaOffsetRow.topic == topic)
        with self._engine.connect() as connection:
            return {row.partition: row.next_offset for row in connection.execute(wanted)}

    def store_batch(
        self,
        topic: str,
        ranges: Mapping[int, tuple[int, int]],
        events: pa.Table,
        dead_letters: pa.Table,
        at: datetime,
    ) -> StoredBatch:
        """Store one batch and move the offsets, all in one transaction.

        ``ranges`` gives for each partition the first offset of the batch and the first one after it. ``events`` has the
        columns ``file_id, timestamp, source, size_gb, content_type, user_id, partition, offset, produced_at``,
        ``dead_letters`` ``partition, offset, reason, detail, payload, payload_bytes, produced_at``. The batch need not
        be in any order; of two events with one identity the one with the lower offset stays.
        Raises ``OffsetsMoved`` when a stored offset is not the batch's first: then nothing is stored.
        """
        with self._engine.begin() as connection:
            _move_offsets(connection, topic, ranges, at)
            staged = _insert_events(connection, topic, events, at) if events.num_rows else 0
            if dead_letters.num_rows:
                copy_rows(
                    connection,
                    "staging.dead_letters",
                    ("topic", "recorded_at", *_LETTER_COLUMNS),
                    (
                        (topic, at, *(letter[name] for name in _LETTER_COLUMNS))
                        for letter in dead_letters.select(_LETTER_COLUMNS).to_pylist()
                    ),
                )
        return StoredBatch(staged, events.num_rows - staged, dead_letters.num_rows)

    def accept_gap(self, topic: str, partition: int, from_offset: int, to_offset: int, at: datetime) -> None:
        """Record that the offsets from ``from_offset`` to before ``to_offset`` are lost, and go on after them.

        Raises ``OffsetsMoved`` when ``from_offset`` is not the stored offset.
        """
        with self._engine.begin() as connection:
            _move_offsets(connection, topic, {partition: (from_offset, to_offset)}, at)
            connection.execute(
                OffsetGapRow.__table__.insert().values(  # type: ignore[attr-defined]  # a Table, typed as FromClause
                    topic=topic, partition=partition, from_offset=from_offset, to_offset=to_offset, accepted_at=at
                )
            )

    def content_types(self, since: datetime) -> pa.Table:
        """Give what the events that were staged since then say of files: ``uri`` and ``content_type``, oldest first."""
        wanted = (
            select(IngestionEventRow.file_id, IngestionEventRow.content_type)
            .where(IngestionEventRow.staged_at >= since)
            .order_by(IngestionEventRow.timestamp, IngestionEventRow.file_id, IngestionEventRow.source)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(wanted).all()
        return pa.table(
            {
                "uri": pa.array([row.file_id for row in rows], pa.string()),
                "content_type": pa.array([row.content_type for row in rows], pa.string()),
            }
        )

    def counts(self, topic: str | None = None) -> StagingCounts:
        """Count what is staged, of one topic or of all."""
        events = select(func.count()).select_from(IngestionEventRow)
        letters = select(func.count()).select_from(DeadLetterRow)
        skipped = select(func.coalesce(func.sum(func.abs(OffsetGapRow.to_offset - OffsetGapRow.from_offset)), 0))
        if topic is not None:
            events = events.where(IngestionEventRow.topic == topic)
            letters = letters.where(DeadLetterRow.topic == topic)
            skipped = skipped.where(OffsetGapRow.topic == topic)
        with self._engine.connect() as connection:
            return StagingCounts(
                connection.execute(events).scalar_one(),
                connection.execute(letters).scalar_one(),
                int(connection.execute(skipped).scalar_one()),
            )

    def dead_letters_by_reason(self, topic: str | None = None) -> list[tuple[str, int]]:
        """Count the dead letters of each reason, most first."""
        letters = func.count().label("letters")
        wanted = select(DeadLetterRow.reason, letters).group_by(DeadLetterRow.reason)
        wanted = wanted.order_by(letters.desc(), DeadLetterRow.reason)
        if topic is not None:
            wanted = wanted.where(DeadLetterRow.topic == topic)
        with self._engine.connect() as connection:
            return [(row.reason, row.letters) for row in connection.execute(wanted)]


def _move_offsets(connection: Connection, topic: str, ranges: Mapping[int, tuple[int, int]], at: datetime) -> None:
    """Lock the partitions' offsets, compare them with the batch's first ones, and set the next ones."""
    partitions = sorted(ranges)
    arguments: dict[str, Any] = {
        "topic": topic,
        "partitions": partitions,
        "firsts": [ranges[partition][0] for partition in partitions],
        "nexts": [ranges[partition][1] for partition in partitions],
        "at": at,
    }
    # Rows are made and locked in one order, so two drains wait for one another and never deadlock.
    connection.exec_driver_sql(
        "INSERT INTO staging.kafka_offsets (topic, partition, next_offset, updated_at) "
        "SELECT %(topic)s, partition, first, %(at)s "
        "FROM unnest(%(partitions)s::bigint[], %(firsts)s::bigint[]) AS batch (partition, first) "
        "ORDER BY partition ON CONFLICT DO NOTHING",
        arguments,
    )
    locked = connection.exec_driver_sql(
        "SELECT partition, next_offset FROM staging.kafka_offsets "
        "WHERE topic = %(topic)s AND partition = ANY(%(partitions)s::bigint[]) ORDER BY partition FOR UPDATE",
        arguments,
    )
    stored = {row.partition: row.next_offset for row in locked}
    moved = {partition: stored[partition] for partition in partitions if stored[partition] != ranges[partition][0]}
    if moved:
        raise OffsetsMoved(
            f"topic {topic}: another drain has moved on while this one worked (partition: offset stored now) {moved}; "
            "nothing of this batch was stored, drain again"
        )
    connection.exec_driver_sql(
        "UPDATE staging.kafka_offsets AS stored SET next_offset = batch.next, updated_at = %(at)s "
        "FROM unnest(%(partitions)s::bigint[], %(nexts)s::bigint[]) AS batch (partition, next) "
        "WHERE stored.topic = %(topic)s AND stored.partition = batch.partition",
        arguments,
    )


def _insert_events(connection: Connection, topic: str, events: pa.Table, at: datetime) -> int:
    with temporary_copy_of(connection, _EVENTS, _EVENT_COLUMNS, name="events_in"):
        copy_table(connection, "events_in", events.select(_EVENT_COLUMNS))
        return connection.exec_driver_sql(
            f"INSERT INTO {_EVENTS} ({_LISTED}, topic, staged_at) SELECT {_LISTED}, %(topic)s, %(at)s FROM events_in "  # noqa: S608  # our own names
            # in the order of the key: neighbours in the index, and one order for all who insert at once
            'ORDER BY file_id, "timestamp", source, "partition", "offset" ON CONFLICT DO NOTHING',
            {"topic": topic, "at": at},
        ).rowcount
