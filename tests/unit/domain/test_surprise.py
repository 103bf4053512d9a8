"""The surprise guard: its accounts against the rule in plain arithmetic, and what it weighs with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudflux.domain.accounting import tariff_of
from cloudflux.domain.prices import GIB_BYTES
from cloudflux.domain.surprise import (
    REFUTED_DAYS,
    SurpriseAccounts,
    surprise_terms,
    training_pause_days,
)
from cloudflux.price_books import load_book

AWS = load_book("aws-us-east-1")


def by_the_rule(premium, trips, expected, reads):
    """Follow one object through plain arithmetic; gives its sum and until when it refutes the chain, day by day."""
    usd, until, found = 0.0, 0, []
    for day, (expects, count) in enumerate(zip(expected, reads, strict=True)):
        usd -= 2.0 * (premium * expects)
        if count:
            usd += premium * count
        usd = max(usd, 0.0)
        if count and usd > 2.0 * trips:
            usd, until = 0.0, day + 31
        found.append((usd, until))
    return found


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 0.1),  # premium of a read
            st.floats(0.0, 0.5),  # a round trip
            st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5)), min_size=40, max_size=40),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_accounts_follow_the_rule_on_random_reads(objects):
    premium, trips = np.array([one[0] for one in objects]), np.array([one[1] for one in objects])
    accounts = SurpriseAccounts(len(objects))
    wanted = [by_the_rule(p, t, [e for e, _ in days], [r for _, r in days]) for p, t, days in objects]
    for day in range(40):
        expected = np.array([one[2][day][0] for one in objects])
        reads = np.array([one[2][day][1] for one in objects])
        rows = np.flatnonzero(reads)
        accounts.weigh(day, premium * expected, rows, premium[rows] * reads[rows], trips[rows])
        usd, until = zip(*(one[day] for one in wanted), strict=True)
        np.testing.assert_allclose(accounts.usd, usd, rtol=1e-9, atol=1e-12)
        assert accounts.refuted_until.tolist() == list(until)
        assert accounts.refuted(day + 1).tolist() == [one > day + 1 for one in until]


def test_object_refutes_the_chain_for_thirty_days_when_its_reads_cost_two_round_trips_more_than_expected():
    accounts = SurpriseAccounts(2)
    rows = np.array([0])
    accounts.weigh(10, np.array([0.5, 0.5]), rows, np.array([3.0]), np.array([1.0]))
    assert accounts.usd.tolist() == [2.0, 0.0], "two round trips, and not more"
    assert not accounts.refuted(11).any()
    accounts.weigh(11, np.array([0.5, 0.5]), rows, np.array([1.1]), np.array([1.0]))
    assert accounts.refuted(12).tolist() == [True, False]
    assert accounts.usd.tolist() == [0.0, 0.0], "the sum begins anew"
    assert accounts.refuted(11 + REFUTED_DAYS)[0]
    assert not accounts.refuted(12 + REFUTED_DAYS)[0]
    accounts.clear()
    assert not accounts.refuted(12).any(), "a new chain has refuted nothing yet"


def test_premium_and_round_trip_are_those_of_the_tariff():
    tariff = tariff_of(AWS, [GIB_BYTES, 4 * GIB_BYTES], ["STANDARD", "INTELLIGENT_TIERING", "GLACIER_IR"])
    terms = surprise_terms(tariff)
    colder = tariff.code_of("GLACIER_IR")
    assert terms.premium_usd[:, 0].tolist() == [0.0, 0.0]
    assert terms.premium_usd[0, colder] == pytest.approx(0.03 + (0.01 - 0.0004) / 1000)
    assert terms.premium_usd[1, colder] == pytest.approx(0.12 + (0.01 - 0.0004) / 1000)
    trip = tariff.move_usd[0, colder] + tariff.move_usd[colder, 0] + tariff.move_usd_gib[colder, 0]
    assert terms.round_trip_usd[0, colder] == pytest.approx(trip + 90 * tariff.storage_usd_day[0, colder])
    parts = surprise_terms(tariff, np.array([0.5, 0.5])).premium_usd[:, colder]
    assert parts == pytest.approx([0.015 + (0.01 - 0.0004) / 1000] * 2), "half a GiB a read, whatever the size"


@pytest.mark.parametrize(("history", "pause"), [(28, 7), (100, 25), (120, 30), (240, 30), (400, 50)])
def test_chain_stands_for_an_eighth_of_the_history_and_thirty_days_where_there_are_as_many(history, pause):
    assert training_pause_days(history) == pause
