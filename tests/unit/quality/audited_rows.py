"""Rows that pass their suites, to be spoilt by tests."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from cloudflux.lake.schemas import SCHEMAS

AT = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
DAY = date(2026, 3, 1)


def an_event(number: int = 0, **overrides: Any) -> dict[str, Any]:
    return {
        "provider": "aws", "bucket": "b", "key": f"k{number}", "at": AT, "day": DAY, "kind": "read",
        "operation": "REST.GET.OBJECT", "bytes_sent": 5, "request_id": f"r{number}", "excluded": False,
        "source_file": f"f{number % 2}", "line": number,
    } | overrides  # fmt: skip


def a_daily_access(number: int = 0, **overrides: Any) -> dict[str, Any]:
    return {
        "provider": "aws", "bucket": "b", "key": f"k{number}", "day": DAY, "reads": 2, "writes": 0, "bytes_read": 9,
        "excluded_reads": 0, "excluded_writes": 0,
    } | overrides  # fmt: skip


def an_object(number: int = 0, **overrides: Any) -> dict[str, Any]:
    return {
        "provider": "aws", "bucket": "b", "key": f"k{number}", "version_id": "1", "size_bytes": 0,
        "storage_class": "STANDARD", "tier": "hot", "etag": "e", "last_modified_at": AT, "class_since_at": AT,
        "content_type": None, "lock_reason": None, "day": DAY,
    } | overrides  # fmt: skip


def table_of(dataset: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Nulls and wrong values are what the audit is for: the schema must not refuse them first."""
    return pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in SCHEMAS[dataset]]))
