from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson
import pytest

from cloudflux.events.schema import DEAD_LETTERS, INGESTION_EVENTS, PAYLOAD_CAP_BYTES, parse_messages


class Message(NamedTuple):
    value: bytes | None
    offset: int = 0
    partition: int = 0
    timestamp: int = 1_793_534_400_000


class _Missing:
    """Takes a field out of a message; its name is the same in every process, as the tests' names have to be."""

    def __repr__(self) -> str:
        return "missing"


MISSING = _Missing()
AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def content(**overrides: Any) -> dict[str, Any]:
    message = {
        "file_id": "s3://media/a.mp4",
        "size_gb": 1.5,
        "timestamp": "2026-11-01T12:00:00Z",
        "source": "app_log",
        "metadata": {"content_type": "log", "user_id": "u-1"},
    }
    message.update(overrides)
    return {name: value for name, value in message.items() if value is not MISSING}


def metadata(**overrides: Any) -> dict[str, Any]:
    fields = {"content_type": "log", "user_id": "u-1", **overrides}
    return {name: value for name, value in fields.items() if value is not MISSING}


def a_message(offset: int = 0, **overrides: Any) -> Message:
    return Message(orjson.dumps(content(**overrides)), offset)


def the_letter(message: Message) -> dict[str, Any]:
    parsed = parse_messages([message])
    assert parsed.events.num_rows == 0
    (letter,) = parsed.dead_letters.to_pylist()
    return letter


def the_event(message: Message) -> dict[str, Any]:
    parsed = parse_messages([message])
    assert parsed.dead_letters.to_pylist() == []
    (event,) = parsed.events.to_pylist()
    return event


