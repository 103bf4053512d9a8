from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.domain.placement_factories import GIB, KIB, MIB, TIB, objects_of

from cloudflux.domain.costs import (
    client_move_usd,
    coming_back_usd,
    deleted_too_early_usd,
    demand_of,
    early_deletion_usd,
    holding_usd,
    idle_time_days,
    lifecycle_move_usd,
    one_time_usd,
    owed_days_of,
    reading_usd,
    running_month_usd,
    running_usd,
    storage_usd_month,
    usd,
)
from cloudflux.domain.explain import Outlook, explain_cost
from cloudflux.domain.policy import PolicySettings, decide
from cloudflux.price_books import available_books, load_book

AWS = load_book("aws-us-east-1")
AZURE = load_book("azure-eastus-lrs")
GCS = load_book("gcs-us-central1")
BOOKS = {name: load_book(name) for name in available_books()}


def of(book, array, storage_class):
    return float(array[0, book.code_of(storage_class)])


def from_class(book, storage_class, count=1):
    return np.full(count, book.code_of(storage_class))


# --- the arrays say what plain arithmetic says -----------------------------------------------------------------------


@st.composite
def outlooks(draw):
    book = BOOKS[draw(st.sampled_from(sorted(BOOKS)))]
    size_bytes = draw(st.one_of(st.integers(0, 300 * KIB), st.integers(0, TIB)))
    reads = draw(st.one_of(st.just(0.0), st.floats(0.001, 20), st.floats(0.001, 1e5)))
    return book, Outlook(
        size_bytes=size_bytes,
        current_class=draw(st.sampled_from(book.class_names)),
        days_in_class=draw(st.floats(0, 800)),
        idle_days=draw(st.floats(0, 800)),
        reads=reads,
        read_bytes=reads * size_bytes * draw(st.sampled_from([1.0, 0.25, 0.0])),
        probability_any=draw(st.floats(0, 1)),
        horizon_days=draw(st.integers(1, 730)),
        deleted_share_year=draw(st.sampled_from([0.0, 0.1, 0.9])),
    )


