"""Rows that are left out of a batch, and the result that is kept of it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from foreign_warnings import GREAT_EXPECTATIONS
from unit.quality.audited_rows import AT, DAY, a_daily_access, an_event, an_object, table_of

from cloudflux.domain.errors import AuditFailed
from cloudflux.lake.schemas import QUARANTINE
from cloudflux.quality import AuditContext, audit

pytestmark = GREAT_EXPECTATIONS

CONTEXT = AuditContext(now=AT + timedelta(hours=1), log_files={"f1": ("logs", "2026/a b.log")})


def events(changes: dict[int, dict[str, Any]], count: int = 300) -> pa.Table:
    return table_of("access_events", [an_event(number, **changes.get(number, {})) for number in range(count)])


def test_rows_go_to_quarantine_with_file_line_and_reason_when_they_are_few() -> None:
    rows = events({7: {"kind": "peek"}, 8: {"bytes_sent": -1, "key": "<b>"}, 9: {"day": DAY - timedelta(days=1)}})
    report = audit("access_events", rows, "batch-1", CONTEXT)
    report.raise_if_failed()
    assert (report.passed, report.rows) == (True, 300)
    assert report.rejected is not None
    assert report.rejected.schema == QUARANTINE
    found = report.rejected.to_pylist()
    assert [(row["source_file"], row["line"], row["bucket"], row["key"], row["reason"]) for row in found] == [
        ("f0", 8, "", "", "audit: bytes_sent is less than 0 or more than 1125899906842624"),
        ("f1", 7, "logs", "2026/a b.log", "audit: kind is none of read, write, delete, tier, part"),
        ("f1", 9, "logs", "2026/a b.log", "audit: not met: the day is that of the time, in UTC"),
    ]
    assert [row["day"] for row in found] == [DAY, DAY, DAY - timedelta(days=1)]
    assert json.loads(found[0]["raw"])["key"] == "<b>"
    kept = report.kept(rows)
    assert kept.schema == rows.schema
    assert kept["line"].to_pylist() == [line for line in range(300) if line not in (7, 8, 9)]


def test_every_reason_is_told_when_one_row_breaks_several_expectations() -> None:
    report = audit("access_events", events({7: {"kind": None, "provider": "ibm", "key": ""}}), "b", CONTEXT)
    assert report.rejected is not None
    assert report.rejected["reason"].to_pylist() == [
        "audit: there is no kind; provider is none of aws, azure, gcp; not met: names are not empty"
    ]


def test_rows_from_the_future_are_left_out_when_they_are_few() -> None:
    later = {"at": AT + timedelta(days=400), "day": DAY + timedelta(days=400)}
    rows = events({7: later})
    report = audit("access_events", rows, "b", CONTEXT)
    report.raise_if_failed()
    assert report.rejected is not None
    assert report.rejected["line"].to_pylist() == [7]
    assert report.kept(rows).num_rows == 299


@pytest.mark.parametrize(("wrong", "passed"), [(3, True), (4, False)])
def test_batch_fails_when_more_than_one_row_in_a_hundred_is_wrong(wrong: int, passed: bool) -> None:
    # two expectations: it is the rows that count
    changes = {number: {"kind": "peek", "bytes_sent": -1} for number in range(wrong)}
    report = audit("access_events", events(changes), "batch-9", CONTEXT)
    assert report.passed is passed
    assert (report.rejected is not None) is passed
    if not passed:
        with pytest.raises(AuditFailed, match=r"batch-9 .*\(kind\): 4 of 300 rows.*'peek'.*\(bytes_sent\): 4 of 300"):
            report.raise_if_failed()
        assert report.kept(events(changes)).num_rows == 300


def test_an_object_is_left_out_of_an_inventory_when_its_row_is_wrong() -> None:
    rows = table_of("inventory", [an_object(number, **({"tier": "?"} if number == 5 else {})) for number in range(200)])
    report = audit("inventory", rows, "b", CONTEXT)
    report.raise_if_failed()
    assert report.rejected is not None
    ((row,)) = report.rejected.to_pylist()
    assert (row["bucket"], row["key"], row["reason"]) == (
        "b",
        "k5",
        "audit: tier is none of hot, warm, cold, archive, auto",
    )
    assert "k5" not in report.kept(rows)["key"].to_pylist()


def test_batch_fails_when_we_computed_the_wrong_row_ourselves() -> None:
    rows = table_of("daily_access", [a_daily_access(n, **({"reads": -1} if n == 5 else {})) for n in range(500)])
    report = audit("daily_access", rows, "b", CONTEXT)
    assert (report.passed, report.rejected) == (False, None)
    with pytest.raises(AuditFailed, match=r"\(reads\): 1 of 500 rows"):
        report.raise_if_failed()


def test_batch_fails_when_something_is_wrong_with_it_as_a_whole_beside_a_few_rows() -> None:
    rows = events({7: {"kind": "peek"}})
    report = audit("access_events", rows.append_column("more", pa.array([1] * 300)), "b", CONTEXT)
    assert (report.passed, report.rejected) == (False, None)
    with pytest.raises(AuditFailed, match="expect_table_columns_to_match_set"):
        report.raise_if_failed()


def test_an_object_is_not_in_two_places_when_ten_thousand_are_compared_by_hash() -> None:
    rows = [an_object(number) for number in range(10_000)]
    assert audit("inventory", table_of("inventory", rows), "b", CONTEXT).passed
    report = audit("inventory", table_of("inventory", [*rows, an_object(77, size_bytes=5)]), "b", CONTEXT)
    with pytest.raises(
        AuditFailed, match=r"one row for each provider, bucket, key: 1 of 10001 rows.*'k77', 'copies': 2"
    ):
        report.raise_if_failed()


def test_result_is_great_expectations_own_and_small_when_examples_are_long() -> None:
    long = {number: {"provider": "x" * 100_000, "key": "y" * 100_000, "kind": "z" * 100_000} for number in range(50)}
    result = audit("access_events", events(long), "run-7", CONTEXT).result
    text = json.dumps(result)
    assert len(text) < 128 * 1024
    assert (result["success"], result["suite_name"], result["meta"]["run_id"]["run_name"]) == (
        False,
        "access_events",
        "run-7",
    )
    assert result["meta"]["checkpoint_id"]
    assert result["meta"]["cloudflux"] == {"passed": False, "rows": 300, "rejected": 0}
    severities = {part["expectation_config"]["severity"] for part in result["results"]}
    assert severities == {"critical", "warning"}


def test_result_holds_the_rows_that_a_query_found_when_it_failed() -> None:
    result = audit("access_events", events({7: {"key": ""}}), "run-7", CONTEXT).result
    (failed,) = (part for part in result["results"] if not part["success"])
    assert failed["expectation_config"]["description"] == "names are not empty"
    assert "'key': ''" in failed["result"]["partial_unexpected_list"][0]
    assert result["meta"]["cloudflux"] == {"passed": True, "rows": 300, "rejected": 1}
