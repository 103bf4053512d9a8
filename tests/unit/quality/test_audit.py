"""The audit: what passes, what is refused, and that the refusal names the expectation with examples."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from foreign_warnings import GREAT_EXPECTATIONS

from cloudflux.domain.errors import AuditFailed
from cloudflux.lake.schemas import SCHEMAS
from cloudflux.quality import AuditReport, audit
from cloudflux.quality.suites import SUITES

pytestmark = GREAT_EXPECTATIONS

AT = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
DAY = date(2026, 3, 1)

GOOD: dict[str, dict[str, Any]] = {
    "access_events": {
        "provider": "aws", "bucket": "b", "key": "k", "at": AT, "day": DAY, "kind": "read",
        "operation": "REST.GET.OBJECT", "bytes_sent": 5, "request_id": "r", "excluded": False, "source_file": "f",
        "line": 7,
    },
    "daily_access": {
        "provider": "aws", "bucket": "b", "key": "k", "day": DAY, "reads": 2, "writes": 0, "bytes_read": 9,
        "excluded_reads": 0,
        "excluded_writes": 0,
    },
    "inventory": {
        "provider": "gcp", "bucket": "b", "key": "k", "version_id": "1", "size_bytes": 0, "storage_class": "NEARLINE",
        "tier": "warm", "etag": "e", "last_modified_at": AT, "class_since_at": AT, "content_type": None,
        "lock_reason": None, "day": DAY,
    },
    "ingestion_events": {
        "file_id": "s3://b/k", "size_gb": 0.5, "timestamp": AT, "source": "app_log", "content_type": "log",
        "user_id": "u",
    },
    "decisions": {
        "provider": "aws", "bucket": "b", "key": "k", "version_id": None, "etag": "e", "size_bytes": 1,
        "last_modified_at": AT, "class_since_at": AT, "day": DAY, "current_class": "STANDARD",
        "chosen_class": "GLACIER_IR", "action": "move", "reason": "unread", "horizon_days": 180, "expected_reads": 0.0,
        "stay_usd": 2.0, "chosen_usd": 1.0, "one_time_usd": 0.1, "saving_usd": 1.0, "payback_days": 9.0,
        "current_monthly_usd": 0.2, "chosen_monthly_usd": 0.1, "rule_class": "STANDARD_IA", "candidates": [],
        "price_book": "aws-us-east-1",
    },
}  # fmt: skip

WRONG = [
    ("access_events", {"kind": "peek"}, "kind", "peek"),
    ("access_events", {"provider": "ibm"}, "provider", "ibm"),
    ("access_events", {"bytes_sent": -1}, "bytes_sent", "-1"),
    ("access_events", {"key": ""}, "names are not empty", "''"),
    ("access_events", {"bucket": "", "request_id": ""}, "names are not empty", "'bucket': ''"),
    ("access_events", {"request_id": None}, "request_id", "None"),
    ("access_events", {"at": None}, "every event has a time", "'at': None"),
    ("access_events", {"day": date(2026, 3, 2)}, "the day is that of the time", "2026, 3, 2"),
    ("daily_access", {"reads": -3, "bytes_read": 0}, "reads", "-3"),
    ("daily_access", {"reads": 0}, "bytes are read by reads", "'bytes_read': 9"),
    ("inventory", {"key": ""}, "names are not empty", "'key': ''"),
    ("inventory", {"tier": "lukewarm"}, "tier", "lukewarm"),
    ("inventory", {"size_bytes": -1}, "size_bytes", "-1"),
    ("inventory", {"etag": ""}, "ETags are not empty", "'etag': ''"),
    ("ingestion_events", {"source": "fax"}, "source", "fax"),
    ("ingestion_events", {"size_gb": -0.1}, "size_gb", "-0.1"),
    ("ingestion_events", {"user_id": None}, "user_id", "None"),
    ("decisions", {"saving_usd": -1.0}, "a move goes to another class", "'saving_usd': -1.0"),
    ("decisions", {"payback_days": 200.0}, "a move goes to another class", "'payback_days': 200.0"),
    ("decisions", {"action": "keep"}, "who is kept stays", "GLACIER_IR"),
    ("decisions", {"reason": " "}, "every decision has a reason", "' '"),
]


def table(suite: str, *rows: dict[str, Any]) -> pa.Table:
    schema = SCHEMAS.get(suite)
    if schema is None:
        return pa.Table.from_pylist(list(rows))
    # Nulls and wrong values are what the audit is for: the schema must not refuse them first.
    return pa.Table.from_pylist(list(rows), schema=pa.schema([field.with_nullable(True) for field in schema]))


def several(suite: str, count: int) -> list[dict[str, Any]]:
    name = "file_id" if suite == "ingestion_events" else "key"
    return [GOOD[suite] | {name: f"k{number}"} for number in range(count)]


def test_every_suite_is_tried() -> None:
    assert set(GOOD) == set(SUITES)
    assert {suite for suite, *_ in WRONG} == set(SUITES)


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_batch_passes_when_it_is_good(suite: str) -> None:
    report = audit(suite, table(suite, *several(suite, 5)), "batch-1")
    assert [check for check in report.checks if not check.passed] == []
    assert (report.suite, report.batch, report.passed, report.rows) == (suite, "batch-1", True, 5)
    assert len(report.checks) == len(SUITES[suite])
    report.raise_if_failed()


@pytest.mark.parametrize(("suite", "change", "expectation", "example"), WRONG)
def test_batch_is_refused_when_one_row_is_wrong(
    suite: str, change: dict[str, Any], expectation: str, example: str
) -> None:
    rows = several(suite, 5)
    rows[3] |= change
    report = audit(suite, table(suite, *rows), "batch-2")
    failed = [check for check in report.checks if not check.passed]
    assert len(failed) == 1
    assert failed[0].unexpected == 1
    with pytest.raises(AuditFailed) as raised:
        report.raise_if_failed()
    assert "batch batch-2" in str(raised.value)
    assert expectation in str(raised.value)
    assert example in str(raised.value)


@pytest.mark.parametrize("suite", ["daily_access", "inventory", "decisions"])
def test_batch_is_refused_when_an_object_comes_twice(suite: str) -> None:
    report: AuditReport = audit(suite, table(suite, *several(suite, 3), *several(suite, 1)), "batch-3")
    assert next(check.description for check in report.checks if not check.passed).startswith("one row for each")


def test_batch_is_refused_when_a_column_is_missing() -> None:
    whole = table("daily_access", *several("daily_access", 2))
    report = audit("daily_access", whole.append_column("surprise", pa.array([1, 2])), "batch-4")
    assert [check.expectation for check in report.checks if not check.passed] == ["expect_table_columns_to_match_set"]


def test_dataset_is_audited_like_a_table_when_it_is_streamed() -> None:
    whole = table("daily_access", *several("daily_access", 1000))
    report = audit("daily_access", pads.dataset(whole), "batch-5")
    assert (report.passed, report.rows) == (True, 1000)
