"""Submit, verify and close: what is moved, skipped and recorded, and what a killed attempt leaves behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from unit.workflows.migrate.world import AT, TO_CLASS, Plans, Scripted, World, a_plan, planned

from cloudflux.domain.errors import TerminalError, TransientError
from cloudflux.domain.migrations import (
    ChangeOutcome,
    MigrationState,
    RestoreOrder,
    TierChange,
    TierChangeResult,
)
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.plans import (
    PlanState,
)
from cloudflux.domain.tiers import Provider
from cloudflux.workflows import migrate


def test_all_moves_are_done_when_nothing_interferes(world: World) -> None:
    assert world.submit() == {"verifying": 5}
    assert world.verify() == {"done": 5}
    assert world.close() == {"done": 5}
    assert world.classes() == {TO_CLASS[world.provider]: 5}
    assert world.plans.current is PlanState.FINISHED
    by_state = Counter(entry.state for entry in world.ledger.entries)
    assert by_state == {MigrationState.SUBMITTED: 5, MigrationState.VERIFYING: 5, MigrationState.DONE: 5}


@pytest.mark.parametrize("state", [state for state in PlanState if state is not PlanState.APPROVED])
def test_nothing_moves_when_the_plan_is_not_approved(world: World, state: PlanState) -> None:
    world.plans.current = state
    with pytest.raises(TerminalError, match="not approved"):
        world.submit()
    assert TO_CLASS[world.provider] not in world.classes()
    assert world.ledger.entries == []


def test_changed_objects_are_skipped_with_the_reason_and_the_rest_goes_through(world: World) -> None:
    world.client.delete_object(world.refs[0])
    world.client.put_object(world.refs[1], b"other content")
    world.client.lock(world.refs[2], "legal hold")
    world.submit()
    world.verify()
    assert world.close() == {"skipped": 3, "done": 2}
    details = {number: detail for number, (_, detail) in world.ledger.states("plan").items()}
    assert details[0] == "deleted since the plan"
    assert details[1] == "overwritten since the plan"
    assert details[2] == "locked: legal hold"
    assert world.client.get_object(world.refs[1]) == b"other content"
    assert world.client.head(world.refs[1]).storage_class != TO_CLASS[world.provider]


def test_overwriting_between_look_and_move_is_skipped_when_the_provider_refuses(world: World) -> None:
    class Racing:
        capabilities = world.client.capabilities

        def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
            found = world.client.head_many(refs)
            world.client.put_object(world.refs[3], b"written in between")
            return found

        def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
            return world.client.change_tiers(changes)

    assert world.submit(Racing()) == {"verifying": 4, "skipped": 1}
    assert world.ledger.states("plan")[3][1].startswith("overwritten since the plan")
    assert world.client.get_object(world.refs[3]) == b"written in between"


@pytest.mark.parametrize("records_written", [0, 1])
def test_second_attempt_finishes_when_the_first_was_cut_off(world: World, records_written: int) -> None:
    world.ledger.fail_after = records_written
    with pytest.raises(TransientError):
        world.submit()
    # With no record written nothing may have moved; with the intents written everything has.
    assert world.classes()[TO_CLASS[world.provider]] == 5 * records_written
    world.ledger.fail_after = None
    assert world.submit() == {"verifying": 5}
    assert world.verify() == {"done": 5}
    assert world.close() == {"done": 5}


def test_third_party_change_after_a_cut_off_attempt_is_skipped(world: World) -> None:
    world.ledger.fail_after = 1
    with pytest.raises(TransientError):
        world.submit()
    world.ledger.fail_after = None
    to_class = TO_CLASS[world.provider]
    world.client.put_object(world.refs[4], b"other", storage_class=to_class, content_type="text/plain")
    assert world.submit() == {"verifying": 4, "skipped": 1}
    assert world.verify() == {"done": 4}
    assert world.ledger.states("plan")[4][1].startswith("overwritten since the plan")
    assert world.client.get_object(world.refs[4]) == b"other"


def test_repetition_changes_nothing_when_all_is_done(world: World) -> None:
    world.submit()
    world.verify()
    entries = list(world.ledger.entries)
    assert world.submit() == {}
    assert world.verify() == {}
    assert world.mover().carry_out("plan", 0, 4) == migrate.RangeProgress({}, 0, 0, None)
    assert world.ledger.entries == entries


def test_verification_fails_when_metadata_was_lost(world: World) -> None:
    world.submit()
    content = world.client.get_object(world.refs[0])
    world.client.put_object(
        world.refs[0], content, storage_class=TO_CLASS[world.provider], content_type="text/plain", metadata={}
    )
    assert world.verify() == {"done": 4, "failed": 1}
    assert "metadata 'owner'" in world.ledger.states("plan")[0][1]
    assert world.close() == {"done": 4, "failed": 1}


def test_plan_cannot_be_closed_when_a_move_is_unsettled(world: World) -> None:
    world.submit()
    with pytest.raises(TerminalError, match="5 of 5 moves are unsettled"):
        world.close()
    assert world.plans.current is PlanState.APPROVED


def test_foreign_move_is_skipped_when_somebody_else_changed_the_class(world: World) -> None:
    other = {Provider.AWS: "STANDARD_IA", Provider.AZURE: "Cool", Provider.GCP: "NEARLINE"}[world.provider]
    state = world.client.head(world.refs[0])
    world.client.change_tiers([TierChange(state, other)])
    assert world.submit()["skipped"] == 1
    assert world.client.head(world.refs[0]).storage_class == other


def test_what_was_and_what_is_are_on_the_record_with_the_cost(world: World) -> None:
    before = world.client.head(world.refs[0])
    mover = world.mover(
        costs_of=lambda moves, seen, at: [Decimal("0.5") if (seen, at) == ([before], AT) else None for _ in moves]
    )
    mover.carry_out("plan", 0, 0)
    submitted, verifying, done = world.ledger.entries
    assert submitted.object_state == before
    assert verifying.object_state is None
    assert done.object_state == world.client.head(world.refs[0])
    assert done.etag == done.object_state.etag
    assert (submitted.cost_usd, done.cost_usd) == (None, Decimal("0.5"))


def test_an_object_that_may_not_be_seen_fails_alone(world: World) -> None:
    denied = Unseen(world.refs[1], "access denied", passing=False)
    progress = world.mover(Scripted(world, looks={1: denied})).carry_out("plan", 0, 4)
    assert progress.ended == {"done": 4, "failed": 1}
    assert world.ledger.states("plan")[1] == (MigrationState.FAILED, "not to be seen: access denied")


def test_what_is_not_served_now_stays_open_and_goes_on_in_the_next_call(world: World) -> None:
    busy = Unseen(world.refs[1], "slow down", passing=True)
    client = Scripted(world, looks={1: busy}, outcomes={2: ChangeOutcome.UNAVAILABLE})
    assert world.mover(client).carry_out("plan", 0, 4) == migrate.RangeProgress({"done": 3}, 0, 2, None)
    assert 1 not in world.ledger.states("plan")
    assert world.ledger.states("plan")[2][0] is MigrationState.SUBMITTED
    with pytest.raises(TerminalError, match="2 of 5 moves are unsettled"):
        world.close()
    assert world.mover().carry_out("plan", 0, 4) == migrate.RangeProgress({"done": 2}, 0, 0, None)


def test_an_object_that_cannot_be_looked_at_afterwards_is_verified_later(world: World) -> None:
    world.submit()
    busy = Unseen(world.refs[0], "slow down", passing=True)
    assert world.mover(Scripted(world, looks={0: busy})).verify("plan", 0, 4).unavailable == 1
    assert world.verify() == {"done": 1}


@pytest.mark.parametrize("outcome", [ChangeOutcome.PENDING, ChangeOutcome.RESTORING])
def test_moves_wait_while_the_provider_is_at_work(world: World, outcome: ChangeOutcome) -> None:
    order = RestoreOrder("bulk", 2)
    client = Scripted(world, outcomes={3: outcome})
    mover = world.mover(client, restore_of=lambda move: order if move.move_no == 3 else None)
    assert mover.carry_out("plan", 0, 4) == migrate.RangeProgress({"done": 4}, 1, 0, None)
    assert [change.restore for change in client.changes] == [None, None, None, order, None]
    assert mover.carry_out("plan", 0, 4) == migrate.RangeProgress({}, 1, 0, None)
    assert world.mover().carry_out("plan", 0, 4) == migrate.RangeProgress({"done": 1}, 0, 0, None)


def test_the_change_carries_what_was_first_seen_when_an_attempt_is_repeated(world: World) -> None:
    first = world.client.head(world.refs[0])
    world.mover(Scripted(world, outcomes={0: ChangeOutcome.UNAVAILABLE})).submit("plan", 0, 0)
    world.client.change_tiers([TierChange(first, TO_CLASS[world.provider])])  # as a killed attempt would
    client = Scripted(world)
    world.mover(client).carry_out("plan", 0, 0)
    (change,) = client.changes
    assert change.seen == first
    assert change.now == world.client.head(world.refs[0])
    assert world.ledger.states("plan")[0][0] is MigrationState.DONE


def test_nothing_is_looked_at_again_that_the_provider_told_with_its_answer(world: World) -> None:
    class Telling(Scripted):
        looks = 0

        def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
            self.looks += len(refs)
            return super().head_many(refs)

        def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
            found = super().change_tiers(changes)
            told = [world.client.head(result.ref) for result in found]
            told[4] = replace(told[4], metadata={})  # as if the move had lost it
            return [
                replace(result, after=state, request_id=f"request {number}", detail="told")
                for number, (result, state) in enumerate(zip(found, told, strict=True))
            ]

    client = Telling(world)
    assert world.mover(client).carry_out("plan", 0, 4).ended == {"done": 4, "failed": 1}
    assert client.looks == 5
    assert "metadata 'owner'" in world.ledger.states("plan")[4][1]
    # verified before the change was recorded: its answer stands with its end
    recorded = [entry for entry in world.ledger.entries if entry.move_no in (0, 4)]
    assert [(entry.move_no, entry.state.value, entry.request_id) for entry in recorded] == [
        (0, "submitted", None),
        (4, "submitted", None),
        (0, "done", "request 0"),
        (4, "failed", "request 4"),
    ]
    assert recorded[2].detail == "told"


def test_what_is_not_told_is_on_the_record_before_it_is_looked_at(world: World) -> None:
    class Cut(Scripted):
        looks = 0

        def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
            self.looks += 1
            if self.looks > 1:
                raise TransientError("the connection broke")
            return super().head_many(refs)

        def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
            first, *others = super().change_tiers(changes)
            return [replace(first, after=world.client.head(first.ref)), *others]

    with pytest.raises(TransientError, match="connection broke"):
        world.mover(Cut(world)).carry_out("plan", 0, 4)
    states = {number: state.value for number, (state, _) in world.ledger.states("plan").items()}
    assert states == {0: "done", **dict.fromkeys(range(1, 5), "verifying")}
    assert world.mover().carry_out("plan", 0, 4).ended == {"done": 4}


def test_what_an_attempt_left_is_taken_back_when_the_object_is_not_to_move_any_more(world: World) -> None:
    world.mover(Scripted(world, outcomes=dict.fromkeys(range(5), ChangeOutcome.PENDING))).submit("plan", 0, 4)
    seen = world.ledger.seen("plan")
    world.client.put_object(world.refs[1], b"other content")
    world.client.delete_object(world.refs[2])
    withdrawn: list[ObjectRef] = []
    world.mover(withdraw=withdrawn.extend).carry_out("plan", 0, 4)
    assert withdrawn == [seen[1].ref, seen[2].ref]
    assert world.close() == {"done": 3, "skipped": 2}


def test_nothing_moves_when_another_process_may_be_at_work_on_the_same_moves(world: World) -> None:
    def superseded() -> None:
        raise TransientError("the lock is lost")

    with pytest.raises(TransientError, match="the lock is lost"):
        world.mover(raise_if_superseded=superseded).carry_out("plan", 0, 4)
    assert TO_CLASS[world.provider] not in world.classes()
    assert world.mover().carry_out("plan", 0, 4).ended == {"done": 5}


def test_the_first_plan_shows_what_was_taken_back(world: World) -> None:
    world.mover().carry_out("plan", 0, 4)
    standard = {Provider.AZURE: "Hot"}.get(world.provider, "STANDARD")
    back = [
        replace(planned(number, world.client.head(ref)), to_class=standard, undoes_move_no=4 - number)
        for number, ref in enumerate(reversed(world.refs))
    ]
    undo = Plans(back[:3])
    undo.plan = a_plan(3, plan_id="undo", undoes="plan")
    for entry in world.ledger.entries:
        assert entry.plan_id == "plan"
    first = {number: state for number, (state, _) in world.ledger.states("plan").items()}
    assert set(first.values()) == {MigrationState.DONE}
    migrate.Mover(world.client, undo, world.ledger, "test", lambda: AT).carry_out("undo", 0, 2)
    assert world.classes() == {TO_CLASS[world.provider]: 2, standard: 3}
    undone = [entry for entry in world.ledger.entries if entry.state is MigrationState.UNDONE]
    assert [(entry.plan_id, entry.move_no, entry.detail) for entry in undone] == [
        ("plan", 4, "taken back by undo"),
        ("plan", 3, "taken back by undo"),
        ("plan", 2, "taken back by undo"),
    ]
    assert [(entry.from_class, entry.to_class) for entry in undone] == [(standard, TO_CLASS[world.provider])] * 3
