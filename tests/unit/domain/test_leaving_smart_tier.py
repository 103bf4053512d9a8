"""Blobs that may leave Azure's smart tier: who does, what is stated and charged for it, and that it is for good."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.domain.placement_factories import GIB, KIB, objects_of

from cloudflux.domain.accounting import LONG_HELD_DAYS, MOVES, Account, tariff_of
from cloudflux.domain.placement import solve_placement
from cloudflux.domain.policy import LearntUsage, OwnerLimits, allowed_classes, decide
from cloudflux.domain.prices import Latency
from cloudflux.domain.usage import UsageChain
from cloudflux.price_books import load_book

AZURE, GCS = load_book("azure-eastus-lrs"), load_book("gcs-us-central1")
LEAVE = OwnerLimits(leave_autopilot=True)
DEAD, BUSY, MONTHLY = range(3)
CHAIN = UsageChain(
    unread=np.diag([1.0, 0.02, 0.97]),
    read=np.diag([0.0, 0.98, 0.03]),
    reads=np.array([0.0, 4.0, 0.03]),
    seen=np.full(3, 1000.0),
)
HORIZON = 180


def usage_of(limits: OwnerLimits = LEAVE) -> LearntUsage:
    allowed = allowed_classes(AZURE, limits)
    classes = sorted({*allowed, "Smart"}, key=AZURE.code_of)
    tables = solve_placement(CHAIN, AZURE, classes, horizon_days=HORIZON, by_client=True, may_enter=allowed)
    return LearntUsage(CHAIN, tables)


USAGE = usage_of()


def in_smart_tier(count=1, **overrides):
    return objects_of(count, **({"size_bytes": GIB, "current_class": "Smart", "idle_days": 20.0} | overrides))


def test_a_blob_leaves_smart_tier_for_good_when_its_owner_allows_it_and_nobody_reads_it():
    decisions = decide(in_smart_tier(3, usage_state=[DEAD, BUSY, MONTHLY]), AZURE, LEAVE, usage=USAGE)
    # what is read daily saves the fee for being watched
    assert list(decisions.chosen_class) == ["Cold", "Hot", "Smart"]
    assert decisions.reason[0].startswith(
        "move Smart -> Cold, leaves smart tier for good: 0 reads expected in 180 days"
    )
    assert decisions.reason[2].startswith("keep Smart: ")
    assert decisions.one_time_usd.tolist()[:2] == [AZURE.prices_of("Cool").write_usd] * 2


def test_a_blob_stays_when_its_owner_does_not_say_that_it_may_leave():
    for limits in (None, OwnerLimits(Latency.HOURS)):
        decisions = decide(in_smart_tier(usage_state=DEAD), AZURE, limits, usage=USAGE)
        assert not decisions.moves[0]
        assert "setting of the account or bucket" in decisions.reason[0]


def test_nothing_leaves_autoclass_whatever_its_owner_allows():
    decisions = decide(objects_of(size_bytes=GIB, current_class="AUTOCLASS"), GCS, LEAVE)
    assert not decisions.moves[0]
    assert "setting of the account or bucket" in decisions.reason[0]


@pytest.mark.parametrize("name", ["Hot", "Cool", "Cold"])
def test_a_blob_with_a_tier_of_its_own_is_placed_among_those_and_never_into_smart_tier(name):
    objects = in_smart_tier(2, current_class=name, usage_state=[DEAD, BUSY])
    decisions = decide(objects, AZURE, LEAVE, usage=USAGE)
    assert not decisions.weighed[:, AZURE.code_of("Smart")].any()
    assert list(decisions.chosen_class) == ["Cold", "Hot"]
    assert not any("smart tier" in reason for reason in decisions.reason)
    pinned = decide(replace(objects, pinned_class=np.array(["Smart", None], dtype=object)), AZURE, LEAVE, usage=USAGE)
    assert not (pinned.chosen_class == "Smart").any()


def test_archive_is_no_class_of_an_account_with_smart_tier():
    hours = OwnerLimits(Latency.HOURS, leave_autopilot=True)
    assert "Archive" in allowed_classes(AZURE, OwnerLimits(Latency.HOURS))
    assert allowed_classes(AZURE, hours) == ("Hot", "Cool", "Cold")
    pinned = decide(in_smart_tier(usage_state=DEAD, pinned_class="Archive"), AZURE, hours, usage=usage_of(hours))
    assert pinned.chosen_class[0] != "Archive"


@pytest.mark.parametrize("weak", [{"from_rules": True}, {"confidence": 0.1}])
def test_a_blob_stays_when_the_forecast_is_weak_because_it_could_not_come_back(weak):
    assert decide(in_smart_tier(), AZURE, LEAVE).chosen_class[0] == "Cold"
    decisions = decide(in_smart_tier(**weak), AZURE, LEAVE)
    assert not decisions.moves[0]
    assert "too weak" in decisions.reason[0]


def test_a_blob_stays_when_break_even_decides_for_it():
    opened = np.zeros((1, len(AZURE.classes)), dtype=np.bool_)
    opened[0, [AZURE.code_of("Smart"), AZURE.code_of("Cold")]] = True
    assert not decide(replace(in_smart_tier(), break_even_opens=opened), AZURE, LEAVE).moves[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"excluded": True}, "excluded"),
        ({"lock_reason": "legal hold"}, "locked"),
        ({"retained": True}, "younger"),
        ({"pinned_class": "Smart"}, "pinned there"),
    ],
)
def test_a_blob_stays_when_its_owner_or_a_lock_keeps_it(overrides, words):
    decisions = decide(in_smart_tier(usage_state=DEAD, **overrides), AZURE, LEAVE, usage=USAGE)
    assert not decisions.moves[0]
    assert words in decisions.reason[0]


def test_a_pinned_blob_leaves_for_its_class_and_says_that_it_is_for_good():
    decisions = decide(in_smart_tier(pinned_class="Hot"), AZURE, LEAVE)
    assert decisions.reason.tolist() == ["move Smart -> Hot, leaves smart tier for good: pinned there by its owner"]


@settings(max_examples=60)
@given(
    st.one_of(st.integers(1, 300 * KIB), st.integers(1, 2**40)),
    st.integers(0, 200),
    st.integers(0, 200),
)
def test_what_is_stated_is_what_the_cost_engine_charges_when_a_blob_leaves(size, held, idle):
    """Of what is never read nothing is left to chance: each choice costs what its days are charged."""
    objects = in_smart_tier(size_bytes=size, days_in_class=float(held), idle_days=float(idle), usage_state=DEAD)
    tables = solve_placement(
        CHAIN, AZURE, ("Hot", "Smart", "Cool", "Cold"), horizon_days=HORIZON, by_client=True, may_enter=()
    )
    decisions = decide(objects, AZURE, LEAVE, usage=LearntUsage(CHAIN, tables))
    tariff, only = tariff_of(AZURE, [size], by_client=True), np.array([0])
    for name in ("Hot", "Smart", "Cool", "Cold"):
        code = AZURE.code_of(name)
        account = Account(tariff, AZURE.code_of("Smart"), LONG_HELD_DAYS, min(held, idle))
        account.move(only, np.array([code]))
        if name != "Smart":
            assert account.total_usd == account.usd[0, MOVES] == pytest.approx(AZURE.prices_of("Cool").write_usd)
        for _ in range(HORIZON):
            account.pass_day(only, only[:0], [])
        assert decisions.candidate_usd[0, code] == pytest.approx(account.total_usd, rel=1e-4)
        if decisions.chosen_class[0] == name:
            assert decisions.chosen_usd[0] == pytest.approx(account.total_usd, rel=1e-4)
