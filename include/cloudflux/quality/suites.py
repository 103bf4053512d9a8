"""What is expected of each dataset: the suites, as data.

A suite lists Great Expectations' own expectations by their names and arguments. What they cannot say on DuckDB (there
is no regular expression, and no comparison of columns) is SQL over ``{batch}`` that selects the rows which must not be
there.

An expectation of single rows also says, as a condition in SQL, which rows break it: these can be left out of a batch.
Great Expectations' own severity tells what keeps a batch unpublished (critical) from what is only recorded and shown
(warning).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from cloudflux.domain.objects import MAX_OBJECT_BYTES
from cloudflux.lake.schemas import SCHEMAS


class Severity(StrEnum):
    """What it means that an expectation is not met; the values are Great Expectations' own."""

    CRITICAL = "critical"
    """The batch stays unpublished, or the row is left out."""
    WARNING = "warning"
    """Recorded and shown; the batch is published."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation of a suite."""

    name: str
    """A Great Expectations class."""
    arguments: Mapping[str, Any]
    severity: Severity = Severity.CRITICAL
    breaks: str | None = None
    """SQL condition of the rows that do not meet it; None when it is about the batch as a whole."""
    reason: str = ""
    """What to say of a row that does not meet it."""


_PROVIDERS: Final = ["aws", "azure", "gcp"]


def _columns(dataset: str) -> Expectation:
    return Expectation("ExpectTableColumnsToMatchSet", {"column_set": SCHEMAS[dataset].names, "exact_match": True})


def _no_nulls(*columns: str) -> list[Expectation]:
    return [
        Expectation(
            "ExpectColumnValuesToNotBeNull",
            {"column": column},
            breaks=f'"{column}" IS NULL',
            reason=f"there is no {column}",
        )
        for column in columns
    ]


def _in_set(column: str, values: list[str]) -> Expectation:
    listed = ", ".join(f"'{value}'" for value in values)
    return Expectation(
        "ExpectColumnValuesToBeInSet",
        {"column": column, "value_set": values},
        breaks=f'"{column}" NOT IN ({listed})',
        reason=f"{column} is none of {', '.join(values)}",
    )


def _between(column: str, least: float, most: float | None = None) -> Expectation:
    above = "" if most is None else f' OR "{column}" > {most}'
    return Expectation(
        "ExpectColumnValuesToBeBetween",
        {"column": column, "min_value": least, "max_value": most},
        breaks=f'"{column}" < {least}{above}',
        reason=f"{column} is less than {least}" + ("" if most is None else f" or more than {most}"),
    )


def no_rows(description: str, sql: str, severity: Severity = Severity.CRITICAL) -> Expectation:
    """Expect that a query over ``{batch}`` selects nothing: about the batch as a whole."""
    return Expectation(
        "UnexpectedRowsExpectation", {"description": description, "unexpected_rows_query": sql}, severity
    )


def no_row_where(description: str, condition: str, shown: str = "*") -> Expectation:
    """Expect that a condition is true of no row; ``shown`` are the columns that make an example."""
    sql = f"SELECT {shown} FROM {{batch}} WHERE {condition}"  # noqa: S608  # our own suites
    return replace(no_rows(description, sql), breaks=condition, reason=f"not met: {description}")


def _no_empty(description: str, *columns: str) -> Expectation:
    # One scan for each column, with the emptiness of that column alone as its filter: the smallest values that a
    # Parquet file notes of its row groups answer it without reading them.
    scans = [
        f"SELECT * FROM {{batch}} WHERE {column} = ''"  # noqa: S608  # our own suites
        + "".join(f" AND {earlier} <> ''" for earlier in columns[:place])
        for place, column in enumerate(columns)
    ]
    return replace(
        no_rows(description, " UNION ALL ".join(scans)),
        breaks=" OR ".join(f"{column} = ''" for column in columns),
        reason=f"not met: {description}",
    )


def _no_decisions(description: str, condition: str) -> Expectation:
    # A whole decision is too long for a message: its example shows what tells of the decision.
    shown = "key, bucket, action, current_class, chosen_class, saving_usd, payback_days, horizon_days, reason"
    return no_row_where(description, condition, shown)


def _unique(*columns: str) -> Expectation:
    listed = ", ".join(columns)
    # Grouping by the names themselves takes gigabytes for ten million objects. Hashes of eight bytes find the few
    # that may be there twice, and only those are compared by name.
    return no_rows(
        f"one row for each {listed}",
        f"SELECT {listed}, count(*) AS copies FROM {{batch}} WHERE hash({listed}) IN "  # noqa: S608  # ours
        f"(SELECT mark FROM (SELECT hash({listed}) AS mark FROM {{batch}}) GROUP BY mark HAVING count(*) > 1) "
        f"GROUP BY {listed} HAVING count(*) > 1",
    )


SUITES: Final[Mapping[str, tuple[Expectation, ...]]] = MappingProxyType(
    {
        "access_events": (
            _columns("access_events"),
            *_no_nulls("provider", "bucket", "key", "day", "kind", "operation", "request_id", "source_file", "line"),
            _in_set("provider", _PROVIDERS),
            _in_set("kind", ["read", "write", "delete", "tier", "part"]),
            _between("bytes_sent", 0, MAX_OBJECT_BYTES),
            # `at` is a word of DuckDB's SQL, and Great Expectations does not quote columns.
            no_row_where("every event has a time", '"at" IS NULL'),
            _no_empty("names are not empty", "bucket", "key", "request_id"),
            # By way of the epoch: DuckDB's time zones cost five times as much. Such a condition is no filter that a
            # scan of Parquet files takes: what is shown is read of all rows.
            no_row_where(
                "the day is that of the time, in UTC",
                'make_timestamp(epoch_us("at"))::DATE <> day',
                'day, "at", source_file, line',
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
            no_row_where("bytes are read by reads", "reads = 0 AND bytes_read > 0"),
        ),
        "inventory": (
            _columns("inventory"),
            *_no_nulls(
                "provider", "bucket", "key", "size_bytes", "storage_class", "tier", "etag", "class_since_at", "day"
            ),
            _in_set("provider", _PROVIDERS),
            _no_empty("names are not empty", "bucket", "key"),
            _in_set("tier", ["hot", "warm", "cold", "archive", "auto"]),
            _between("size_bytes", 0, MAX_OBJECT_BYTES),
            _unique("provider", "bucket", "key"),
            _no_empty("ETags are not empty", "etag"),
        ),
        "ingestion_events": (
            *_no_nulls("file_id", "size_gb", "timestamp", "source", "content_type", "user_id"),
            _in_set("source", ["iot_sensor", "app_log", "user_upload"]),
            _in_set("content_type", ["video", "log", "document", "image"]),
            _between("size_gb", 0, MAX_OBJECT_BYTES / 2**30),
            no_row_where("files have a name", "trim(file_id) = ''"),
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
                "a move goes to another class and pays inside the horizon, or its owner pinned it there",
                "action = 'move' AND (chosen_class = current_class OR (reason NOT LIKE '%pinned there by its owner' "
                "AND (saving_usd <= 0 OR payback_days IS NULL OR payback_days > horizon_days)))",
            ),
            _no_decisions("who is kept stays in the class", "action = 'keep' AND chosen_class <> current_class"),
            _no_decisions("every decision has a reason", "trim(reason) = ''"),
        ),
    }
)
"""Expectations by suite; a suite has the name of its dataset."""
