from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Engine, text

from cloudflux.events.schema import DEAD_LETTERS, INGESTION_EVENTS
from cloudflux.stores.staging import OffsetsMoved, Staging, StagingCounts, StoredBatch

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
TOPIC = "data-ingestion"


def an_event(offset: int, partition: int = 0, **overrides: Any) -> dict[str, Any]:
    return {
        "partition": partition, "offset": offset, "file_id": f"f-{partition}-{offset}", "size_gb": 0.1,
        "timestamp": AT + timedelta(microseconds=offset), "source": "app_log", "content_type": "log",
        "user_id": "u", "produced_at": None, **overrides,
    }  # fmt: skip


def events(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), INGESTION_EVENTS)


def letters(*offsets: int, payload: bytes = b"\x00\xffjunk") -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "partition": 0, "offset": offset, "reason": "not JSON", "detail": "it is junk", "payload": payload,
                "payload_bytes": 100_000, "produced_at": AT,
            }
            for offset in offsets
        ],
        DEAD_LETTERS,
    )  # fmt: skip


def rows(engine: Engine, statement: str) -> Sequence[Any]:
    with engine.connect() as connection:
        return connection.execute(text(statement)).all()


def test_batch_reads_back_when_stored(engine: Engine) -> None:
    staging = Staging(engine)
    strange = an_event(1, file_id='"a",\n\\N', user_id="NULL", produced_at=AT, size_gb=1e-300)
    stored = staging.store_batch(TOPIC, {0: (0, 3), 1: (5, 6)}, events(strange, an_event(5, 1)), letters(0, 2), AT)
    assert stored == StoredBatch(2, 0, 2)
    assert staging.next_offsets(TOPIC) == {0: 3, 1: 6}
    assert staging.next_offsets("other") == {}
    found = rows(engine, "SELECT * FROM staging.ingestion_events ORDER BY partition")
    assert [(row.file_id, row.user_id, row.produced_at, row.size_gb, row.offset) for row in found] == [
        ('"a",\n\\N', "NULL", AT, 1e-300, 1),
        ("f-1-5", "u", None, 0.1, 5),
    ]
    assert (found[0].timestamp, found[0].staged_at, found[0].topic) == (AT + timedelta(microseconds=1), AT, TOPIC)
    letter = rows(engine, "SELECT * FROM staging.dead_letters")[0]
    assert (letter.payload, letter.payload_bytes, letter.reason) == (b"\x00\xffjunk", 100_000, "not JSON")
    assert staging.counts(TOPIC) == StagingCounts(2, 2, 0)
    assert staging.dead_letters_by_reason() == [("not JSON", 2)]


def test_first_event_stays_when_a_producer_retries(engine: Engine) -> None:
    staging = Staging(engine)
    same = {"file_id": "f", "timestamp": AT}
    batch = events(an_event(1, size_gb=2.0, **same), an_event(0, size_gb=1.0, **same), an_event(2, source="iot_sensor"))
    assert staging.store_batch(TOPIC, {0: (0, 3)}, batch, letters(), AT) == StoredBatch(2, 1, 0)
    again = events(an_event(3, size_gb=3.0, **same))
    assert staging.store_batch(TOPIC, {0: (3, 4)}, again, letters(), AT) == StoredBatch(0, 1, 0)
    assert rows(engine, "SELECT size_gb FROM staging.ingestion_events WHERE file_id = 'f'") == [(1.0,)]


def test_nothing_is_stored_when_the_offset_has_moved(engine: Engine) -> None:
    staging = Staging(engine)
    staging.store_batch(TOPIC, {0: (0, 3), 1: (0, 1)}, events(an_event(0)), letters(), AT)
    with pytest.raises(OffsetsMoved, match=r"data-ingestion.*\{0: 3\}"):
        staging.store_batch(TOPIC, {0: (0, 5), 1: (1, 2), 2: (0, 1)}, events(an_event(4)), letters(1), AT)
    assert staging.next_offsets(TOPIC) == {0: 3, 1: 1}
    assert staging.counts() == StagingCounts(1, 0, 0)


def test_one_of_two_wins_when_both_drain_at_once(engine: Engine) -> None:
    barrier = threading.Barrier(2)
    outcomes: list[object] = []

    def drain(ranges: dict[int, tuple[int, int]]) -> None:
        barrier.wait()
        try:
            outcomes.append(
                Staging(engine).store_batch(TOPIC, ranges, events(an_event(0), an_event(0, 1)), letters(1), AT)
            )
        except OffsetsMoved as exc:
            outcomes.append(exc)

    threads = [
        threading.Thread(target=drain, args=(ranges,)) for ranges in ({0: (0, 2), 1: (0, 1)}, {1: (0, 1), 0: (0, 2)})
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["OffsetsMoved", "StoredBatch"]
    assert Staging(engine).counts() == StagingCounts(2, 1, 0)


def test_gap_is_on_the_record_when_it_is_accepted(engine: Engine) -> None:
    staging = Staging(engine)
    staging.store_batch(TOPIC, {0: (0, 3)}, events(), letters(), AT)
    staging.accept_gap(TOPIC, 0, 3, 10, AT)
    assert staging.next_offsets(TOPIC) == {0: 10}
    assert staging.counts(TOPIC).skipped_offsets == 7
    with pytest.raises(OffsetsMoved):
        staging.accept_gap(TOPIC, 0, 3, 20, AT)
    assert staging.counts(TOPIC).skipped_offsets == 7


def test_content_types_come_oldest_first_when_a_file_was_announced_twice(engine: Engine) -> None:
    staging = Staging(engine)
    assert staging.content_types(AT).num_rows == 0
    earlier = an_event(0, file_id="f", content_type="log", timestamp=AT)
    later = an_event(1, file_id="f", content_type="video", timestamp=AT + timedelta(days=1))
    staging.store_batch(TOPIC, {0: (0, 2)}, events(later, earlier), letters(), AT)
    staging.store_batch(TOPIC, {0: (2, 3)}, events(an_event(2)), letters(), AT - timedelta(days=9))
    assert staging.content_types(AT).to_pylist() == [
        {"uri": "f", "content_type": "log"},
        {"uri": "f", "content_type": "video"},
    ]
    assert staging.content_types(AT - timedelta(days=9)).num_rows == 3
