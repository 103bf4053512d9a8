"""Quiet hours, an expired plan, a hold-out, tags and canaries keep moves from being made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from unit.workflows.migrate.world import AT, TO_CLASS, Scripted, World, a_plan, planned

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.migrations import (
    ChangeOutcome,
    MigrationState,
)
from cloudflux.domain.objects import ObjectState
from cloudflux.domain.plans import MoveRole, PlannedMove, PlanState
from cloudflux.domain.quiet_hours import QuietHours
from cloudflux.domain.tiers import Provider
from cloudflux.workflows import migrate


def test_nothing_begins_in_quiet_hours(world: World) -> None:
    quiet = QuietHours.parse("23:00-05:30")
    world.plans.plan = a_plan(5, guardrails=replace(a_plan(5).guardrails, quiet_hours=quiet))
    until = AT.replace(hour=5, minute=30)
    assert world.mover().carry_out("plan", 0, 4) == migrate.RangeProgress({}, 0, 0, until)
    assert world.ledger.entries == []
    world.now = until
    assert world.mover().carry_out("plan", 0, 4).ended == {"done": 5}


def test_only_what_has_begun_goes_on_when_the_plan_has_expired(world: World) -> None:
    world.mover(Scripted(world, outcomes={0: ChangeOutcome.RESTORING})).carry_out("plan", 0, 1)
    world.now = AT + timedelta(days=14)
    with pytest.raises(TerminalError, match="1 of 5 moves are unsettled"):
        world.close()
    assert world.mover().carry_out("plan", 0, 4).ended == {"done": 1}
    assert world.close() == {"done": 2, "cancelled": 3}
    assert world.plans.current is PlanState.EXPIRED
    assert world.classes()[TO_CLASS[world.provider]] == 2


def test_what_is_held_out_never_moves(world: World) -> None:
    moves = [planned(number, world.client.head(ref)) for number, ref in enumerate(world.refs)]
    world.plans._moves = [replace(move, role=MoveRole.HOLD_OUT) if move.move_no == 4 else move for move in moves]
    assert world.mover().carry_out("plan", 0, 4).ended == {"done": 4}
    assert world.client.head(world.refs[4]).storage_class != TO_CLASS[world.provider]
    world.plans.plan = a_plan(4)
    assert world.close() == {"done": 4}


@pytest.mark.parametrize(
    ("limits", "moved"),
    [
        ({"excluded_tags": ("keep",)}, {0, 2, 3, 4}),
        ({"excluded_tags": ("team=legal", "keep=no")}, {0, 1, 3, 4}),
        ({"allowed_tags": ("team", "keep=yes")}, {1, 2}),
        ({"allowed_tags": ("team=red",)}, set()),
        ({"allowed_tags": ("team",), "excluded_tags": ("team=legal",)}, set()),
    ],
)
def test_tags_decide_when_the_guardrails_name_them(limits: dict[str, Any], moved: set[int]) -> None:
    world = World(Provider.AWS)
    for number, tags in ((1, {"keep": "yes"}), (2, {"team": "legal"})):
        world.client.put_object(
            world.refs[number], world.refs[number].key.encode(), tags=tags, metadata={"owner": "me"}
        )
    world.plans.plan = a_plan(5, guardrails=replace(a_plan(5).guardrails, **limits))
    world.mover().carry_out("plan", 0, 4)
    states = world.ledger.states("plan")
    assert {number for number, (state, _) in states.items() if state is MigrationState.DONE} == moved
    assert all("tag" in detail for state, detail in states.values() if state is MigrationState.SKIPPED)


def test_what_is_objected_to_is_skipped_with_that_reason(world: World) -> None:
    def objection_to(move: PlannedMove, now: ObjectState) -> str | None:
        assert now.ref.key == move.ref.key
        return "it would be archived" if move.move_no == 3 else None

    assert world.mover(objection_to=objection_to).carry_out("plan", 0, 4).ended == {"done": 4, "skipped": 1}
    assert world.ledger.states("plan")[3] == (MigrationState.SKIPPED, "it would be archived")
    assert world.client.head(world.refs[3]).storage_class != TO_CLASS[world.provider]


class TestCanaries:
    def judged(self, world: World, states: Sequence[MigrationState]) -> dict[str, int]:
        world.plans.plan = a_plan(5, totals=replace(a_plan(5).totals, canaries=2))
        for number, state in enumerate(states):
            path = (
                [MigrationState.SUBMITTED, MigrationState.VERIFYING, state]
                if state in (MigrationState.DONE, MigrationState.FAILED)
                else [state]
            )
            move = world.plans.moves("plan", number, number)[0]
            world.ledger.append(
                [migrate.ledger_entry("plan", move, each, at=AT, actor="test", detail=f"so {each}") for each in path]
            )
        return migrate.judge_canaries(world.plans, world.ledger, plan_id="plan", actor="test", clock=lambda: world.now)

    def test_the_rest_may_move_when_they_went_well(self, world: World) -> None:
        assert self.judged(world, [MigrationState.DONE, MigrationState.SKIPPED]) == {"done": 1, "skipped": 1}
        assert world.plans.current is PlanState.APPROVED

    @pytest.mark.parametrize("second", [MigrationState.FAILED, MigrationState.SKIPPED])
    def test_the_plan_is_halted_when_they_did_not(self, world: World, second: MigrationState) -> None:
        first = MigrationState.DONE if second is MigrationState.FAILED else MigrationState.SKIPPED
        with pytest.raises(TerminalError, match="halted"):
            self.judged(world, [first, second])
        assert world.plans.current is PlanState.HALTED
        assert world.plans.note
        with pytest.raises(TerminalError, match="not approved"):
            world.mover().carry_out("plan", 2, 4)
        assert world.close()["cancelled"] == 3
        assert world.plans.current is PlanState.HALTED

    def test_the_rest_does_not_begin_when_the_plan_expired_before_they_did(self, world: World) -> None:
        world.now = AT + timedelta(days=14)
        with pytest.raises(TerminalError, match="expired, and 2 of 2 canary moves are unsettled"):
            self.judged(world, [])
        assert world.close() == {"cancelled": 5}
        assert world.plans.current is PlanState.EXPIRED

    def test_nothing_is_decided_when_one_is_unsettled(self, world: World) -> None:
        with pytest.raises(TerminalError, match="1 of 2 canary moves are unsettled"):
            self.judged(world, [MigrationState.DONE])
        assert world.plans.current is PlanState.APPROVED
