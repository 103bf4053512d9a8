"""The drain against a real broker and a real database, killed in mid-run."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine, text

import cloudflux
from cloudflux.stores import make_engine
from cloudflux.stores.staging import Staging
from cloudflux.workflows.drain import DrainReport, OffsetGap

pytestmark = pytest.mark.stack

_numbers = itertools.count()

DRAIN = """
import sys
from datetime import UTC, datetime
from cloudflux.events.schema import parse_messages
from cloudflux.events.topic import TopicReader
from cloudflux.stores import make_engine
from cloudflux.stores.staging import Staging
from cloudflux.workflows.drain import drain

brokers, topic, url = sys.argv[1:]
with TopicReader(brokers, topic) as reader:
    drain(reader, Staging(make_engine(url)), topic=topic, parse=parse_messages, audit=lambda events, batch: None,
          clock=lambda: datetime.now(UTC), batch_messages=100)
"""


@pytest.fixture(scope="module")
def stack(stack_with: Callable[..., Any]) -> Any:
    return stack_with("postgres", "kafka")


@pytest.fixture(scope="module")
def brokers(stack: Any) -> str:
    return str(stack.environment()["KAFKA_BOOTSTRAP_SERVERS"])


@pytest.fixture(scope="module")
def database_url(stack: Any) -> str:
    return str(stack.environment()["CLOUDFLUX_DATABASE_URL"])


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE staging.ingestion_events, staging.dead_letters"))
    yield engine
    engine.dispose()


@pytest.fixture
def admin(brokers: str) -> Iterator[Any]:
    from kafka import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=brokers)
    yield admin
    admin.close()


@pytest.fixture
def topic(admin: Any) -> str:
    from kafka.admin import NewTopic

    name = f"files-{next(_numbers)}"
    admin.create_topics([NewTopic(name, 3, 1)])
    return name


@pytest.fixture
def settings(brokers: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CLOUDFLUX_DATABASE_URL": database_url,
        "CLOUDFLUX_LAKE_URL": "unused",
        "CLOUDFLUX_ESTATE": "unused",
        "KAFKA_BOOTSTRAP_SERVERS": brokers,
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def produce(brokers: str, topic: str) -> Iterator[Callable[..., None]]:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=brokers, linger_ms=20)

    def send(*values: bytes | None, partition: int | None = None) -> None:
        for number, value in enumerate(values):
            producer.send(topic, value, key=b"k", partition=number % 3 if partition is None else partition)
        producer.flush()

    yield send
    producer.close()


def a_message(number: int, **overrides: object) -> bytes:
    return orjson.dumps(
        {
            "file_id": f"s3://media/{number}",
            "size_gb": number / 1000,
            "timestamp": "2026-11-01T12:00:00Z",
            "source": "iot_sensor",
            "metadata": {"content_type": "log", "user_id": "u"},
            **overrides,
        }
    )


def drain_now(brokers: str, topic: str, engine: Engine, **options: Any) -> DrainReport:
    from cloudflux.events.schema import parse_messages
    from cloudflux.events.topic import TopicReader
    from cloudflux.workflows.drain import drain

    with TopicReader(brokers, topic) as reader:
        return drain(
            reader,
            Staging(engine),
            topic=topic,
            parse=parse_messages,
            audit=lambda events, batch: None,
            clock=lambda: datetime.now(UTC),
            **options,
        )


def count_staged(engine: Engine) -> int:
    return Staging(engine).counts().staged


def test_good_bad_and_repeated_messages_end_where_they_belong_when_drained(
    brokers: str, topic: str, engine: Engine, produce: Callable[..., None]
) -> None:
    produce(a_message(0), b"no json", a_message(1), a_message(0), None, a_message(2, source="pigeon"), a_message(3))
    report = drain_now(brokers, topic, engine)
    assert (report.read, report.staged, report.duplicates, report.dead_lettered) == (7, 3, 1, 3)
    assert dict(Staging(engine).dead_letters_by_reason(topic)) == {
        "not JSON": 1, "empty message": 1, "wrong value: source": 1
    }  # fmt: skip
    produce(a_message(1), a_message(4))
    report = drain_now(brokers, topic, engine)
    assert (report.read, report.staged, report.duplicates, report.dead_lettered) == (2, 1, 1, 0)
    assert drain_now(brokers, topic, engine).read == 0


def test_nothing_is_lost_or_doubled_when_drains_are_killed(
    brokers: str, topic: str, engine: Engine, database_url: str, produce: Callable[..., None]
) -> None:
    good = [a_message(number) for number in range(6_000)]
    retries = good[::10]
    bad = [b"junk %d" % number for number in range(150)]
    values = good + retries + bad
    rng = random.Random(2)
    rng.shuffle(values)
    produce(*values)
    kills = 0
    for _ in range(2):
        until = count_staged(engine) + rng.randint(1, 1_500)
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DRAIN, brokers, topic, database_url],
            env={**os.environ, "PYTHONPATH": str(Path(cloudflux.__file__).parents[1])},
        )
        deadline = time.monotonic() + 60
        while count_staged(engine) < until:
            assert time.monotonic() < deadline, "the drain does not come on"
            assert process.poll() is None, "the drain ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        kills += process.wait(30) == -signal.SIGKILL
    assert kills == 2
    before = Staging(engine).counts(topic)
    assert 0 < before.staged < len(good)
    report = drain_now(brokers, topic, engine, batch_messages=5_000)
    after = Staging(engine).counts(topic)
    assert (after.staged, after.dead_lettered) == (len(good), len(bad))
    assert report.staged == len(good) - before.staged
    assert sum(report.next_offsets.values()) == len(values)
    with engine.connect() as connection:
        files = connection.execute(text("SELECT file_id FROM staging.ingestion_events")).scalars().all()
        payloads = connection.execute(text("SELECT payload FROM staging.dead_letters")).scalars().all()
    assert sorted(files) == sorted(f"s3://media/{number}" for number in range(6_000))
    assert sorted(payloads) == sorted(bad)


def test_aborted_transactions_are_not_staged_when_a_producer_uses_them(
    brokers: str, topic: str, engine: Engine
) -> None:
    from kafka import KafkaProducer

    from cloudflux.events.lag import lag

    producer = KafkaProducer(bootstrap_servers=brokers, transactional_id=topic)
    producer.init_transactions()
    for number, end in enumerate(
        (producer.commit_transaction, producer.abort_transaction, producer.commit_transaction)
    ):
        producer.begin_transaction()
        producer.send(topic, a_message(number), partition=0)
        producer.flush()
        end()
    producer.close()
    assert drain_now(brokers, topic, engine).staged == 2
    # the markers of the transactions take offsets too: they must not look like waiting messages for ever
    assert lag(brokers, topic, Staging(engine).next_offsets(topic)) == 0


def test_gap_is_named_and_then_recorded_when_the_broker_deleted_messages(
    brokers: str, topic: str, engine: Engine, admin: Any, produce: Callable[..., None]
) -> None:
    from kafka import TopicPartition

    produce(*(a_message(number) for number in range(10)), partition=1)
    drain_now(brokers, topic, engine)
    produce(*(a_message(number) for number in range(10, 20)), partition=1)
    admin.delete_records({TopicPartition(topic, 1): 14})
    with pytest.raises(OffsetGap, match="partition 1: offsets 10 to 13 were deleted before they were drained"):
        drain_now(brokers, topic, engine)
    report = drain_now(brokers, topic, engine, accept_gaps=True)
    assert (report.read, report.gaps, report.next_offsets[1]) == (6, 1, 20)
    assert Staging(engine).counts(topic).skipped_offsets == 4


def test_lag_follows_the_topic_when_messages_come_and_are_drained(
    brokers: str, topic: str, engine: Engine, produce: Callable[..., None]
) -> None:
    from cloudflux.events.lag import LagProbe
    from cloudflux.events.topic import TopicNotFound

    with LagProbe(brokers, topic) as probe:
        assert probe.lag({}) == 0
        produce(*(a_message(number) for number in range(7)))
        assert probe.lag({}) == 7
        assert probe.lag({0: 2, 1: 1}) == 4
        drain_now(brokers, topic, engine)
        assert probe.lag(Staging(engine).next_offsets(topic)) == 0
        assert probe.lag({0: 99}) > 0, "a topic that was made anew has to be looked at"
    with LagProbe(brokers, "no-such-topic") as probe, pytest.raises(TopicNotFound, match="no-such-topic"):
        probe.lag({})


@pytest.mark.usefixtures("settings", "engine")
def test_trigger_fires_once_enough_messages_wait_when_they_come_while_it_polls(
    topic: str, produce: Callable[..., None]
) -> None:
    from cloudflux.orchestration.kafka_sensor import IngestionLagTrigger

    produce(a_message(0))

    async def wait() -> Any:
        events = IngestionLagTrigger(topic, 3, 0.05).run()
        fired = asyncio.ensure_future(anext(events))
        done, _ = await asyncio.wait([fired], timeout=1)
        assert not done, "it fired for one message although three are wanted"
        await asyncio.to_thread(produce, a_message(1), a_message(2), a_message(3))
        event = await asyncio.wait_for(fired, 30)
        await events.aclose()
        return event.payload

    assert asyncio.run(wait()) == {"lag": 4}