@settings(max_examples=150)
@given(outlooks())
def test_arrays_equal_plain_arithmetic_when_an_object_is_priced_both_ways(case):
    book, outlook = case
    objects = objects_of(
        size_bytes=outlook.size_bytes,
        current_class=outlook.current_class,
        days_in_class=outlook.days_in_class,
        idle_days=outlook.idle_days,
        expected_reads=outlook.reads,
        expected_read_bytes=outlook.read_bytes,
        probability_any=outlook.probability_any,
    )
    decisions = decide(
        objects,
        book,
        settings=PolicySettings(horizon_days=outlook.horizon_days, deleted_share_year=outlook.deleted_share_year),
    )
    explained = [explain_cost(book, outlook, name) for name in book.class_names]
    np.testing.assert_allclose(
        decisions.candidate_usd[0], [parts.total_usd for parts in explained], rtol=1e-9, atol=1e-15
    )
    here, chosen = (
        book.code_of(outlook.current_class),
        book.code_of(decisions.chosen_class[0]),
    )
    month = 30 / outlook.horizon_days
    assert decisions.current_monthly_usd[0] == pytest.approx(explained[here].running_usd * month, rel=1e-9, abs=1e-15)
    assert decisions.one_time_usd[0] == pytest.approx(explained[chosen].one_time_usd, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_idle_days_equal_simulated_ones_when_reads_are_poisson(seed):
    rng = np.random.default_rng(seed)
    horizon, after, reads, idle = 180, int(rng.integers(5, 60)), float(rng.uniform(1, 12)), float(rng.uniform(0, 40))
    runs = 4000
    counts = rng.poisson(reads, runs)
    read_at = rng.uniform(0, horizon, (runs, counts.max()))
    read_at[np.arange(counts.max()) >= counts[:, None]] = horizon
    marks = np.concatenate([np.full((runs, 1), -idle), np.sort(read_at, axis=1), np.full((runs, 1), horizon)], axis=1)
    # idle from `after` days after each read on, within the horizon
    idle_from = np.maximum(marks[:, :-1] + after, 0.0)
    simulated = np.maximum(marks[:, 1:] - idle_from, 0.0).sum(axis=1)
    expected = idle_time_days(demand_of(MIB, reads, horizon), after, idle)[0]
    assert expected == pytest.approx(simulated.mean(), abs=5 * simulated.std() / np.sqrt(runs))


# --- storage ---------------------------------------------------------------------------------------------------------


def test_storage_counts_a_gb_as_two_to_the_thirty_when_priced():
    assert of(AWS, storage_usd_month(AWS, GIB), "STANDARD") == pytest.approx(0.023)


@pytest.mark.parametrize(
    ("storage_class", "billed_kib"), [("STANDARD_IA", 128), ("ONEZONE_IA", 128), ("GLACIER_IR", 128)]
)
def test_storage_bills_the_minimum_size_when_an_object_is_smaller(storage_class, billed_kib):
    small = of(AWS, storage_usd_month(AWS, 5 * KIB), storage_class)
    assert small == pytest.approx(of(AWS, storage_usd_month(AWS, billed_kib * KIB), storage_class))
    assert small == pytest.approx(billed_kib / 2**20 * AWS.prices_of(storage_class).storage_usd_gib_month)


def test_storage_bills_32_kib_here_and_8_kib_at_standard_when_in_an_s3_archive():
    month = of(AWS, storage_usd_month(AWS, 100 * KIB), "DEEP_ARCHIVE")
    assert month == pytest.approx((132 * 0.00099 + 8 * 0.023) / 2**20)


# --- `derived` of the price notes: computed there from the same values, without reads and early deletion -------------


@pytest.mark.parametrize(("storage_class", "reads_month"), [("STANDARD_IA", 1.05), ("GLACIER_IR", 0.63)])
def test_full_reads_break_even_as_derived_when_an_object_is_large(storage_class, reads_month):
    def month_usd(reads, name):
        return of(AWS, running_usd(AWS, demand_of(TIB, reads, 30)), name)

    assert month_usd(reads_month - 0.02, storage_class) < month_usd(reads_month - 0.02, "STANDARD")
    assert month_usd(reads_month + 0.02, storage_class) > month_usd(reads_month + 0.02, "STANDARD")


@pytest.mark.parametrize(
    ("storage_class", "kib"), [("STANDARD_IA", 69.6), ("GLACIER_IR", 22.3), ("GLACIER", 15.4), ("DEEP_ARCHIVE", 9.8)]
)
def test_size_crossover_is_as_derived_when_nobody_reads(storage_class, kib):
    below, above = (storage_usd_month(AWS, kib * KIB * factor) for factor in (0.99, 1.01))
    assert of(AWS, below, storage_class) > of(AWS, below, "STANDARD")
    assert of(AWS, above, storage_class) < of(AWS, above, "STANDARD")


def payback_months(book, move_usd, size_bytes, source, destination):
    month = storage_usd_month(book, size_bytes)
    return of(book, move_usd, destination) / (of(book, month, source) - of(book, month, destination))


@pytest.mark.parametrize(
    ("kib", "months"),
    [
        (128, {"STANDARD_IA": 7.8, "GLACIER_IR": 8.62, "GLACIER": 14.4, "DEEP_ARCHIVE": 20.15}),
        (256, {"STANDARD_IA": 3.9, "GLACIER_IR": 4.31, "GLACIER": 6.74, "DEEP_ARCHIVE": 9.68}),
        (512, {"STANDARD_IA": 1.95, "GLACIER_IR": 2.16, "GLACIER": 3.27, "DEEP_ARCHIVE": 4.74}),
        (1024, {"STANDARD_IA": 0.98, "GLACIER_IR": 1.08, "GLACIER": 1.61, "DEEP_ARCHIVE": 2.35}),
        (10240, {"STANDARD_IA": 0.1, "GLACIER_IR": 0.11, "GLACIER": 0.16, "DEEP_ARCHIVE": 0.23}),
    ],
)
def test_s3_payback_months_are_as_derived_when_lifecycle_moves_unread_objects(kib, months):
    move = lifecycle_move_usd(AWS, from_class(AWS, "STANDARD"))
    for storage_class, expected in months.items():
        computed = payback_months(AWS, move, kib * KIB, "STANDARD", storage_class)
        assert computed == pytest.approx(expected, abs=0.006), storage_class


@pytest.mark.parametrize(
    ("kib", "months", "rounding"),
    [
        (20, {"NEARLINE": 52, "COLDLINE": 66, "ARCHIVE": 139}, 0.6),
        (128, {"NEARLINE": 8.2, "COLDLINE": 10.2, "ARCHIVE": 21.8}, 0.06),
        (1024, {"NEARLINE": 1.0, "COLDLINE": 1.3, "ARCHIVE": 2.7}, 0.06),
    ],
)
def test_gcs_payback_months_are_as_derived_when_unread_objects_move(kib, months, rounding):
    move = client_move_usd(GCS, kib * KIB, from_class(GCS, "STANDARD"))
    for storage_class, expected in months.items():
        computed = payback_months(GCS, move, kib * KIB, "STANDARD", storage_class)
        assert computed == pytest.approx(expected, abs=rounding), storage_class


@pytest.mark.parametrize(("kib", "idle_from", "idle_to"), [(250.0, 30, 90), (138.0, 90, 10_000)])
def test_monitoring_breaks_even_as_derived_when_objects_sit_in_an_idle_tier(kib, idle_from, idle_to):
    def gain_of_a_day(size_kib):
        # a day in which the object has been idle for exactly that long, against the frequent tier without monitoring
        demand = demand_of(size_kib * KIB, 0.0, 1)
        frequent = of(AWS, storage_usd_month(AWS, size_kib * KIB), "INTELLIGENT_TIERING") / 30
        return frequent - of(AWS, holding_usd(AWS, demand, float(idle_from)), "INTELLIGENT_TIERING")

    assert idle_to > idle_from
    assert gain_of_a_day(kib * 0.99) < 0 < gain_of_a_day(kib * 1.01)


# --- Intelligent-Tiering ---------------------------------------------------------------------------------------------


def test_intelligent_tiering_charges_no_monitoring_when_objects_are_below_128_kib():
    small = holding_usd(AWS, demand_of(128 * KIB - 1, 0.0, 180))
    assert of(AWS, small, "INTELLIGENT_TIERING") == pytest.approx(of(AWS, small, "STANDARD"), rel=1e-12)


def test_intelligent_tiering_falls_to_its_idle_prices_when_nobody_reads():
    held = of(AWS, holding_usd(AWS, demand_of(GIB, 0.0, 180)), "INTELLIGENT_TIERING")
    assert held == pytest.approx(1 * 0.023 + 2 * 0.0125 + 3 * 0.004 + 6 * 2.5e-6)


def test_intelligent_tiering_counts_the_idle_time_before_when_the_object_is_already_there():
    held = of(AWS, holding_usd(AWS, demand_of(GIB, 0.0, 30), 90.0), "INTELLIGENT_TIERING")
    assert held == pytest.approx(0.004 + 2.5e-6)


# --- moves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("book", "source", "destination", "expected_usd"),
    [
        # S3 copy: PUT at the destination, GET and retrieval at the source
        (AWS, "STANDARD", "GLACIER_IR", 0.02e-3 + 0.0004e-3),
        (AWS, "GLACIER_IR", "STANDARD", 0.005e-3 + 0.01e-3 + 0.03),
        (AWS, "GLACIER", "STANDARD", 0.005e-3 + 0.0004e-3 + 0.05e-3 + 0.01 + 0.023 / 30),
        (AWS, "INTELLIGENT_TIERING", "STANDARD", 0.005e-3 + 0.0004e-3),
        # Set Blob Tier: a write of the destination down, a read of the source and retrieval up
        (AZURE, "Hot", "Cold", 0.18e-4),
        (AZURE, "Cold", "Hot", 0.1e-4 + 0.03),
        (AZURE, "Archive", "Hot", 5e-4 + 0.02),
        # rewrite: Class A at the destination, retrieval at the source
        (GCS, "STANDARD", "ARCHIVE", 0.05e-3),
        (GCS, "NEARLINE", "STANDARD", 0.005e-3 + 0.01),
        (GCS, "COLDLINE", "ARCHIVE", 0.05e-3 + 0.02),
    ],
)
def test_client_move_pays_what_its_provider_charges_when_a_gib_moves(book, source, destination, expected_usd):
    moved = client_move_usd(book, GIB, from_class(book, source))
    assert of(book, moved, destination) == pytest.approx(expected_usd)
    assert of(book, moved, source) == 0