def test_event_has_all_fields_when_the_message_is_good() -> None:
    assert the_event(a_message(offset=7)) == {
        "partition": 0, "offset": 7, "file_id": "s3://media/a.mp4", "size_gb": 1.5, "timestamp": AT,
        "source": "app_log", "content_type": "log", "user_id": "u-1", "produced_at": AT,
    }  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        {"size_gb": 0},
        {"size_gb": 1_048_576},
        {"file_id": " x"},
        {"source": "iot_sensor"},
        {"source": "user_upload"},
        {"metadata": metadata(content_type="video")},
        {"metadata": metadata(content_type="document")},
        {"metadata": metadata(content_type="image", camera="unknown key")},
        {"region": "unknown key", "nested": {"a": [1]}},
        {"file_id": "日本語 \n\t\"quoted\", 'text'"},
        {"file_id": "x" * 2048},
    ],
)
def test_message_is_staged_when_it_is_unusual_but_good(overrides: dict[str, Any]) -> None:
    event = the_event(a_message(**overrides))
    assert all(event[name] == value for name, value in overrides.items() if name in event)


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-11-01T13:00:00+01:00", AT),
        ("2026-11-01 12:00:00+00", AT),
        ("20261101T120000Z", AT),
        ("2026-11-01T12:00:00.123456789Z", AT + timedelta(microseconds=123456)),
        (1_793_534_400, AT),
        (1_793_534_400.25, AT + timedelta(milliseconds=250)),
        (1_793_534_400_000, AT),
        (1_793_534_400_123.5, AT + timedelta(microseconds=123500)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (99_999_999_999, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        (100_000_000_000, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
    ],
)
def test_timestamp_is_one_instant_when_written_in_many_ways(written: object, instant: datetime) -> None:
    assert the_event(a_message(timestamp=written))["timestamp"] == instant


BAD = [
    # payload or overrides, reason, part of the detail
    (None, "empty message", "tombstone"),
    (b"", "not JSON", "zero-length"),
    (b"not json", "not JSON", ""),
    (b'{"file_id": "a"', "not JSON", ""),
    (b"\xff\xfe\x00", "not JSON", "UTF-8"),
    (b'{"file_id": "\\ud800"}', "not JSON", "surrogate"),
    (b'{"size_gb": NaN}', "not JSON", ""),
    (b'{"size_gb": 1e999}', "not JSON", ""),
    (b"[" * 100_000, "not JSON", ""),
    (b"[]", "not a JSON object", "array"),
    (b'"text"', "not a JSON object", "string"),
    (b"1", "not a JSON object", "number"),
    (b"true", "not a JSON object", "boolean"),
    (b"null", "not a JSON object", "null"),
    (b"{}", "missing field: file_id", "missing field: metadata"),
    ({"file_id": MISSING}, "missing field: file_id", ""),
    ({"size_gb": MISSING}, "missing field: size_gb", ""),
    ({"timestamp": MISSING}, "missing field: timestamp", ""),
    ({"source": MISSING}, "missing field: source", ""),
    ({"metadata": MISSING}, "missing field: metadata", ""),
    ({"metadata": metadata(content_type=MISSING)}, "missing field: metadata.content_type", ""),
    ({"metadata": metadata(user_id=MISSING)}, "missing field: metadata.user_id", ""),
    ({"metadata": None}, "wrong type: metadata", "None"),
    ({"metadata": []}, "wrong type: metadata", ""),
    ({"metadata": metadata(user_id=7)}, "wrong type: metadata.user_id", "7"),
    ({"metadata": metadata(content_type="audio")}, "wrong value: metadata.content_type", "audio"),
    ({"metadata": metadata(user_id="")}, "wrong value: metadata.user_id", ""),
    ({"file_id": 1}, "wrong type: file_id", ""),
    ({"file_id": None}, "wrong type: file_id", ""),
    ({"file_id": ""}, "wrong value: file_id", ""),
    ({"file_id": " \t\u3000"}, "wrong value: file_id", "blank"),
    ({"metadata": metadata(user_id="  ")}, "wrong value: metadata.user_id", "blank"),
    ({"size_gb": 1_048_576.1}, "wrong value: size_gb", "1048576"),
    ({"file_id": "a\x00b"}, "wrong value: file_id", "NUL"),
    ({"file_id": "ü" * 1025}, "wrong value: file_id", "2048 bytes"),
    ({"size_gb": "1.5"}, "wrong type: size_gb", "'1.5'"),
    ({"size_gb": True}, "wrong type: size_gb", "True"),
    ({"size_gb": None}, "wrong type: size_gb", ""),
    ({"size_gb": -0.001}, "wrong value: size_gb", "-0.001"),
    ({"source": "carrier_pigeon"}, "wrong value: source", "carrier_pigeon"),
    ({"source": "APP_LOG"}, "wrong value: source", ""),
    ({"source": None}, "wrong value: source", ""),
    ({"timestamp": "2026-11-01T12:00:00"}, "wrong value: timestamp", "zone"),
    ({"timestamp": "2026-11-01"}, "wrong value: timestamp", "zone"),
    ({"timestamp": "yesterday"}, "wrong value: timestamp", "yesterday"),
    ({"timestamp": "1793534400"}, "wrong value: timestamp", ""),
    ({"timestamp": "1969-12-31T23:59:59Z"}, "wrong value: timestamp", "1970"),
    ({"timestamp": "0001-01-01T00:00:00+14:00"}, "wrong value: timestamp", "1970"),
    ({"timestamp": "9999-12-31T23:59:59-14:00"}, "wrong value: timestamp", "1970"),
    ({"timestamp": -1}, "wrong value: timestamp", ""),
    ({"timestamp": 1e14}, "wrong value: timestamp", ""),
    ({"timestamp": True}, "wrong type: timestamp", ""),
    ({"timestamp": {"$date": 1}}, "wrong type: timestamp", ""),
]


@pytest.mark.parametrize(("bad", "reason", "detail"), BAD, ids=lambda value: repr(value)[:60])
def test_message_becomes_a_dead_letter_with_its_reason_when_it_is_bad(
    bad: bytes | dict[str, Any] | None, reason: str, detail: str
) -> None:
    message = a_message(offset=9, **bad) if isinstance(bad, dict) else Message(bad, 9)
    letter = the_letter(message)
    assert letter["reason"] == reason
    assert detail in letter["detail"]
    assert letter["offset"] == 9
    assert letter["payload"] == (message.value or b"")[:PAYLOAD_CAP_BYTES]
    assert letter["payload_bytes"] == len(message.value or b"")
    assert len(letter["detail"]) <= 300
    assert "\x00" not in letter["detail"]


def test_payload_is_cut_and_its_length_noted_when_it_is_long() -> None:
    letter = the_letter(Message(b"x" * (PAYLOAD_CAP_BYTES + 1)))
    assert (len(letter["payload"]), letter["payload_bytes"]) == (PAYLOAD_CAP_BYTES, PAYLOAD_CAP_BYTES + 1)


def test_last_of_two_equal_keys_counts_when_a_message_has_both() -> None:
    value = orjson.dumps(content())[:-1] + b',"size_gb":9}'
    assert the_event(Message(value))["size_gb"] == 9


def test_good_ones_go_through_in_order_when_bad_ones_are_between() -> None:
    parsed = parse_messages([a_message(0), Message(b"x", 1), a_message(2), Message(None, 3), a_message(4)])
    assert parsed.events["offset"].to_pylist() == [0, 2, 4]
    assert parsed.dead_letters["offset"].to_pylist() == [1, 3]


def test_produced_at_is_null_when_the_broker_keeps_no_time() -> None:
    assert the_event(a_message()._replace(timestamp=-1))["produced_at"] is None


def test_tables_have_their_schemas_when_there_is_no_message() -> None:
    parsed = parse_messages([])
    assert (parsed.events.schema, parsed.dead_letters.schema) == (INGESTION_EVENTS, DEAD_LETTERS)
    assert (parsed.events.num_rows, parsed.dead_letters.num_rows) == (0, 0)
