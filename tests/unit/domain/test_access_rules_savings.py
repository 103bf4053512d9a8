from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from cloudflux.domain.access import AccessBand, band_codes, band_of
from cloudflux.domain.rules import CLASS_OF_TIER, classify
from cloudflux.domain.savings import SavingsBasis, projected_savings, realised_savings
from cloudflux.domain.tiers import Provider, tier_of


@pytest.mark.parametrize(
    ("reads", "band"),
    [
        (0, "archive"),
        (0.99, "archive"),
        (1, "cold"),
        (4, "cold"),
        (4.99, "cold"),
        (5, "warm"),
        (100, "warm"),
        (100.5, "hot"),
    ],
)
def test_band_follows_the_reads_when_a_month_is_given(reads, band):
    assert band_of([reads]).tolist() == [AccessBand(band)]


def test_bands_keep_their_order_when_many_are_sorted():
    assert band_codes([500, 50, 2, 0]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("reads", [[-1.0], [np.nan]])
def test_band_is_refused_when_reads_are_impossible(reads):
    with pytest.raises(ValueError, match="at least 0"):
        band_of(reads)


@pytest.mark.parametrize(
    ("accesses", "idle", "latency", "tier", "words"),
    [
        (101, 0, None, "hot", "101 accesses a month (more than 100)"),
        (100, 0, None, "warm", "100 accesses a month (more than 10), seen within 30 days"),
        (11, 30, None, "warm", "seen within 30 days"),
        (11, 31, None, "warm", "no other rule applies"),
        (10, 0, None, "warm", "no other rule applies"),
        (5, 89, None, "warm", "no other rule applies"),
        (4, 0, None, "cold", "4 accesses a month (fewer than 5)"),
        (5, 90, None, "cold", "unseen for 90 days"),
        (200, 120, None, "hot", "more than 100"),
        (0, np.inf, None, "cold", "never seen"),
        (0, np.nan, None, "cold", "never seen"),
        (0, 400, 99, "hot", "within 99 ms"),
        (0, 400, 100, "cold", "unseen for 400 days"),
    ],
)
def test_rules_choose_the_tier_when_accesses_idleness_and_latency_are_known(accesses, idle, latency, tier, words):
    ruled = classify([accesses], [idle], None if latency is None else [latency])
    assert ruled.tiers.tolist() == [tier]
    assert words in ruled.reasons[0]
    assert ruled.reasons[0].startswith(f"{tier}:")


def test_rules_answer_in_order_when_objects_are_many():
    ruled = classify([500, 20, 0, 7], [0, 3, 200, 40])
    assert ruled.tiers.tolist() == ["hot", "warm", "cold", "warm"]
    assert ruled.storage_classes(Provider.AWS).tolist() == ["STANDARD", "STANDARD_IA", "GLACIER_IR", "STANDARD_IA"]
    assert ruled.storage_classes(Provider.AZURE).tolist() == ["Hot", "Cool", "Cold", "Cool"]
    assert ruled.storage_classes(Provider.GCP).tolist() == ["STANDARD", "NEARLINE", "COLDLINE", "NEARLINE"]


def test_rules_give_nothing_when_there_are_no_objects():
    assert len(classify([], []).reasons) == 0


def test_class_of_a_tier_belongs_to_that_tier_when_looked_up():
    for provider, classes in CLASS_OF_TIER.items():
        for tier, storage_class in classes.items():
            assert tier_of(provider, storage_class) == tier


def test_savings_are_given_by_month_percent_and_year_when_costs_fall():
    savings = projected_savings(Decimal("120.00"), Decimal("80.00"), Decimal("100.00"))
    assert savings.basis == SavingsBasis.PROJECTED
    assert savings.monthly_usd == Decimal("40.00")
    assert savings.percent == Decimal("33.33")
    assert savings.annual_usd == Decimal("480.00")
    assert savings.first_year_usd == Decimal("380.00")
    assert savings.payback_months == Decimal("2.50")


def test_savings_are_negative_and_never_pay_back_when_costs_rise():
    savings = realised_savings(Decimal(10), Decimal(12), Decimal(1))
    assert savings.basis == SavingsBasis.REALISED
    assert (savings.monthly_usd, savings.percent, savings.payback_months) == (Decimal(-2), Decimal("-20.00"), None)


def test_savings_are_zero_percent_when_nothing_was_paid_before():
    assert projected_savings(Decimal(0), Decimal(0), Decimal(0)).percent == 0
