from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from sqlalchemy import Engine, text

from cloudflux.domain.reports import SavingsReport
from cloudflux.lake.schemas import QUARANTINE
from cloudflux.stores.quarantine import QuarantineLog
from cloudflux.stores.savings import Savings
from cloudflux.stores.source_files import SourceFiles
from cloudflux.stores.validations import Validations

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def a_file(key: str, etag: str = "e1", **overrides: object) -> dict[str, object]:
    return {"provider": "aws", "bucket": "logs", "key": key, "etag": etag, "file_id": f"{key}-{etag}", **overrides}


def test_files_are_published_when_recorded(engine: Engine) -> None:
    files = SourceFiles(engine)
    files.record([a_file("media/a"), a_file("media/b%_"), a_file("media_other/c"), a_file("media/d", bucket="x")], AT)
    files.record([a_file("media/a", "e2", lines=7, ignored="yes")], AT)
    files.record([], AT)
    keys = ["media/a", "media/b%_", "media/d", "media/e"]
    assert files.published("aws", "logs", keys) == {("media/a", "e1"), ("media/a", "e2"), ("media/b%_", "e1")}
    assert files.published("aws", "logs", ["media/b%", "a' OR true"]) == set()
    assert files.published("gcp", "logs", keys) == files.published("aws", "logs", []) == set()


def test_file_is_replaced_when_recorded_again(engine: Engine) -> None:
    files = SourceFiles(engine)
    files.record([a_file("a", lines=1, events=1)], AT)
    files.record([a_file("a", lines=2, events=2)], AT + timedelta(hours=1))
    assert files.count() == 1
    with engine.connect() as connection:
        row = connection.execute(text("SELECT lines, published_at FROM cloudflux.source_files")).one()
    assert (row.lines, row.published_at) == (2, AT + timedelta(hours=1))


def test_file_is_told_as_an_earlier_take_when_it_was_cut_off_or_has_other_content(engine: Engine) -> None:
    files = SourceFiles(engine)
    days = [date(2026, 3, 1), date(2026, 3, 2)]
    files.intend([a_file("a", file_id="A", part="p1", days=days[:1]), a_file("b", file_id="B", part="p1", days=days)])
    assert files.published("aws", "logs", ["a", "b"]) == set()
    assert files.earlier([a_file("a"), a_file("c")]) == {"A": days[:1]}
    files.record([a_file("a", file_id="A", part="p1", days=days[:1])], AT)
    assert files.earlier([a_file("a")]) == {}
    assert files.earlier([a_file("a", "e2")]) == {"A": days[:1]}
    files.intend([a_file("a", file_id="A", part="p2", days=days)])  # a retry after it was recorded
    assert files.published("aws", "logs", ["a", "b"]) == {("a", "e1")}
    assert files.earlier([a_file("a", "e2"), a_file("b", "e1")]) == {"A": days[:1], "B": days}


def test_lines_are_forgotten_when_their_file_is_read_anew(engine: Engine) -> None:
    log = QuarantineLog(engine)
    log.add(quarantined(1, 2))
    assert log.forget([]) == 0
    assert log.forget(["f1", "f2"]) == 2
    assert log.count() == 0


def quarantined(*lines: int, reason: str = "not a log line", raw: str = "junk") -> list[dict[str, object]]:
    return [
        {
            "source_file": "f1", "provider": "aws", "bucket": "logs", "key": "k", "line": line, "reason": reason,
            "raw": raw, "day": date(2026, 11, 1),
        }
        for line in lines
    ]  # fmt: skip


def test_lines_are_counted_by_reason_when_quarantined(engine: Engine) -> None:
    log = QuarantineLog(engine)
    assert log.add(pa.Table.from_pylist(quarantined(1, 2), QUARANTINE)) == 2
    assert log.add(quarantined(3, 4, 5, reason="cut off")) == 3
    assert log.add([]) == 0
    assert log.by_reason() == [("cut off", 3), ("not a log line", 2)]


def test_line_is_not_doubled_when_quarantined_again(engine: Engine) -> None:
    log = QuarantineLog(engine)
    log.add(quarantined(1, 2))
    assert log.add(quarantined(2, 3, 3)) == 1
    assert log.count() == 3


