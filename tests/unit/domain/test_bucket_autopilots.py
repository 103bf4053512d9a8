"""What being under a bucket's autopilot is expected to cost, beside the placement's tables; when it is proposed."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import numpy as np
import pytest

from cloudflux.domain.accounting import tariff_of
from cloudflux.domain.bucket_autopilots import (
    AutopilotProposal,
    autopilot_life,
    proposed,
    settable_autopilot,
)
from cloudflux.domain.placement import solve_placement
from cloudflux.domain.prices import GIB_BYTES
from cloudflux.domain.usage import UsageChain
from cloudflux.price_books import load_book

AWS, AZURE, GCS = (load_book(name) for name in ("aws-us-east-1", "azure-eastus-lrs", "gcs-us-central1"))
ZRS = replace(AZURE, name="azure-eastus-zrs", redundancy="ZRS")
CHAIN = UsageChain(
    unread=np.array([[0.97, 0.02, 0.0], [0.0, 0.9, 0.05], [0.0, 0.0, 0.995]]),
    read=np.array([[0.01, 0.0, 0.0], [0.05, 0.0, 0.0], [0.005, 0.0, 0.0]]),
    reads=np.array([0.02, 0.07, 0.005]),
    seen=np.full(3, 1000.0),
)


def a_proposal(**overrides):
    known = {
        "provider": "gcp",
        "scope": "bucket",
        "setting_of": "data",
        "buckets": ("data",),
        "storage_class": "AUTOCLASS",
        "price_book": "gcs-us-central1",
        "day": date(2026, 6, 1),
        "horizon_days": 180,
        "objects": 1000,
        "bytes": 10**12,
        "present_usd": Decimal(120),
        "own_usd": Decimal(100),
        "own_usd_month": Decimal(16),
        "switched_usd": Decimal("97.5"),
        "switched_usd_month": Decimal(15),
        "entry_usd": Decimal(5),
        "monitoring_usd_month": Decimal(1),
        "outside": 0,
        "by_rules": 0,
        "kept_by_owner": 0,
        "problems": (),
    }
    return AutopilotProposal(**(known | overrides))


@pytest.mark.parametrize("book", [ZRS, GCS], ids=["azure", "gcs"])
@pytest.mark.parametrize("lost", [0.0, 0.3])
@pytest.mark.parametrize("horizon", [20, 180])
def test_expected_cost_is_the_placements_for_the_class_alone(book, lost, horizon):
    code = settable_autopilot(book)
    name = book.class_names[code]
    sizes = np.array([1000.0, 200_000.0, 5.0 * GIB_BYTES])
    tariff = tariff_of(book, sizes, by_client=True)
    life = autopilot_life(CHAIN, tariff.autopilots[code], horizon, deleted_share_year=lost)
    tables = solve_placement(CHAIN, book, (name,), horizon_days=horizon, deleted_share_year=lost, by_client=True)
    nothing = np.zeros(3)
    for state in range(3):
        wanted = tables.expected_usd(np.full(3, state), sizes, np.zeros(3, np.intp), nothing, nothing)[:, 0]
        autopilot = tariff.autopilots[code]
        watched = autopilot.watched * 1.0
        found = (
            sizes / GIB_BYTES * life.storage_usd_gib[state] * watched
            + tariff.storage_usd_day[:, code] * life.days * (1 - watched)
            + autopilot.monitoring_usd_day * life.days
            + watched * autopilot.promotion_usd * life.promotions[state]
            + life.reads[state] * tariff.request_usd[code]
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_autopilot_is_one_only_where_it_is_a_setting_and_offered():
    assert settable_autopilot(AWS) is None, "Intelligent-Tiering is a class of the object"
    assert settable_autopilot(AZURE) is None, "smart tier is for zone-redundant accounts"
    assert ZRS.class_names[settable_autopilot(ZRS)] == "Smart"
    assert GCS.class_names[settable_autopilot(GCS)] == "AUTOCLASS"


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({}, True),
        ({"switched_usd": Decimal("97.51")}, False),
        ({"problems": ("data: withheld",)}, False),
        ({"own_usd": Decimal(0), "switched_usd": Decimal(0)}, False),
        ({"objects": 0}, False),
    ],
)
def test_it_is_proposed_when_it_is_cheaper_by_two_and_a_half_per_cent_and_nothing_is_unknown(overrides, wanted):
    assert a_proposal(**overrides).is_proposed is wanted


def test_proposals_say_what_they_compare_and_the_largest_saving_comes_first():
    small, large, none = (
        a_proposal(),
        a_proposal(setting_of="more", own_usd=Decimal(1000), switched_usd=Decimal(900)),
        a_proposal(setting_of="off", switched_usd=Decimal(99)),
    )
    assert proposed([small, none, large]) == [large, small]
    assert small.described() == (
        "switch on AUTOCLASS for bucket data (gcp): $97.50 in 180 days, $5.00 of it once, against $100.00 with a class "
        "for each object (-2.5%); decided 2026-06-01, for 1,000 objects"
    )
    assert none.described().startswith("leave AUTOCLASS for bucket off (gcp) off: $99.00")
    assert "is not weighed: data: nothing is known" in a_proposal(problems=("data: nothing is known",)).described()
