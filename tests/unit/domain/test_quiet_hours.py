"""Quiet hours: how they are written, when they hold and when they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudflux.domain.quiet_hours import QuietHours


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "moment", "end"),
    [
        ("08:00-18:00", "2026-03-01T07:59:59", None),
        ("08:00-18:00", "2026-03-01T08:00:00", "2026-03-01T18:00:00"),
        ("08:00-18:00", "2026-03-01T17:59:59", "2026-03-01T18:00:00"),
        ("08:00-18:00", "2026-03-01T18:00:00", None),
        ("22:00-06:30", "2026-03-01T23:00:00", "2026-03-02T06:30:00"),
        ("22:00-06:30", "2026-03-01T02:00:00", "2026-03-01T06:30:00"),
        ("22:00-06:30", "2026-03-01T12:00:00", None),
        ("00:00-06:00", "2026-03-01T00:00:00", "2026-03-01T06:00:00"),
        ("18:00-00:00", "2026-03-01T23:59:00", "2026-03-02T00:00:00"),
        ("08:00-18:00 Europe/Berlin", "2026-07-01T06:30:00", "2026-07-01T16:00:00"),
        ("08:00-18:00 Europe/Berlin", "2026-01-01T06:30:00", None),
        # the night in which the clocks of Berlin are put on: 02:00 becomes 03:00
        ("22:00-06:00 Europe/Berlin", "2026-03-28T23:30:00", "2026-03-29T04:00:00"),
    ],
)
def test_quiet_hours_end_when_they_should(hours: str, moment: str, end: str | None) -> None:
    assert QuietHours.parse(hours).ends_at(at(moment)) == (None if end is None else at(end))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8:00-18:00", "are written"),
        ("08:00", "are written"),
        ("", "are written"),
        ("25:00-06:00", "no such time"),
        ("08:00-08:00", "whole day"),
        ("08:00-09:00 Mars/Olympus", "no time zone 'Mars/Olympus'"),
        ("08:00-09:00 ../etc/passwd", "no time zone"),
    ],
)
def test_the_error_says_what_is_wrong_when_they_make_no_sense(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        QuietHours.parse(text)


@given(
    st.times(),
    st.times(),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001  # made aware below
)
def test_nothing_is_quiet_at_the_end_and_all_before_it(start: object, end: object, zone: str, moment: datetime) -> None:
    text = f"{start:%H:%M}-{end:%H:%M} {zone}"
    if f"{start:%H:%M}" == f"{end:%H:%M}":
        return
    hours = QuietHours.parse(text)
    assert QuietHours.parse(str(hours)) == hours
    now = moment.replace(tzinfo=UTC)
    ends = hours.ends_at(now)
    if ends is None:
        return
    assert now < ends <= now + timedelta(hours=26)
    local = ends.astimezone(ZoneInfo(zone))
    if f"{local:%H:%M}" == f"{end:%H:%M}":  # but for an end that the clocks leave out
        assert hours.ends_at(ends) is None
