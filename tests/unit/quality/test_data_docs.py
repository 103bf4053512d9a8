"""The page of an audit: Great Expectations' own, without foreign servers, and with everything escaped."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from foreign_warnings import GREAT_EXPECTATIONS
from unit.quality.audited_rows import AT, an_event, table_of

from cloudflux.quality import AuditContext, audit
from cloudflux.quality.data_docs import rendered

pytestmark = GREAT_EXPECTATIONS

HOSTILE = "<img src=x onerror=alert(1)>$PARAMETER ${key} {{7*7}} </script><script>alert(2)</script>\"'&amp;"


def page_of(changes: dict[str, Any], batch: str = "run-1", *, count: int = 10, later: int = 1) -> str:
    rows = table_of("access_events", [an_event(number, **(changes if number == 3 else {})) for number in range(count)])
    report = audit("access_events", rows, batch, AuditContext(AT + timedelta(hours=later)))
    # as PostgreSQL gives it back
    return rendered(json.loads(json.dumps(report.result)), home="../", assets="../static/")


@pytest.mark.parametrize(
    "changes", [{"kind": HOSTILE}, {"provider": HOSTILE, "key": ""}, {"bucket": HOSTILE, "key": ""}]
)
def test_no_markup_of_strangers_is_in_the_page_when_examples_are_hostile(changes: dict[str, Any]) -> None:
    page = page_of(changes, batch=HOSTILE)
    assert "<img" not in page
    assert page.count("<script") == 1  # ours
    assert "{{7*7}}" in page
    assert "&lt;img src=x onerror=alert(1)&gt;$PARAMETER ${key}" in page
    assert "&amp;amp;" in page


def test_page_asks_no_foreign_server_for_anything() -> None:
    page = page_of({"kind": "peek"})
    asked = re.findall(r"""(?:src|href|action|data-url|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert {address for address in asked if not address.startswith("#")} == {
        "../", "../static/bootstrap.min.css", "../static/data_docs.css", "../static/data_docs.js"
    }  # fmt: skip
    assert "://" not in page
    assert not re.search(r"\son[a-z]+\s*=", page)


def test_page_says_what_was_expected_and_what_was_found_when_an_audit_failed() -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page_of({"kind": "peek", "key": ""}, batch="run-77")))
    for said in (
        "Failed",
        "run-77",
        "peek",
        "names are not empty",
        "Warning only. The newest event",
        "&#x27;key&#x27;",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("changes", "count", "later", "told"),
    [
        ({}, 10, 1, "All 10 rows of this batch may be published."),
        ({}, 10, 900, "This batch of 10 rows may be published: what is not met are warnings."),
        ({"kind": "peek"}, 10, 1, "This batch of 10 rows stays unpublished."),
        ({"kind": "peek"}, 100, 1, "1 of 100 rows are left out of this batch and kept in quarantine."),
    ],
)
def test_page_says_what_became_of_the_batch(changes: dict[str, Any], count: int, later: int, told: str) -> None:
    assert f">{told}<" in page_of(changes, count=count, later=later)


def test_filter_and_folding_are_there_when_inline_scripts_are_gone() -> None:
    page = page_of({})
    assert 'data-show="failed"' in page
    assert 'data-toggle="collapse"' in page
    assert "Succeeded" in page or "Success" in page


def test_page_tells_the_error_when_an_expectation_could_not_be_checked() -> None:
    rows = table_of("access_events", [an_event(number) for number in range(10)]).drop_columns(["at", "kind"])
    report = audit("access_events", rows, "run-1", AuditContext(AT + timedelta(hours=1)))
    assert (report.passed, report.rejected) == (False, None)
    assert not any(check.passed for check in report.checks if check.column == "kind")
    page = rendered(json.loads(json.dumps(report.result)), home="../", assets="../static/")
    assert "stays unpublished" in page
    assert "kind" in page