def test_lifecycle_cannot_move_when_the_class_is_warmer():
    assert of(AWS, lifecycle_move_usd(AWS, from_class(AWS, "GLACIER_IR")), "STANDARD") == np.inf
    assert of(AWS, lifecycle_move_usd(AWS, from_class(AWS, "INTELLIGENT_TIERING")), "STANDARD_IA") == np.inf
    assert of(AWS, lifecycle_move_usd(AWS, from_class(AWS, "INTELLIGENT_TIERING")), "GLACIER_IR") == pytest.approx(2e-5)
    assert of(GCS, lifecycle_move_usd(GCS, from_class(GCS, "STANDARD")), "AUTOCLASS") == np.inf


@pytest.mark.parametrize(("days", "missing"), [(0, 90), (60, 30), (90, 0), (200, 0)])
def test_early_deletion_owes_the_missing_days_when_an_object_leaves(days, missing):
    owed = early_deletion_usd(AWS, GIB, from_class(AWS, "GLACIER_IR"), days)
    assert owed[0] == pytest.approx(0.004 * missing / 30)
    once = one_time_usd(AWS, GIB, from_class(AWS, "GLACIER_IR"), days)
    assert of(AWS, once, "STANDARD") == pytest.approx(0.005e-3 + 0.01e-3 + 0.03 + owed[0])
    assert of(AWS, once, "GLACIER_IR") == 0


