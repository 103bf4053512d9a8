"""Coverage: what is believed of a day's logs, against the bucket's own past."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cloudflux.domain.coverage import (
    NEVER,
    CoveredDay,
    DayCoverage,
    LoggedHours,
    RecentCoverage,
    believed_silence,
    coverage_of,
    in_words,
    recent_coverage,
)

DAYS = 43
LAST = DAYS - 1
MEASURED = DAYS - 2
"""A Tuesday, say: one day follows it, so that its log source is seen to be alive."""
FIRST = date(2026, 1, 1)


def logged(records: Any, **overrides: Any) -> LoggedHours:
    """Give buckets that have a log source each and have been logged since the first day; nothing is quarantined."""
    records = np.asarray(records, dtype=np.int64)
    buckets, days = records.shape[:2]
    plain = LoggedHours(
        records=records,
        first_day=np.zeros(buckets, dtype=np.int64),
        usual_day=np.full(buckets, np.nan),
        source=np.arange(buckets),
        settled_until=np.full(buckets, np.inf),
        delivered_until=np.full(buckets, np.inf),
        quarantined=np.zeros((buckets, days)),
    )
    return replace(plain, **overrides)


def steady(an_hour: int = 120, buckets: int = 1, days: int = DAYS) -> Any:
    return np.full((buckets, days, 24), an_hour, dtype=np.int64)


def a_figure(measured: DayCoverage, day: int = MEASURED, bucket: int = 0) -> float:
    return float(measured.coverage[bucket, day])


def test_everything_is_covered_when_every_hour_is_as_usual() -> None:
    measured = coverage_of(logged(steady()))
    assert a_figure(measured) == 1.0
    assert in_words(measured, 0, MEASURED, first=FIRST) == ""


def test_lost_hours_lower_the_figure_by_their_weight_when_they_are_usually_busy() -> None:
    records = steady()
    records[0, :, 8:18] = 1000
    records[0, MEASURED, 3:9] = 0
    measured = coverage_of(logged(records))
    weight = (5 * 120 + 1000) / (14 * 120 + 10 * 1000)
    assert a_figure(measured) == pytest.approx(1 - weight)
    assert in_words(measured, 0, MEASURED, first=FIRST) == (
        "no records from 03:00 to 09:00 UTC, where 267 an hour are usual"
    )


def test_an_hour_counts_in_part_when_it_holds_less_than_half_of_the_least_usual() -> None:
    records = steady()
    records[0, MEASURED - 7] = 80
    records[0, MEASURED, 14] = 10
    records[0, MEASURED, 15] = 40
    measured = coverage_of(logged(records))
    assert measured.hours[0, MEASURED, 14] == pytest.approx(10 / 40)
    assert measured.hours[0, MEASURED, 15] == 1.0
    assert "10 records in 1 hours (from 14:00 UTC), where 120 are usual" in in_words(measured, 0, MEASURED, first=FIRST)


def test_silence_stays_covered_when_the_bucket_is_read_once_a_month() -> None:
    records = steady(0)
    records[0, [5, 35], 13] = 1
    measured = coverage_of(logged(records))
    assert measured.coverage[0, 7:].min() > 0.97


def test_a_slow_bucket_is_covered_when_its_requests_come_by_chance() -> None:
    # Hour by hour, e^-1 of every silent hour would be called lost: 0.77 of a bucket with one request an hour.
    rng = np.random.default_rng(3)
    for an_hour in (0.05, 0.3, 1.0, 3.0):
        measured = coverage_of(logged(rng.poisson(an_hour, (40, DAYS, 24))))
        figures = measured.coverage[:, 14:-1].mean(axis=1)
        assert figures.min() > 0.8, f"{an_hour} an hour"


def test_a_bucket_is_covered_when_its_requests_come_in_bursts() -> None:
    rng = np.random.default_rng(3)
    for an_hour in (1.0, 10.0):
        records = rng.poisson(rng.gamma(0.2, an_hour / 0.2, (40, DAYS, 24)))
        figures = coverage_of(logged(records)).coverage[:, 14:-1].mean(axis=1)
        assert figures.min() > 0.8, f"{an_hour} an hour"


def test_a_lost_night_is_seen_when_a_bucket_has_one_request_an_hour() -> None:
    records = np.random.default_rng(4).poisson(1.0, (1, DAYS, 24))
    records[0, MEASURED, :12] = 0
    assert a_figure(coverage_of(logged(records))) < 0.7


def test_silence_does_not_become_usual_when_it_lasts() -> None:
    records = steady(60)
    records[0, 10:] = 0
    measured = coverage_of(logged(records))
    assert measured.coverage[0, 10:].max() < 0.01, "switched off logging looks like this, too"
    assert "no records all day, where 1,440 are usual" in in_words(measured, 0, LAST, first=FIRST)


def test_a_lasting_silence_is_less_and_less_believed_when_few_requests_a_day_are_usual() -> None:
    records = steady(0)
    records[0, :20, [6, 12, 18]] = 1
    figures = coverage_of(logged(records)).coverage[0, 20:]
    assert figures[0] > 0.8, "a day without three requests happens"
    assert np.all(np.diff(figures) <= 0)
    assert figures[3:].max() < 0.02


def test_silence_is_usual_again_when_the_bucket_has_spoken_and_said_little() -> None:
    records = steady(60)
    records[0, 10:] = 0
    records[0, 10:, 2] = 1  # our own listing, once a day: its logs are alive
    figures = coverage_of(logged(records)).coverage[0]
    assert figures[10:17].max() < 0.1, "whether it is less use or lost logs cannot be told yet"
    assert figures[31:].min() == 1.0


def test_a_quiet_weekend_is_covered_when_weekends_are_quiet() -> None:
    records = steady(100)
    records[0, 5::7] = records[0, 6::7] = 0
    figures = coverage_of(logged(records)).coverage[0]
    assert figures[21:].min() == 1.0


def test_one_burst_a_week_ago_is_no_habit_when_the_bucket_is_young() -> None:
    records = steady(5)
    records[0, 12] = 100_000  # the first upload
    figures = coverage_of(logged(records, first_day=np.array([12]))).coverage[0]
    assert figures[15:].min() == 1.0


def test_days_are_not_covered_when_they_lie_before_the_first_record() -> None:
    records = steady()
    records[0, :20] = 0
    measured = coverage_of(logged(records, first_day=np.array([20])))
    assert measured.coverage[0, :20].max() == 0
    assert measured.coverage[0, 20:].min() == 1.0
    assert in_words(measured, 0, 3, first=FIRST) == "its logs begin on 2026-01-01"
    never = coverage_of(logged(steady(0), first_day=np.array([NEVER])))
    assert never.coverage.max() == 0
    assert "no log record" in in_words(never, 0, 3, first=None)


def test_only_hours_with_records_count_when_there_is_no_day_to_compare_with() -> None:
    records = steady(0)
    records[0, 20:, [6, 12, 18]] = 40
    measured = coverage_of(logged(records, first_day=np.array([20])))
    assert measured.coverage[0, 20] == pytest.approx(3 / 24)
    assert "no earlier day to compare with" in in_words(measured, 0, 20, first=FIRST)
    assert measured.coverage[0, 21] == 1.0


def test_hours_are_not_covered_when_their_logs_may_still_come() -> None:
    settled = np.array([MEASURED * 24 + 18.0])
    measured = coverage_of(logged(steady(), settled_until=settled))
    assert a_figure(measured) == pytest.approx(18 / 24)
    assert (
        in_words(measured, 0, MEASURED, first=FIRST) == "what was requested from 18:00 UTC on is still to be delivered"
    )


def test_silence_is_not_believed_when_the_source_has_delivered_nothing_since() -> None:
    records = steady(0)
    records[0, :30:7, 3] = 1
    dead = coverage_of(logged(records, delivered_until=np.array([-np.inf])))
    assert dead.coverage[0, 29:].max() == 0
    assert "nothing was delivered" in in_words(dead, 0, MEASURED, first=FIRST)
    by_file = coverage_of(logged(records, delivered_until=np.array([DAYS * 24.0])))
    assert a_figure(by_file) > 0.97


def test_silence_is_not_believed_when_the_whole_source_fell_silent() -> None:
    records = np.concatenate([steady(500), steady(0)])
    records[1, ::9, 4] = 1
    records[0, MEASURED, 10:16] = 0
    alone = coverage_of(logged(records))
    shared = coverage_of(
        logged(records, source=np.array([0, 0]), delivered_until=np.array([np.inf]), quarantined=np.zeros((1, DAYS)))
    )
    assert a_figure(alone, bucket=1) == 1.0
    assert a_figure(shared, bucket=1) == pytest.approx(18 / 24)
    assert in_words(shared, 1, MEASURED, first=FIRST) == (
        "no records of any bucket of its log source from 10:00 to 16:00 UTC"
    )


def test_the_figure_is_lowered_by_their_share_when_lines_are_quarantined() -> None:
    quarantined = np.zeros((1, DAYS))
    quarantined[0, MEASURED] = 24 * 120 / 3
    measured = coverage_of(logged(steady(), quarantined=quarantined))
    assert a_figure(measured) == pytest.approx(0.75)
    assert in_words(measured, 0, MEASURED, first=FIRST) == "25 % of the lines are quarantined"


def test_a_long_silence_is_judged_by_the_bucket_s_usual_day_when_all_days_here_are_silent() -> None:
    silent = steady(0)
    first = np.array([-400])
    assert coverage_of(logged(silent, first_day=first, usual_day=np.array([0.0]))).coverage.min() == 1.0
    assert coverage_of(logged(silent, first_day=first, usual_day=np.array([2400.0]))).coverage.max() < 1e-9


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match="settled_until has the shape"):
        coverage_of(logged(steady(), settled_until=np.zeros(3)))


# -- properties --------------------------------------------------------------------------------------------------------

COUNTS = st.one_of(st.integers(0, 3), st.integers(0, 400))
PAST = arrays(np.int64, (2, 31, 24), elements=COUNTS, fill=st.just(0))


@st.composite
def some_logs(draw: st.DrawFn) -> LoggedHours:
    records = draw(PAST)
    one_source = draw(st.booleans())
    sources = 1 if one_source else 2
    return logged(
        records,
        first_day=np.array([draw(st.integers(-5, 40)), draw(st.sampled_from([-50, 0, 30, NEVER]))]),
        usual_day=np.array([draw(st.sampled_from([np.nan, 0.0, 3.0, 1e6])), np.nan]),
        source=np.zeros(2, dtype=np.int64) if one_source else np.arange(2),
        settled_until=np.array([draw(st.floats(0, 31 * 24)), np.inf]),
        delivered_until=np.full(sources, draw(st.sampled_from([-np.inf, 400.0, np.inf]))),
        quarantined=draw(
            arrays(np.float64, (sources, 31), elements=st.integers(0, 1000).map(float), fill=st.just(0.0))
        ),
    )


@given(some_logs())
@settings(max_examples=60)
def test_figures_lie_between_0_and_1_whatever_the_logs_hold(logs: LoggedHours) -> None:
    measured = coverage_of(logs)
    assert np.all((measured.coverage >= 0) & (measured.coverage <= 1))
    assert np.all((measured.hours >= 0) & (measured.hours <= 1))
    for bucket in range(2):
        for day in range(0, 31, 5):
            low = measured.coverage[bucket, day] < 0.99
            assert bool(in_words(measured, bucket, day, first=FIRST)) or not low


@given(some_logs(), st.integers(0, 23), st.integers(1, 500), st.integers(0, 30))
@settings(max_examples=120)
def test_a_day_s_figure_never_falls_when_the_day_has_more_records(
    logs: LoggedHours, hour: int, more: int, day: int
) -> None:
    before = coverage_of(logs).coverage[0, day]
    records = logs.records.copy()
    records[0, day, hour] += more
    after = coverage_of(replace(logs, records=records)).coverage[0, day]
    assert after >= before - 1e-12


@given(st.integers(30, 5000), st.integers(0, 23), st.integers(1, 24))
@settings(max_examples=60)
def test_lost_hours_cost_about_their_weight_when_the_day_was_usual(an_hour: int, first: int, hours: int) -> None:
    records = steady(an_hour)
    records[0, MEASURED, first : first + hours] = 0
    lost = (min(24, first + hours) - first) / 24
    assert a_figure(coverage_of(logged(records))) == pytest.approx(1 - lost, abs=0.001)


@given(st.integers(29, 60), st.integers(0, 23), st.integers(1, 10_000))
@settings(max_examples=40)
def test_a_silent_bucket_stays_covered_whenever_it_spoke_last(day: int, hour: int, count: int) -> None:
    records = steady(0, days=80)
    records[0, day, hour] = count
    figures = coverage_of(logged(records, first_day=np.array([-30]), usual_day=np.array([0.0]))).coverage[0]
    assert figures[28:].min() == 1.0


def test_silence_is_certain_when_nothing_is_expected() -> None:
    assert believed_silence(0.0) == 1.0
    assert believed_silence(4.6) == pytest.approx(0.5, abs=0.01)
    assert believed_silence(1e9) == pytest.approx(0.0)


# -- what a decision is made on ----------------------------------------------------------------------------------------

DAY = date(2026, 3, 1)
SETTLE = timedelta(hours=6)
LATER = datetime(2026, 3, 1, 12, tzinfo=UTC)


def days_before(count: int, coverage: float = 1.0, measured_at: datetime = LATER) -> list[CoveredDay]:
    return [CoveredDay(DAY - timedelta(days=n), coverage, "", measured_at) for n in range(1, count + 1)]


def test_decisions_are_withheld_when_the_last_30_days_are_not_told() -> None:
    days = days_before(30)
    for number in range(9):
        days[number] = replace(days[number], coverage=0.1 * number, reason=f"gap {number}")
    recent = recent_coverage(days, date(2025, 1, 1), DAY, SETTLE)
    assert recent.days == 30
    assert recent.coverage == pytest.approx((21 + 3.6) / 30)
    reason = recent.withheld(0.9)
    assert reason is not None
    assert reason.startswith("withheld: the access logs tell 82 % of the last 30 days, and 90 % are asked for; worst ")
    assert "2026-02-28 (0 %: gap 0); 2026-02-27 (10 %: gap 1); 2026-02-26 (20 %: gap 2)" in reason
    assert recent.withheld(0.8) is None
    assert recent.withheld(0.0) is None


def test_only_days_since_the_first_record_count_when_the_bucket_is_younger() -> None:
    recent = recent_coverage(days_before(4), DAY - timedelta(days=4), DAY, SETTLE)
    assert (recent.days, recent.coverage) == (4, 1.0)


def test_days_count_as_not_covered_when_nobody_measured_them() -> None:
    recent = recent_coverage(days_before(10), date(2025, 1, 1), DAY, SETTLE)
    assert (recent.days, recent.coverage) == (30, pytest.approx(1 / 3))
    assert "nothing was collected" in (recent.withheld(0.8) or "")


def test_yesterday_is_left_out_when_its_logs_could_not_all_have_come() -> None:
    days = days_before(30)
    days[0] = replace(days[0], coverage=0.7, measured_at=datetime(2026, 3, 1, 5, tzinfo=UTC))
    recent = recent_coverage(days, date(2025, 1, 1), DAY, SETTLE)
    assert (recent.days, recent.coverage) == (29, 1.0)


def test_decisions_are_withheld_when_there_is_no_complete_day() -> None:
    young = recent_coverage(days_before(1, 0.5, datetime(2026, 3, 1, 1, tzinfo=UTC)), DAY - timedelta(1), DAY, SETTLE)
    assert "no day of them is complete" in (young.withheld(0.8) or "")
    for first in (None, DAY):
        assert "no access log record" in (recent_coverage([], first, DAY, SETTLE).withheld(0.8) or "")
    assert RecentCoverage(0.0, 0, problem="x").withheld(0.0) is None
