"""Decisions by learnt states of use, and what owners may ask for: pinned classes, minimum retention."""

from __future__ import annotations

import numpy as np
import pytest
from unit.domain.placement_factories import GIB, KIB, MIB, objects_of

from cloudflux.domain.costs import one_time_usd
from cloudflux.domain.expected_life import expected_life
from cloudflux.domain.placement import solve_placement
from cloudflux.domain.policy import LearntUsage, OwnerLimits, allowed_classes, decide
from cloudflux.domain.prices import Latency
from cloudflux.domain.usage import UsageChain
from cloudflux.price_books import load_book

AWS = load_book("aws-us-east-1")
DEAD, COLD, BUSY = range(3)
CHAIN = UsageChain(
    unread=np.array([[1.0, 0.0, 0.0], [0.0, 0.99, 0.0], [0.0, 0.0, 0.02]]),
    read=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.01], [0.0, 0.01, 0.97]]),
    reads=np.array([0.0, 0.01, 4.0]),
    seen=np.full(3, 1000.0),
)


def usage_of(latency=Latency.MS, chain=CHAIN):
    allowed = allowed_classes(AWS, OwnerLimits(latency))
    classes = sorted({*allowed, "GLACIER"}, key=AWS.code_of)
    return LearntUsage(chain, solve_placement(chain, AWS, classes, horizon_days=180, by_client=True, may_enter=allowed))


USAGE = usage_of()


def test_class_follows_the_state_of_use_when_a_chain_was_learnt():
    decisions = decide(objects_of(3, size_bytes=GIB, usage_state=[DEAD, COLD, BUSY]), AWS, usage=USAGE)
    assert list(decisions.chosen_class[[DEAD, BUSY]]) == ["GLACIER_IR", "STANDARD"]
    assert decisions.moves[DEAD]
    assert not decisions.moves[BUSY]
    np.testing.assert_allclose(decisions.expected_reads, USAGE.expected_reads)
    assert decisions.expected_reads[BUSY] > decisions.expected_reads[COLD] > decisions.expected_reads[DEAD] == 0


def test_stated_costs_are_those_of_the_expected_life_when_an_object_is_placed_by_its_state():
    objects = objects_of(1, size_bytes=5 * MIB, usage_state=[COLD], days_in_class=12.0, idle_days=9.0)
    decisions = decide(objects, AWS, usage=USAGE)
    tables = USAGE.tables
    for name in ("STANDARD", "INTELLIGENT_TIERING", "STANDARD_IA", "GLACIER_IR"):
        life = expected_life(
            CHAIN, tables, size_bytes=5 * MIB, state=COLD, class_code=tables.class_names.index("STANDARD"),
            days_in_class=12, idle_days=9, target=tables.class_names.index(name),
        )  # fmt: skip
        assert decisions.candidate_usd[0, AWS.code_of(name)] == pytest.approx(life.total_usd, rel=1e-4)
    kept = expected_life(
        CHAIN, tables, size_bytes=5 * MIB, state=COLD, class_code=tables.class_names.index("STANDARD"),
        days_in_class=12, idle_days=9, target=tables.class_names.index("STANDARD"), stay=True,
    )  # fmt: skip
    assert decisions.stay_usd[0] == pytest.approx(kept.total_usd, rel=1e-4)
    assert decisions.saving_usd[0] == pytest.approx(decisions.stay_usd[0] - decisions.chosen_usd[0])


def test_move_pays_back_inside_the_horizon_when_one_is_decided():
    sizes = np.array([1 * KIB, 64 * KIB, 200 * KIB, 1 * MIB, 30 * MIB, 2 * GIB])
    decisions = decide(objects_of(len(sizes), size_bytes=sizes, usage_state=DEAD), AWS, usage=USAGE)
    moved = decisions.moves
    assert moved[-1]
    assert not moved[0]
    assert (decisions.payback_days[moved] <= 180).all()
    assert (decisions.saving_usd[moved] > 0).all()
    once = one_time_usd(AWS, sizes, np.zeros(len(sizes), dtype=np.intp), 400.0)
    chosen = AWS.codes_of(decisions.chosen_class)
    np.testing.assert_allclose(decisions.one_time_usd, once[np.arange(len(sizes)), chosen])


def test_rules_of_a_weak_forecast_hold_when_the_state_of_use_is_not_known():
    unknown = objects_of(2, size_bytes=GIB, usage_state=-1, from_rules=True, idle_days=3.0)
    with_chain, without = decide(unknown, AWS, usage=USAGE), decide(unknown, AWS)
    assert list(with_chain.chosen_class) == list(without.chosen_class)
    np.testing.assert_array_equal(with_chain.candidate_usd, without.candidate_usd)


def test_archive_is_left_for_and_never_entered_when_the_owner_wants_milliseconds():
    decisions = decide(
        objects_of(2, size_bytes=GIB, usage_state=[DEAD, BUSY], current_class="GLACIER"), AWS, usage=USAGE
    )
    assert decisions.chosen_class[1] == "STANDARD"
    ms = decide(objects_of(1, size_bytes=GIB, usage_state=DEAD), AWS, usage=USAGE)
    hours = decide(
        objects_of(1, size_bytes=GIB, usage_state=DEAD), AWS, OwnerLimits(Latency.HOURS), usage=usage_of(Latency.HOURS)
    )
    assert (ms.chosen_class[0], hours.chosen_class[0]) == ("GLACIER_IR", "DEEP_ARCHIVE")


def test_pinned_object_goes_to_its_class_when_that_costs_more():
    objects = objects_of(2, size_bytes=GIB, usage_state=DEAD, pinned_class=["STANDARD_IA", "STANDARD"])
    decisions = decide(objects, AWS, usage=USAGE)
    assert list(decisions.chosen_class) == ["STANDARD_IA", "STANDARD"]
    assert list(decisions.moves) == [True, False]
    assert decisions.reason[0] == "move STANDARD -> STANDARD_IA: pinned there by its owner"
    assert decisions.reason[1] == "keep STANDARD: pinned there by its owner"
    assert np.isfinite(decisions.chosen_usd).all()


def test_pinned_object_stays_when_it_is_locked_or_retained():
    objects = objects_of(2, pinned_class="GLACIER_IR", lock_reason=["legal hold", None], retained=[False, True])
    decisions = decide(objects, AWS, usage=USAGE)
    assert not decisions.moves.any()
    assert "legal hold" in decisions.reason[0]
    assert "minimum retention" in decisions.reason[1]


def test_all_chunks_are_decided_alike_when_there_are_more_objects_than_one_chunk_holds():
    count = 140_000
    decisions = decide(objects_of(count, size_bytes=GIB, usage_state=DEAD), AWS, usage=USAGE)
    assert decisions.moves.all()
    assert len(decisions) == count
