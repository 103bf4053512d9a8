"""The columns of every dataset in the lake. Writers cast to these; readers may rely on them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import pyarrow as pa

_AT = pa.timestamp("us", tz="UTC")
_OBJECT = [
    pa.field("provider", pa.string(), nullable=False),
    pa.field("bucket", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
]

ACCESS_EVENTS: Final = pa.schema(
    [
        *_OBJECT,
        pa.field("at", _AT, nullable=False),
        pa.field("day", pa.date32(), nullable=False),  # UTC day of `at`
        pa.field("kind", pa.string(), nullable=False),  # read | write | delete | tier
        pa.field("operation", pa.string(), nullable=False),  # the provider's own name
        pa.field("bytes_sent", pa.int64(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("excluded", pa.bool_(), nullable=False),  # made by an agent on the excluded list
        pa.field("source_file", pa.string(), nullable=False),  # SourceFile.file_id
        pa.field("line", pa.int64(), nullable=False),  # 1-based; the record's number where a format has no lines
    ]
)

LOG_HOURS: Final = pa.schema(
    [
        pa.field("provider", pa.string(), nullable=False),
        pa.field("bucket", pa.string(), nullable=False),  # that the records tell of
        pa.field("day", pa.date32(), nullable=False),
        pa.field("hour", pa.int32(), nullable=False),  # of the UTC day, 0 to 23
        pa.field("records", pa.int64(), nullable=False),  # readable log records of any operation
        pa.field("source_file", pa.string(), nullable=False),
    ]
)

DAILY_ACCESS: Final = pa.schema(
    [
        *_OBJECT,
        pa.field("day", pa.date32(), nullable=False),
        pa.field("reads", pa.int64(), nullable=False),
        pa.field("writes", pa.int64(), nullable=False),
        pa.field("bytes_read", pa.int64(), nullable=False),
        pa.field("excluded_reads", pa.int64(), nullable=False),  # by agents on the excluded list, counted apart
        pa.field("excluded_writes", pa.int64(), nullable=False),
    ]
)

INVENTORY: Final = pa.schema(
    [
        *_OBJECT,
        pa.field("version_id", pa.string()),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("storage_class", pa.string(), nullable=False),
        pa.field("tier", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("last_modified_at", _AT, nullable=False),
        pa.field("class_since_at", _AT, nullable=False),
        pa.field("content_type", pa.string()),
        pa.field("lock_reason", pa.string()),
        pa.field("day", pa.date32(), nullable=False),  # the snapshot's UTC day
    ]
)

FORECASTS: Final = pa.schema(
    [
        *_OBJECT,
        pa.field("day", pa.date32(), nullable=False),  # the first day of the horizon
        pa.field("horizon_days", pa.int32(), nullable=False),
        pa.field("expected_reads", pa.float64(), nullable=False),  # over the horizon
        pa.field("expected_read_bytes", pa.float64(), nullable=False),
        pa.field("probability_any", pa.float64(), nullable=False),  # of at least one read
        # over 7, 30, 90 and 180 days; null in partitions that an earlier release wrote
        *(pa.field(f"probability_any_{days}", pa.float64()) for days in (7, 30, 90, 180)),
        *(pa.field(f"expected_reads_{days}", pa.float64()) for days in (7, 30, 90, 180)),
        *(pa.field(f"expected_read_bytes_{days}", pa.float64()) for days in (7, 30, 90, 180)),
        pa.field("tier", pa.string()),  # of the next 30 days: hot (over 100 reads) | warm (over 10) | cold
        pa.field("tier_confidence", pa.float64()),  # 0..1, the probability of the tier
        pa.field("band", pa.string(), nullable=False),  # hot | warm | cold | archive, see domain.access.AccessBand
        pa.field("confidence", pa.float64(), nullable=False),  # 0..1
        pa.field("source", pa.string(), nullable=False),  # "model:<version>" or "rules"
    ]
)

DECISIONS: Final = pa.schema(
    [
        *_OBJECT,
        pa.field("version_id", pa.string()),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("last_modified_at", _AT, nullable=False),
        pa.field("class_since_at", _AT, nullable=False),
        pa.field("day", pa.date32(), nullable=False),
        pa.field("current_class", pa.string(), nullable=False),
        pa.field("chosen_class", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),  # keep | move
        pa.field("reason", pa.string(), nullable=False),
        pa.field("horizon_days", pa.int32(), nullable=False),
        pa.field("expected_reads", pa.float64(), nullable=False),  # over horizon_days
        pa.field("stay_usd", pa.float64(), nullable=False),  # expected cost of keeping the class over the horizon
        pa.field("chosen_usd", pa.float64(), nullable=False),  # the same for the chosen class, the move included
        pa.field("one_time_usd", pa.float64(), nullable=False),  # the move itself and the early deletion owed
        pa.field("saving_usd", pa.float64(), nullable=False),  # stay_usd - chosen_usd
        pa.field("payback_days", pa.float64()),  # null when nothing moves, or to a pinned class
        pa.field("current_monthly_usd", pa.float64(), nullable=False),  # running cost of a 30-day month, no one-time
        pa.field("chosen_monthly_usd", pa.float64(), nullable=False),
        pa.field("rule_class", pa.string(), nullable=False),  # what the rule-based classifier would choose
        pa.field(
            "candidates",  # one row for each class that was weighed
            pa.list_(pa.struct([pa.field("storage_class", pa.string()), pa.field("expected_usd", pa.float64())])),
            nullable=False,
        ),
        pa.field("price_book", pa.string(), nullable=False),
        # on `day`, by the usage chain; null where no chain spoke, and in partitions that an earlier release wrote
        pa.field("expected_reads_day", pa.float64()),
    ]
)

SURPRISES: Final = pa.schema(
    [
        *_OBJECT,
        pa.field("day", pa.date32(), nullable=False),  # in the morning of which the account was so
        pa.field("model", pa.string(), nullable=False),  # whose chain the accounts began with, "model:<version>"
        pa.field("since", pa.date32(), nullable=False),  # when the accounts began
        pa.field("due", pa.date32(), nullable=False),  # from then on a new chain begins new ones
        pa.field("surprise_usd", pa.float64(), nullable=False),  # see domain.surprise
        pa.field("refuted_until", pa.date32()),  # the day on which the chain decides again; null: it does
    ]
)

BUCKET_AUTOPILOTS: Final = pa.schema(
    [
        pa.field("provider", pa.string(), nullable=False),
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),  # bucket | account: what the autopilot is a setting of
        pa.field("setting_of", pa.string(), nullable=False),  # the bucket, or the account's connection
        pa.field("storage_class", pa.string(), nullable=False),  # the autopilot
        pa.field("price_book", pa.string(), nullable=False),
        pa.field("horizon_days", pa.int32(), nullable=False),
        pa.field("problem", pa.string()),  # why nothing can be proposed
        pa.field("objects", pa.int64(), nullable=False),  # of the shard, as are all sums; USD over the horizon
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("present_usd", pa.float64(), nullable=False),  # everything staying where it is
        pa.field("own_usd", pa.float64(), nullable=False),  # each object in the class that is best for it
        pa.field("own_once_usd", pa.float64(), nullable=False),  # of which its move
        pa.field("switched_usd", pa.float64(), nullable=False),  # everything in the autopilot
        pa.field("entry_usd", pa.float64(), nullable=False),  # of which once, for switching it on
        pa.field("monitoring_usd", pa.float64(), nullable=False),  # of which for watching objects
        pa.field("outside", pa.int64(), nullable=False),  # objects that cannot go in
        pa.field("by_rules", pa.int64(), nullable=False),  # objects that no usage chain speaks for
        pa.field("kept_by_owner", pa.int64(), nullable=False),  # excluded, pinned, retained or locked
    ]
)

QUARANTINE: Final = pa.schema(
    [
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("provider", pa.string(), nullable=False),
        pa.field("bucket", pa.string(), nullable=False),  # of the log file
        pa.field("key", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),  # 1-based; 0 when the whole file is meant
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),  # the first 2,000 characters, undecodable bytes escaped
        pa.field("day", pa.date32(), nullable=False),  # of the file
    ]
)

SCHEMAS: Final = MappingProxyType(
    {
        "access_events": ACCESS_EVENTS,
        "log_hours": LOG_HOURS,
        "daily_access": DAILY_ACCESS,
        "inventory": INVENTORY,
        "forecasts": FORECASTS,
        "decisions": DECISIONS,
        "surprises": SURPRISES,
        "bucket_autopilots": BUCKET_AUTOPILOTS,
        "quarantine": QUARANTINE,
    }
)
"""Schema by dataset name."""

SORT_KEYS: Final = MappingProxyType(
    {
        "log_hours": ("source_file", "provider", "bucket", "hour"),
        "access_events": ("at", "provider", "bucket", "key", "request_id", "operation"),
        "daily_access": ("provider", "bucket", "key"),
        "inventory": ("provider", "bucket", "key", "version_id"),
        "forecasts": ("provider", "bucket", "key"),
        "decisions": ("provider", "bucket", "key"),
        "surprises": ("provider", "bucket", "key"),
        "bucket_autopilots": ("provider", "bucket"),
        "quarantine": ("source_file", "line"),
    }
)
"""The order of the rows in a partition: the same rows give the same bytes."""
