"""The ingestion message: what is valid, and what becomes a dead letter, with its reason.

A message is one JSON object in UTF-8::

    {"file_id": "f-1", "size_gb": 1.5, "timestamp": "2026-11-01T12:00:00Z", "source": "app_log",
     "metadata": {"content_type": "log", "user_id": "u-1"}}

* ``file_id``, ``metadata.user_id``: text of 1 to 2,048 bytes in UTF-8, not blank, without NUL (PostgreSQL
  stores none).
* ``size_gb``: a JSON number from 0 to 1,048,576 (1 PiB: more than any provider's largest object). Text that
  looks like a number is a wrong type.
* ``timestamp``: ISO 8601 with a zone, or a JSON number since the epoch: seconds below 1e11, milliseconds from there
  to 1e14 (seconds reach the year 5138 before the two could be confused). From 1970 on. Kept in microseconds, UTC.
* ``source``: iot_sensor, app_log or user_upload. ``metadata.content_type``: video, log, document or image (lower case).
* Unknown keys, at the top and in ``metadata``, are ignored and not kept: a producer may add fields before we read them.
* Of a key that comes twice the last one counts, as in every common JSON parser.

Whatever passes here passes the audit of the batch as well: what one stranger sends must not stop a whole batch.

An event's identity is (``file_id``, ``timestamp`` as an instant, ``source``): a producer's retry has the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Protocol

import orjson
import pyarrow as pa
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

INGESTION_EVENTS: Final = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("file_id", pa.string(), nullable=False),
        pa.field("size_gb", pa.float64(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("content_type", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("produced_at", pa.timestamp("ms", tz="UTC")),  # Kafka's own, null when the broker keeps none
    ]
)

DEAD_LETTERS: Final = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # few distinct ones, e.g. "missing field: metadata.user_id"
        pa.field("detail", pa.string(), nullable=False),  # what exactly was found
        pa.field("payload", pa.binary(), nullable=False),  # the first PAYLOAD_CAP_BYTES
        pa.field("payload_bytes", pa.int64(), nullable=False),  # before that cut
        pa.field("produced_at", pa.timestamp("ms", tz="UTC")),
    ]
)

PAYLOAD_CAP_BYTES: Final = 65_536
"""How much of a bad message's payload is kept."""

_TEXT_CAP_BYTES: Final = 2048  # addresses of long keys fit; the primary key's index ends at 2.7 kB a row
_SIZE_CAP_GB: Final = 2**20
_DETAIL_CAP: Final = 300
_MILLISECONDS_FROM: Final = 1e11
_EPOCH_END: Final = 1e14
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Message(Protocol):
    """What of a Kafka record is read here (``kafka.ConsumerRecord`` has it)."""

    @property
    def partition(self) -> int: ...  # noqa: D102  # Kafka's own field
    @property
    def offset(self) -> int: ...  # noqa: D102  # Kafka's own field
    @property
    def timestamp(self) -> int: ...  # noqa: D102  # Kafka's own field
    @property
    def value(self) -> bytes | None: ...  # noqa: D102  # Kafka's own field


@dataclass(frozen=True, slots=True)
class ParsedMessages:
    """What a batch of messages holds: every message is in exactly one of the two tables."""

    events: pa.Table
    """In ``INGESTION_EVENTS``, in the order of the messages."""
    dead_letters: pa.Table
    """In ``DEAD_LETTERS``."""


def _storable(text: str) -> str:
    if not text or text.isspace():
        raise PydanticCustomError("blank", "must not be blank")
    if "\x00" in text:
        raise PydanticCustomError("nul", "must not contain a NUL character")
    if len(text.encode()) > _TEXT_CAP_BYTES:
        raise PydanticCustomError("too_long", "must not be longer than {cap} bytes in UTF-8", {"cap": _TEXT_CAP_BYTES})
    return text


