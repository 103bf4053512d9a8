"""A bounded read of a Kafka topic: partitions assigned, no consumer group, offsets kept by whoever stores the rows."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    KafkaError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)

from cloudflux.domain.errors import SettingsError, TerminalError, TransientError

_TIMEOUT_MS: Final = 10_000
_POLL_MS: Final = 500
_POLL_RECORDS: Final = 5_000


class BrokerUnreachable(TransientError):
    """Kafka does not answer."""


class TopicNotFound(TransientError):
    """The brokers know no such topic (yet)."""


class RecordUnreadable(TerminalError):
    """The broker's log holds bytes that are no record, or that we may not read."""


@dataclass(frozen=True, slots=True)
class MessageBatch:
    """Some messages of one or several partitions, and the offsets that they cover."""

    messages: tuple[Any, ...]
    """Kafka's records: ``partition, offset, timestamp, value``. May be empty where offsets hold no message."""
    ranges: dict[int, tuple[int, int]]
    """By partition: the first offset, and the first one after the batch."""


class TopicReader:
    """Reads one topic from given offsets up to given offsets. Close it, or use it in ``with``."""

    def __init__(self, bootstrap_servers: str, topic: str, options: Mapping[str, Any] | None = None) -> None:
        """Connect. ``options`` are further ones of ``KafkaConsumer``, e.g. for TLS and SASL.

        Raises ``BrokerUnreachable``, or ``SettingsError`` when the addresses are none.
        """
        self._brokers = bootstrap_servers
        self._topic = topic
        with explained(bootstrap_servers, topic):
            self._consumer = connect(bootstrap_servers, client_id="cloudflux-drain", options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close(autocommit=False, timeout_ms=_TIMEOUT_MS)

    def bounds(self) -> dict[int, tuple[int, int]]:
        """Give for each partition the oldest offset that is kept, and the first one after the newest message.

        A message of an open transaction is not there yet. Raises ``TopicNotFound``, ``BrokerUnreachable``.
        """
        with explained(self._brokers, self._topic):
            return bounds(self._consumer, self._topic)

    def read(
        self,
        starts: Mapping[int, int],
        ends: Mapping[int, int],
        *,
        max_messages: int = 50_000,
        max_bytes: int = 64 * 2**20,
        silence_s: float = 60.0,
    ) -> Iterator[MessageBatch]:
        """Read each partition from its start (included) to its end (not included), in batches over all partitions.

        A batch ends at ``max_messages``, or once it holds ``max_bytes`` of payload. Together the batches' ranges cover
        each partition without gap or overlap; aborted transactions and compaction leave offsets without a message.
        Raises ``BrokerUnreachable`` when nothing moves for ``silence_s`` seconds.
        """
        partitions = {
            TopicPartition(self._topic, partition): end for partition, end in ends.items() if starts[partition] < end
        }
        at = {partition: starts[partition.partition] for partition in partitions}
        with explained(self._brokers, self._topic):
            self._consumer.assign(list(partitions))
            for partition, start in at.items():
                self._consumer.seek(partition, start)
            while partitions:
                batch = self._collect(partitions, at, max_messages, max_bytes, silence_s)
                for partition in list(partitions):
                    at[partition] = batch.ranges.get(partition.partition, (0, at[partition]))[1]
                    if at[partition] >= partitions[partition]:
                        del partitions[partition]
                yield batch

    def _collect(
        self,
        partitions: Mapping[TopicPartition, int],
        starts: Mapping[TopicPartition, int],
        max_messages: int,
        max_bytes: int,
        silence_s: float,
    ) -> MessageBatch:
        messages: list[Any] = []
        size_bytes = 0
        at = {partition: starts[partition] for partition in partitions}
        deadline = time.monotonic() + silence_s
        while len(messages) < max_messages and size_bytes < max_bytes:
            room = min(_POLL_RECORDS, max_messages - len(messages))
            for partition, polled in self._consumer.poll(_POLL_MS, max_records=room).items():
                if partition not in partitions:
                    continue
                records = polled
                if records[-1].offset >= partitions[partition]:  # produced after we looked where the end is
                    records = [record for record in records if record.offset < partitions[partition]]
                messages.extend(records)
                size_bytes += sum(max(0, record.serialized_value_size) for record in records)
            moved = False
            for partition, end in partitions.items():
                # the consumer's position also passes offsets that hold no message
                position = min(self._position(partition, at[partition]), end)
                moved = moved or position > at[partition]
                at[partition] = position
                if position >= end:
                    self._consumer.pause(partition)
            if all(at[partition] >= end for partition, end in partitions.items()):
                break
            if moved:
                deadline = time.monotonic() + silence_s
            elif time.monotonic() > deadline:
                waiting = {partition.partition: offset for partition, offset in at.items()}
                raise BrokerUnreachable(
                    f"Kafka at {self._brokers} sent nothing of topic {self._topic} for {silence_s:g} s "
                    f"(partition: offset waited for) {waiting}: is every partition's leader up?"
                )
        ranges = {
            partition.partition: (starts[partition], offset)
            for partition, offset in at.items()
            if offset > starts[partition]
        }
        return MessageBatch(tuple(messages), ranges)

    def _position(self, partition: TopicPartition, known: int) -> int:
        position = self._consumer.position(partition, timeout_ms=_TIMEOUT_MS)
        return known if position is None else int(position)


def connect(bootstrap_servers: str, *, client_id: str, options: Mapping[str, Any] | None = None) -> KafkaConsumer:
    """Make a consumer without a group that sees committed messages only and never jumps over missing offsets."""
    settings = {
        "client_id": client_id,
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        "max_partition_fetch_bytes": 8 * 2**20,
        "bootstrap_timeout_ms": _TIMEOUT_MS,
        "metrics_enabled": False,
    }
    return made_or_closed(
        KafkaConsumer, bootstrap_servers=_servers(bootstrap_servers), **settings | dict(options or {})
    )


def made_or_closed(kind: type[Any], **settings: Any) -> Any:
    """Make a consumer or admin client of kafka-python; one that finds no broker leaves nothing behind.

    Its constructor would leave a thread that goes on looking for one, and its connections: for ever, in a triggerer.
    Raises what it raises (``KafkaError``).
    """
    clients: list[Any] = []

    def kept_client(**config: Any) -> Any:
        clients.append(kind.DEFAULT_CONFIG["kafka_client"](**config))
        return clients[-1]

    try:
        return kind(kafka_client=kept_client, **settings)
    except BaseException:  # an interrupt too
        for client in clients:
            client.close()
        raise


def _servers(bootstrap_servers: str) -> list[str]:
    servers = [server.strip() for server in bootstrap_servers.split(",")]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or not port.isdecimal():
            raise SettingsError(
                f"KAFKA_BOOTSTRAP_SERVERS is {bootstrap_servers!r}, where {server!r} is no broker: "
                "write host:port,host:port"
            )
    return servers


def bounds(consumer: KafkaConsumer, topic: str) -> dict[int, tuple[int, int]]:
    """Give for each partition the oldest offset that is kept, and the end of what is committed."""
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise TopicNotFound(f"topic {topic} does not exist: create it, or start what produces into it")
    partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
    oldest = consumer.beginning_offsets(partitions, timeout_ms=_TIMEOUT_MS)
    ends = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
    return {partition.partition: (int(oldest[partition]), int(ends[partition])) for partition in partitions}


@contextmanager
def explained(bootstrap_servers: str, topic: str) -> Generator[None]:
    """Raise our errors for Kafka's."""
    try:
        yield
    except UnknownTopicOrPartitionError as exc:
        raise TopicNotFound(f"topic {topic} does not exist: create it, or start what produces into it") from exc
    except OffsetOutOfRangeError as exc:
        raise BrokerUnreachable(
            f"the brokers deleted messages of topic {topic} while they were read ({exc}): drain again, "
            "the gap is named then"
        ) from exc
    except (CorruptRecordError, AuthorizationError) as exc:
        raise RecordUnreadable(f"topic {topic} at {bootstrap_servers} cannot be read: {exc}") from exc
    except KafkaError as exc:
        raise BrokerUnreachable(
            f"Kafka at {bootstrap_servers} does not answer ({exc}): is it running, "
            "and is KAFKA_BOOTSTRAP_SERVERS right?"
        ) from exc