def test_binary_junk_is_kept_escaped_when_quarantined(engine: Engine) -> None:
    QuarantineLog(engine).add(quarantined(1, raw='a\x00b\ud800 \t\n\\. \\N "'))
    with engine.connect() as connection:
        raw = connection.execute(text("SELECT raw FROM cloudflux.quarantine")).scalar_one()
    assert raw == 'a\\x00b\\ud800 \t\n\\. \\N "'


@dataclass(frozen=True, slots=True)
class Check:
    expectation: str
    passed: bool
    examples: tuple[object, ...]


def test_audits_read_back_when_recorded(engine: Engine) -> None:
    validations = Validations(engine)
    examples = ("a\x00b", "\\u0000", "\\\x00", Decimal("1.50"), AT, float("nan"), 3)
    validations.record("inventory", "b1", True, [{"expectation": "not_null", "unexpected": 0}], AT)
    validations.record("access_events", "b2", False, (Check("in_set", False, examples),), AT)
    newest, oldest = validations.latest()
    assert oldest.checks == ({"expectation": "not_null", "unexpected": 0},)
    assert newest.checks[0]["examples"] == [
        "a\\u0000b", "\\u0000", "\\\\u0000", "1.50", "2026-11-01T12:00:00+00:00", None, 3
    ]  # fmt: skip
    assert [validation.dataset for validation in validations.latest(passed=False)] == ["access_events"]
    assert validations.latest("inventory") == [oldest]
    assert (oldest.rows, validations.find(oldest.validation_id)) == (None, (oldest, None))


def test_result_reads_back_when_an_audit_is_recorded_with_it(engine: Engine) -> None:
    validations = Validations(engine)
    result = {"success": False, "results": [{"result": {"partial_unexpected_list": ["<b>\x00", None, 1.5]}}]}
    number = validations.record("inventory", "b1", False, (), AT, rows=5_000_000_000, result=result)
    found = validations.find(number)
    assert found is not None
    audit, kept = found
    assert (audit.validation_id, audit.rows, audit.passed) == (number, 5_000_000_000, False)
    assert kept is not None
    assert kept["results"][0]["result"]["partial_unexpected_list"] == ["<b>\\u0000", None, 1.5]
    assert validations.find(number + 1) is None


def test_result_is_not_kept_when_it_is_old_or_huge(engine: Engine) -> None:
    validations = Validations(engine)
    first = validations.record("inventory", "b1", True, (), AT, result={"success": True})
    other = validations.record("decisions", "b1", True, (), AT, result={"success": True})
    huge = validations.record("inventory", "b2", True, (), AT + timedelta(days=89), result={"text": "x" * 2**20})
    kept = {number: (validations.find(number) or (None, None))[1] for number in (first, other, huge)}
    assert kept == {first: {"success": True}, other: {"success": True}, huge: None}
    validations.record("inventory", "b3", True, (), AT + timedelta(days=91))
    kept = {number: (validations.find(number) or (None, None))[1] for number in (first, other)}
    assert kept == {first: None, other: {"success": True}}
    assert len(validations.latest("inventory")) == 3


def a_report(**overrides: object) -> SavingsReport:
    report = SavingsReport(
        report_id="r1",
        at=AT,
        day=date(2026, 11, 1),
        objects=6_000,
        moves_done=10,
        moves_failed=0,
        before_usd_month=Decimal("1.5"),
        after_usd_month=Decimal("0.0000000001"),
        projected_usd_month=Decimal("1.4"),
        realised_usd_month=Decimal("1.3"),
        one_time_usd=Decimal("0.2"),
        details={"by_tier": {"hot": 3}},
    )
    return replace(report, **overrides)


def test_newest_report_is_given_when_there_are_several(engine: Engine) -> None:
    savings = Savings(engine)
    assert savings.latest() is None
    savings.record(a_report(report_id="r2", at=AT + timedelta(hours=1)))
    savings.record(a_report())
    assert savings.latest() == a_report(report_id="r2", at=AT + timedelta(hours=1))


def test_report_is_replaced_when_a_task_is_repeated(engine: Engine) -> None:
    savings = Savings(engine)
    savings.record(a_report())
    savings.record(a_report(moves_done=11))
    assert savings.recent(5) == [a_report(moves_done=11)]


@pytest.mark.parametrize("amount", ["1e10", "-1e10"])
def test_amount_is_refused_when_it_does_not_fit(engine: Engine, amount: str) -> None:
    with pytest.raises(Exception, match="numeric field overflow"):
        Savings(engine).record(a_report(one_time_usd=Decimal(amount)))