# --- what no bill shows beforehand -----------------------------------------------------------------------------------


def test_coming_back_costs_nothing_when_no_read_is_expected():
    assert not coming_back_usd(AWS, demand_of(GIB, 0.0, 180)).any()


def test_coming_back_is_dearer_when_the_same_reads_come_in_bursts():
    even = coming_back_usd(AWS, demand_of(GIB, 2.0, 180, probability_any=1.0))
    bursts = coming_back_usd(AWS, demand_of(GIB, 2.0, 180, probability_any=0.1))
    assert of(AWS, bursts, "STANDARD_IA") > of(AWS, even, "STANDARD_IA") > 0
    assert of(AWS, bursts, "STANDARD") == of(AWS, bursts, "INTELLIGENT_TIERING") == 0


def test_coming_back_includes_the_early_deletion_when_minimum_days_outlast_half_the_horizon():
    # a burst of reads is certain: back after 90 of ARCHIVE's 365 days
    burst = coming_back_usd(GCS, demand_of(GIB, 10_000.0, 180))
    assert of(GCS, burst, "ARCHIVE") == pytest.approx(0.005e-3 + 0.05 + 0.0012 * 275 / 30, rel=1e-3)


def test_deleting_early_costs_more_when_the_minimum_days_are_longer():
    days = owed_days_of(GCS, from_class(GCS, "STANDARD"), 0.0)
    lost = deleted_too_early_usd(GCS, GIB, days, 0.10)
    assert of(GCS, lost, "STANDARD") == 0
    # 10 % a year: of 365 days 18.6 are expected to be paid for nothing
    assert of(GCS, lost, "ARCHIVE") == pytest.approx(0.0012 * 18.6 / 30, rel=0.005)
    assert 0 < of(GCS, lost, "NEARLINE") / 0.010 < of(GCS, lost, "COLDLINE") / 0.004 < of(GCS, lost, "ARCHIVE") / 0.0012
    assert not deleted_too_early_usd(GCS, GIB, days, 0.0).any()


# --- the edges -------------------------------------------------------------------------------------------------------


def test_running_month_is_of_thirty_days_when_the_horizon_is_longer():
    demand = demand_of([GIB, GIB], [6.0, 0.0], 180)
    month = running_month_usd(AWS, demand, AWS.codes_of(np.array(["STANDARD", "GLACIER_IR"], dtype=object)))
    np.testing.assert_allclose(month, [0.023 + 0.0004e-3, 0.004])


def test_reading_charges_requests_and_bytes_when_reads_are_partial():
    quarter = reading_usd(AWS, demand_of(GIB, 8.0, 30, read_bytes=2.0 * GIB))
    assert of(AWS, quarter, "GLACIER_IR") == pytest.approx(8 * 0.01e-3 + 2 * 0.03)


@pytest.mark.parametrize(
    ("column", "figures"),
    [
        ("reads", {"size_bytes": [1.0], "reads": [-1.0]}),
        ("size_bytes", {"size_bytes": [np.nan], "reads": [0.0]}),
        ("probability_any", {"size_bytes": [1.0], "reads": [0.0], "probability_any": [np.inf]}),
    ],
)
def test_demand_names_the_column_when_a_figure_is_impossible(column, figures):
    with pytest.raises(ValueError, match=column):
        demand_of(**figures, horizon_days=180)


@pytest.mark.parametrize(
    ("amount", "places", "expected"),
    [(43_400.0, 2, "43400.00"), (0.125, 2, "0.13"), (0.0000565, 6, "0.000057"), (-1.005, 2, "-1.01")],
)
def test_usd_rounds_half_up_when_money_is_reported(amount, places, expected):
    assert usd(amount, places) == Decimal(expected)
