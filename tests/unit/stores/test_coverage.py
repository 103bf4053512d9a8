"""The stores of coverage and of format notices, on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine

from cloudflux.domain.coverage import CoveredDay, LoggedPast
from cloudflux.domain.format_notices import FormatNotice, NoticeKind
from cloudflux.domain.tiers import Provider
from cloudflux.stores.coverage import CoverageLog
from cloudflux.stores.format_notices import FormatNotices
from cloudflux.stores.source_files import SourceFiles

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY = date(2026, 10, 1)


def a_day(number: int, *, records: int = 10, coverage: float = 1.0, **overrides: object) -> dict[str, object]:
    return {
        "provider": "aws",
        "bucket": "media",
        "day": DAY + timedelta(days=number),
        "coverage": coverage,
        "records": records,
        "quarantined": 0,
        "hours_with_records": 24,
        "reason": "",
        "measured_at": AT,
        **overrides,
    }


def test_a_day_is_replaced_when_it_is_measured_again(engine: Engine) -> None:
    log = CoverageLog(engine)
    assert log.record([a_day(0), a_day(1), a_day(0, bucket="other")]) == 3
    log.record([a_day(1, coverage=0.25, reason="no records \x00", measured_at=AT + timedelta(hours=1))])
    assert log.record([]) == 0
    assert log.days(DAY, DAY + timedelta(days=5)) == {
        ("aws", "media"): [
            CoveredDay(DAY, 1.0, "", AT),
            CoveredDay(DAY + timedelta(days=1), 0.25, "no records \\x00", AT + timedelta(hours=1)),
        ],
        ("aws", "other"): [CoveredDay(DAY, 1.0, "", AT)],
    }


def test_the_past_begins_and_ends_with_the_days_that_have_records(engine: Engine) -> None:
    log = CoverageLog(engine)
    counts = [0, 0, 7, 100, 0, 0, 9, 0, 0]
    log.record(a_day(number, records=count) for number, count in enumerate(counts))
    log.record([a_day(0, records=0, bucket="silent")])
    assert log.past() == {
        ("aws", "media"): LoggedPast(DAY + timedelta(days=2), DAY + timedelta(days=6), 7.0),
    }


def test_the_newest_file_is_that_below_the_prefix(engine: Engine) -> None:
    files = SourceFiles(engine)
    for key, hours in (("media/a", 1), ("media/b", 3), ("other/c", 9)):
        files.record(
            [
                {
                    "provider": "aws",
                    "bucket": "logs",
                    "key": key,
                    "etag": "e",
                    "file_id": key.replace("/", "-"),
                    "last_modified_at": AT + timedelta(hours=hours),
                    "part": "p",
                    "days": [DAY],
                }
            ],
            AT,
        )
    log = CoverageLog(engine)
    assert log.newest_file("aws", "logs", "media/") == AT + timedelta(hours=3)
    assert log.newest_file("aws", "logs", "nothing/") is None


def a_notice(name: str = "acl_required", **overrides: object) -> FormatNotice:
    values: dict[str, object] = {
        "provider": Provider.AWS,
        "bucket": "logs",
        "format": "s3_server_access",
        "kind": NoticeKind.NEW_FIELD,
        "name": name,
        "detail": "ignored",
        "source": "media/a",
    }
    return FormatNotice(**(values | overrides))  # type: ignore[arg-type]  # values of several types


def test_a_notice_is_new_once_and_counted_from_then_on(engine: Engine) -> None:
    notices = FormatNotices(engine)
    assert notices.record([a_notice(), a_notice(source="media/b"), a_notice("other")], AT) == 2
    later = AT + timedelta(days=1)
    assert notices.record([a_notice(source="media/c", detail="kept"), a_notice("third")], later) == 1
    assert notices.record([a_notice("third")], AT) == 0
    assert notices.record([], later) == 0
    by_name = {seen.notice.name: seen for seen in notices.latest()}
    assert set(by_name) == {"acl_required", "other", "third"}
    first = by_name["acl_required"]
    assert (first.times, first.first_seen_at, first.last_seen_at) == (2, AT, later)
    assert (first.notice.source, first.notice.detail) == ("media/a", "kept")
    assert by_name["other"].times == 1
    assert by_name["third"].last_seen_at == later


def test_latest_notices_are_those_of_the_bucket_asked_for(engine: Engine) -> None:
    notices = FormatNotices(engine)
    notices.record([a_notice(), a_notice(bucket="more"), a_notice(provider=Provider.GCP)], AT)
    assert {seen.notice.bucket for seen in notices.latest(provider=Provider.AWS)} == {"logs", "more"}
    assert [seen.notice.provider for seen in notices.latest(provider=Provider.GCP, bucket="logs")] == [Provider.GCP]
    assert len(notices.latest(limit=1)) == 1


@pytest.mark.parametrize("name", ["nul \x00", "lone \ud800 surrogate"])
def test_names_are_escaped_when_strangers_wrote_them(engine: Engine, name: str) -> None:
    notices = FormatNotices(engine)
    assert notices.record([a_notice(name, detail=name, source=name)], AT) == 1
    assert notices.record([a_notice(name)], AT) == 0
    assert "\\" in notices.latest()[0].notice.name
