"""The stream of ingestion events: one for each object of the world, as its uploader would announce it on Kafka.

The good messages are the same on every call, byte for byte: a second demo is a producer's retry and must double no row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import duckdb
import numpy as np
import polars as pl

from cloudflux.domain.errors import CloudFluxError
from cloudflux.local.demo.world import BEHAVIOURS, World

WRONG_MESSAGES: Final = (
    b"this is no JSON at all {",
    b'{"file_id": "s3://cloudflux-demo-media/video/lost.mp4", "size_gb": 0.2, "source": "user_upload", '
    b'"metadata": {"content_type": "video", "user_id": "user-0001"}}',  # no timestamp
    b'{"file_id": "s3://cloudflux-demo-media/video/odd.mp4", "size_gb": "large", "timestamp": "2026-01-01T00:00:00Z", '
    b'"source": "carrier_pigeon", "metadata": {"content_type": "video", "user_id": "user-0001"}}',
)
"""Messages that belong among the dead letters, each for a reason of its own."""

_SOURCES: Final = {
    "video": "user_upload",
    "images": "user_upload",
    "documents": "user_upload",
    "reports": "app_log",
    "telemetry": "iot_sensor",
    "logs": "app_log",
}
_USERS: Final = 400
_DELIVERY_SECONDS: Final = 60
_BYTES_PER_GB: Final = 2**30


class KafkaUnreachable(CloudFluxError):
    """Kafka did not take the messages; the text names the broker."""


def ingestion_messages(world: World) -> pl.DataFrame:
    """Give one message per object, oldest first: ``file_id`` (the address, as ``ObjectRef.uri``), ``message`` (JSON).

    A replayed trace says nothing of uploaders and content: its events all come from one user as uploaded documents,
    because the message has to say something; its sizes and days are the trace's.
    """
    con = duckdb.connect()
    con.register("objects", world.objects.select("object_no", "provider", "bucket", "key").to_arrow())
    uri = pl.DataFrame(
        con.sql(
            "select object_no, (case provider when 'aws' then 's3' when 'azure' then 'az' else 'gs' end) || '://' || "
            "bucket || '/' || replace(url_encode(key), '%2F', '/') as file_id from objects"
        ).to_arrow_table()
    )
    rng = np.random.default_rng([world.seed, 3])
    rows = world.objects.height
    generated = pl.col("kind").is_not_null()
    content = {behaviour.prefix: behaviour.event_type for behaviour in BEHAVIOURS}
    frame = (
        world.objects.join(uri, on="object_no", how="left", maintain_order="left")
        .with_columns(
            second=pl.Series(rng.integers(0, 240, rows)),  # of the day: as in the access logs, uploads come first
            user=pl.when(generated)
            .then(pl.Series(rng.integers(1, _USERS + 1, rows)).cast(pl.String).str.zfill(4))
            .otherwise(pl.lit("replay")),
            source=pl.col("kind").replace_strict(_SOURCES, default="user_upload", return_dtype=pl.String),
            content=pl.col("kind").replace_strict(content, default="document", return_dtype=pl.String),
            size_gb=pl.col("size_bytes") / _BYTES_PER_GB,
        )
        .with_columns(at=pl.col("created_day").cast(pl.Datetime("us")) + pl.duration(seconds="second"))
        .sort("at", "object_no")
    )
    # URIs are quoted, and the other texts are ours: nothing needs escaping.
    return frame.select(
        "file_id",
        message=pl.concat_str(
            pl.lit('{"file_id":"'),
            "file_id",
            pl.lit('","size_gb":'),
            pl.col("size_gb").cast(pl.String),
            pl.lit(',"timestamp":"'),
            pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            pl.lit('","source":"'),
            "source",
            pl.lit('","metadata":{"content_type":"'),
            "content",
            pl.lit('","user_id":"user-'),
            "user",
            pl.lit('"}}'),
        ),
    )


def produce(
    world: World, bootstrap_servers: str, topic: str, *, wrong: bool, on_progress: Callable[[int, int], None]
) -> int:
    """Send the world's events, and the wrong messages if wanted. Gives how many were sent and acknowledged.

    Raises ``KafkaUnreachable``.
    """
    from kafka import KafkaProducer  # slow to import
    from kafka.errors import KafkaError

    messages = ingestion_messages(world)
    total = messages.height + (len(WRONG_MESSAGES) if wrong else 0)
    try:
        producer = KafkaProducer(
            bootstrap_servers=bootstrap_servers.split(","), acks="all", linger_ms=20, client_id="cloudflux-demo"
        )
    except KafkaError as exc:
        raise KafkaUnreachable(f"no Kafka broker at {bootstrap_servers}: {exc}") from exc
    failures: list[BaseException] = []
    try:
        # One Python call per message: kafka-python has no other way in (some 70,000 messages a second).
        for number, (file_id, message) in enumerate(messages.iter_rows()):
            producer.send(topic, key=file_id.encode(), value=message.encode()).add_errback(failures.append)
            if number % 500 == 0:
                on_progress(number, total)
        if wrong:
            for message in WRONG_MESSAGES:
                producer.send(topic, value=message).add_errback(failures.append)
        producer.flush(timeout=_DELIVERY_SECONDS)
    except KafkaError as exc:
        raise KafkaUnreachable(f"the Kafka broker at {bootstrap_servers} did not take the messages: {exc}") from exc
    finally:
        producer.close(timeout=5)
    if failures:
        raise KafkaUnreachable(
            f"the Kafka broker at {bootstrap_servers} refused {len(failures)} of {total} messages: {failures[0]}"
        )
    on_progress(total, total)
    return total
