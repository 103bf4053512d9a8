"""What is expected of each dataset: the suites, as data.

A suite lists Great Expectations' own expectations by their names and arguments. What they cannot say on DuckDB (there
is no regular expression, and no comparison of columns) is SQL over ``{batch}`` that selects the rows which must not be
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from cloudflux.lake.schemas import SCHEMAS

Expectation = tuple[str, Mapping[str, Any]]
"""The name of a Great Expectations class, and its arguments."""

_PROVIDERS: Final = ["aws", "azure", "gcp"]
_MAX_OBJECT_BYTES: Final = 2**50
"""More than the largest object of any provider (S3: 50 TB)."""


def _columns(dataset: str) -> Expectation:
    return "ExpectTableColumnsToMatchSet", {"column_set": SCHEMAS[dataset].names, "exact_match": True}


def _no_nulls(*columns: str) -> list[Expectation]:
    return [("ExpectColumnValuesToNotBeNull", {"column": column}) for column in columns]


def _in_set(column: str, values: list[str]) -> Expectation:
    return "ExpectColumnValuesToBeInSet", {"column": column, "value_set": values}


def _between(column: str, least: float, most: float | None = None) -> Expectation:
    return "ExpectColumnValuesToBeBetween", {"column": column, "min_value": least, "max_value": most}


def _no_rows(description: str, sql: str) -> Expectation:
    return "UnexpectedRowsExpectation", {"description": description, "unexpected_rows_query": sql}


def _no_decisions(description: str, condition: str) -> Expectation:
    # A whole decision is too long for a message: its example shows what tells of the decision.
    shown = "key, bucket, action, current_class, chosen_class, saving_usd, payback_days, horizon_days, reason"
    return _no_rows(description, f"SELECT {shown} FROM {{batch}} WHERE {condition}")  # noqa: S608  # our own


def _unique(*columns: str) -> Expectation:
    listed = ", ".join(columns)
    return _no_rows(
        f"one row for each {listed}",
        f"SELECT {listed}, count(*) AS copies FROM {{batch}} GROUP BY {listed} HAVING count(*) > 1",  # noqa: S608  # ours
    )


SUITES: Final[Mapping[str, tuple[Expectation, ...]]] = MappingProxyType(
    {
        "access_events": (
            _columns("access_events"),
            *_no_nulls("provider", "bucket", "key", "day", "kind", "operation", "request_id", "source_file"),
            _in_set("provider", _PROVIDERS),
            _in_set("kind", ["read", "write", "delete", "tier"]),
            _between("bytes_sent", 0, _MAX_OBJECT_BYTES),
            # `at` is a word of DuckDB's SQL, and Great Expectations does not quote columns.
            _no_rows("every event has a time", 'SELECT * FROM {batch} WHERE "at" IS NULL'),
            _no_rows("names are not empty", "SELECT * FROM {batch} WHERE bucket = '' OR key = '' OR request_id = ''"),
            _no_rows(
                "the day is that of the time, in UTC",
                "SELECT * FROM {batch} WHERE CAST(timezone('UTC', \"at\") AS DATE) <> day",
            ),
        ),
        "daily_access": (
            _columns("daily_access"),
            *_no_nulls(
                "provider", "bucket", "key", "day", "reads", "writes", "bytes_read", "excluded_reads", "excluded_writes"
            ),
            _in_set("provider", _PROVIDERS),
            _between("reads", 0),
            _between("writes", 0),
            _between("bytes_read", 0),
            _between("excluded_reads", 0),
            _between("excluded_writes", 0),
            _unique("provider", "bucket", "key", "day"),
            _no_rows("bytes are read by reads", "SELECT * FROM {batch} WHERE reads = 0 AND bytes_read > 0"),
        ),
        "inventory": (
            _columns("inventory"),
            *_no_nulls(
                "provider", "bucket", "key", "size_bytes", "storage_class", "tier", "etag", "class_since_at", "day"
            ),
            _in_set("provider", _PROVIDERS),
            _in_set("tier", ["hot", "warm", "cold", "archive", "auto"]),
            _between("size_bytes", 0, _MAX_OBJECT_BYTES),
            _unique("provider", "bucket", "key"),
            _no_rows("ETags are not empty", "SELECT * FROM {batch} WHERE etag = ''"),
        ),
        "ingestion_events": (
            *_no_nulls("file_id", "size_gb", "timestamp", "source", "content_type", "user_id"),
            _in_set("source", ["iot_sensor", "app_log", "user_upload"]),
            _in_set("content_type", ["video", "log", "document", "image"]),
            _between("size_gb", 0, _MAX_OBJECT_BYTES / 2**30),
            _no_rows("files have a name", "SELECT * FROM {batch} WHERE trim(file_id) = ''"),
        ),
        "decisions": (
            _columns("decisions"),
            *_no_nulls("provider", "bucket", "key", "etag", "current_class", "chosen_class", "action", "reason"),
            _in_set("action", ["keep", "move"]),
            _between("stay_usd", 0),
            _between("one_time_usd", 0),
            _between("current_monthly_usd", 0),
            _between("chosen_monthly_usd", 0),
            _between("expected_reads", 0),
            _unique("provider", "bucket", "key"),
            _no_decisions(
                "a move goes to another class and pays inside the horizon",
                "action = 'move' AND (chosen_class = current_class OR saving_usd <= 0 "
                "OR payback_days IS NULL OR payback_days > horizon_days)",
            ),
            _no_decisions("who is kept stays in the class", "action = 'keep' AND chosen_class <> current_class"),
            _no_decisions("every decision has a reason", "trim(reason) = ''"),
        ),
    }
)
"""Expectations by suite; a suite has the name of its dataset."""
