"""One message must not be able to stop a batch: what the schema lets through, the audit of the batch lets through."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import orjson
from foreign_warnings import GREAT_EXPECTATIONS

from cloudflux.events.schema import parse_messages

pytestmark = GREAT_EXPECTATIONS


class Message(NamedTuple):
    value: bytes
    offset: int
    partition: int = 0
    timestamp: int = -1


def test_batch_passes_its_audit_when_its_messages_are_as_odd_as_they_may_be() -> None:
    from cloudflux.quality import audit

    texts = [" x ", "\u200b", "'; DROP TABLE x; --", "{batch}", "%s", "x" * 2048, "\U0001f4be", "null"]
    messages = [
        Message(
            orjson.dumps(
                {
                    "file_id": text,
                    "size_gb": size,
                    "timestamp": at,
                    "source": source,
                    "metadata": {"content_type": content, "user_id": text},
                }
            ),
            offset,
        )
        for offset, (text, size, at, source, content) in enumerate(
            itertools.product(
                texts,
                [0, -0.0, 5e-324, 1_048_576],
                [0, 99_999_999_999, "9999-12-31T23:59:59.999999Z"],
                ["iot_sensor", "app_log", "user_upload"],
                ["video", "log", "document", "image"],
            )
        )
    ]
    parsed = parse_messages(messages * 2)
    assert parsed.dead_letters.to_pylist() == []
    report = audit("ingestion_events", parsed.events, "files[0:0-9, 1:3-4]")
    assert report.passed, report.checks