def _instant(value: object) -> datetime:
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value)
        except ValueError as exc:
            raise PydanticCustomError("iso_8601", "must be ISO 8601 with a zone, or a number since the epoch") from exc
        if instant.tzinfo is None:
            raise PydanticCustomError("no_zone", "must name its zone, e.g. with Z or +01:00 at the end")
        try:
            instant = instant.astimezone(UTC)
        except OverflowError as exc:
            raise PydanticCustomError("range", "must be from 1970 on") from exc
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or not 0 <= value < _EPOCH_END:
            raise PydanticCustomError("range", "must be seconds or milliseconds since 1970")
        # whole microseconds: binary fractions must not make two instants of one
        microseconds = round(value * (1_000 if value >= _MILLISECONDS_FROM else 1_000_000))
        instant = _EPOCH + timedelta(microseconds=microseconds)
    else:
        raise PydanticCustomError("timestamp_type", "must be ISO 8601 text or a number since the epoch")
    if instant < _EPOCH:
        raise PydanticCustomError("range", "must be from 1970 on")
    return instant


_Text = Annotated[str, StringConstraints(strict=True), AfterValidator(_storable)]


class _Metadata(TypedDict):
    __pydantic_config__ = ConfigDict(extra="ignore")  # type: ignore[misc]  # pydantic reads it, a TypedDict has no such field

    content_type: Literal["video", "log", "document", "image"]
    user_id: _Text


class _IngestionMessage(TypedDict):
    __pydantic_config__ = ConfigDict(extra="ignore")  # type: ignore[misc]  # pydantic reads it, a TypedDict has no such field

    file_id: _Text
    size_gb: Annotated[float, Field(strict=True, ge=0, le=_SIZE_CAP_GB, allow_inf_nan=False)]
    timestamp: Annotated[datetime, BeforeValidator(_instant)]
    source: Literal["iot_sensor", "app_log", "user_upload"]
    metadata: _Metadata


_VALIDATOR: Final = TypeAdapter(_IngestionMessage)
_WRONG_TYPE: Final = frozenset({"string_type", "float_type", "dict_type", "timestamp_type"})


def parse_messages(messages: Iterable[Message]) -> ParsedMessages:
    """Parse and validate messages; whatever is wrong with one of them makes it a dead letter, never an error.

    Costs about 6 microseconds a message: orjson and pydantic's compiled validator do the work, and Kafka's client,
    which hands over one Python object per message, is slower than both.
    """
    events: list[tuple[Any, ...]] = []
    letters: list[tuple[Any, ...]] = []
    validate = _VALIDATOR.validate_python
    for message in messages:
        value = message.value
        produced_at = message.timestamp if message.timestamp is not None and message.timestamp >= 0 else None
        if value is None:
            fault = ("empty message", "the message has no value (a tombstone)")
        else:
            try:
                event = validate(orjson.loads(value))
            except orjson.JSONDecodeError as exc:
                fault = ("not JSON", str(exc))
            except ValidationError as exc:
                fault = _explain(exc)
            else:
                metadata = event["metadata"]
                events.append(
                    (
                        message.partition,
                        message.offset,
                        event["file_id"],
                        event["size_gb"],
                        event["timestamp"],
                        event["source"],
                        metadata["content_type"],
                        metadata["user_id"],
                        produced_at,
                    )
                )
                continue
        payload = value or b""
        letters.append(
            (
                message.partition,
                message.offset,
                fault[0],
                fault[1][:_DETAIL_CAP],
                payload[:PAYLOAD_CAP_BYTES],
                len(payload),
                produced_at,
            )
        )
    return ParsedMessages(_table(events, INGESTION_EVENTS), _table(letters, DEAD_LETTERS))


def _explain(exc: ValidationError) -> tuple[str, str]:
    """Give the first fault as a reason that can be counted, and all of them as the detail."""
    faults = []
    for error in exc.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in error["loc"])
        if not field:
            found = type(error["input"]).__name__
            return "not a JSON object", f"the message is a JSON {_JSON_NAMES.get(found, found)}"
        if error["type"] == "missing":
            faults.append((f"missing field: {field}", ""))
            continue
        kind = "wrong type" if error["type"] in _WRONG_TYPE else "wrong value"
        faults.append((f"{kind}: {field}", f" ({error['msg']}; found {_shown(error['input'])})"))
    return faults[0][0], "; ".join(reason + detail for reason, detail in faults)


_JSON_NAMES: Final = {
    "list": "array", "str": "string", "int": "number", "float": "number", "bool": "boolean", "NoneType": "null"
}  # fmt: skip


def _shown(value: object) -> str:
    # ascii(): NUL and lone control characters must not get into a text column, nor a page
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
