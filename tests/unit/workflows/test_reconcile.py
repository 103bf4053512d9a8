"""The ledger against the bucket: what agrees, what a killed process left, and what nobody can explain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine
from unit.workflows.recorded_moves import COLD, COOL, STANDARD, DyingClient, Killed, Recorded
from unit.workflows.test_undo import undo

from cloudflux.domain.errors import TerminalError
from cloudflux.domain.migrations import MigrationState, TierChange
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.plans import PlanState
from cloudflux.domain.tiers import Provider
from cloudflux.workflows.migrate import ledger_entry
from cloudflux.workflows.reconcile import Finding, RangeReport, Reconciler, Standing

S = MigrationState


@pytest.fixture(params=list(Provider))
def world(engine: Engine, request: pytest.FixtureRequest) -> Recorded:
    return Recorded(engine, request.param)


@pytest.fixture
def on_aws(engine: Engine) -> Recorded:
    return Recorded(engine, Provider.AWS)


def compare(world: Recorded, plan_id: str = "plan", *, repair: bool = False, client: Any = None) -> RangeReport:
    world.now += timedelta(hours=1)
    mover = replace(world.mover(client), actor="reconcile", costs_of=lambda moves, *_: [Decimal("0.5")] * len(moves))
    reconciler = Reconciler(mover, world.ledger.left, world.done_moves.newest, our_tags=("cloudflux-move",))
    return reconciler.compare(plan_id, 0, len(world.refs) - 1, repair=repair)


def only(report: RangeReport) -> Finding:
    (finding,) = report.findings
    return finding


def test_all_agrees_when_a_plan_was_carried_out(world: Recorded) -> None:
    world.add_plan("plan", COLD[world.provider])
    assert compare(world).counts == {Standing.AGREES: 5}
    world.carry_out("plan")
    report = compare(world)
    assert (report.counts, report.findings) == ({Standing.AGREES: 5}, [])
    assert compare(world, repair=True).counts == {Standing.AGREES: 5}


def test_all_agrees_when_a_plan_was_undone(world: Recorded) -> None:
    world.moved("plan", COLD[world.provider])
    by = undo(world, "plan").plan.plan_id
    assert compare(world).counts == {Standing.AGREES: 5}
    assert compare(world, by).counts == {Standing.AGREES: 5}


@pytest.mark.parametrize(("call", "number"), [("head_many", 0), ("change_tiers", 0), ("head_many", 1)])
@pytest.mark.parametrize("acted", [False, True])
def test_the_ledger_follows_the_bucket_when_the_process_was_killed(
    world: Recorded, call: str, number: int, acted: bool
) -> None:
    contents = [world.client.get_object(ref) for ref in world.refs]
    world.add_plan("plan", COLD[world.provider])
    world.now += timedelta(hours=1)
    with pytest.raises(Killed):
        world.mover(DyingClient(world.client, call, number, acted=acted)).carry_out("plan", 0, 4)
    moved = world.classes() == [COLD[world.provider]] * 5
    assert moved == (
        (call, number, acted) not in {("head_many", 0, False), ("head_many", 0, True), ("change_tiers", 0, False)}
    )
    before = compare(world)
    if not moved:
        begun = call == "change_tiers"
        assert before.counts == {Standing.OPEN if begun else Standing.AGREES: 5}
        assert compare(world, repair=True).counts == before.counts
        assert set(world.states("plan").values()) == ({S.SUBMITTED} if begun else set())
    else:
        assert before.counts == {Standing.BEHIND: 5}
        repaired = compare(world, repair=True)
        assert repaired.counts == {Standing.REPAIRED: 5}
        assert {finding.detail.rpartition(": ")[2] for finding in repaired.findings} == {"recorded as done"}
        assert set(world.states("plan").values()) == {S.DONE}
    world.carry_out("plan")  # the run goes on, and finds nothing to do twice
    assert set(world.states("plan").values()) == {S.DONE}
    assert compare(world).counts == {Standing.AGREES: 5}
    assert [world.client.get_object(ref) for ref in world.refs] == contents


def test_a_repair_is_on_the_record_as_such(on_aws: Recorded) -> None:
    on_aws.add_plan("plan", "GLACIER_IR")
    with pytest.raises(Killed):
        on_aws.mover(DyingClient(on_aws.client, "change_tiers", 0, acted=True)).carry_out("plan", 0, 4)
    compare(on_aws, repair=True)
    entries = [entry for entry in on_aws.ledger.entries("plan") if entry.move_no == 0]
    assert [(entry.state, entry.actor) for entry in entries] == [
        (S.SUBMITTED, "test"),
        (S.VERIFYING, "reconcile"),
        (S.DONE, "reconcile"),
    ]
    assert entries[-1].cost_usd == Decimal("0.5")
    assert entries[-1].object_state == on_aws.client.head(on_aws.refs[0])


def test_an_undo_that_was_cut_off_is_recorded_on_both_plans(world: Recorded) -> None:
    world.moved("plan", COLD[world.provider])
    by = undo_without_verifying(world)
    assert set(world.states("plan").values()) == {S.DONE}
    assert compare(world, by).counts == {Standing.BEHIND: 5}
    assert compare(world, by, repair=True).counts == {Standing.REPAIRED: 5}
    assert set(world.states("plan").values()) == {S.UNDONE}
    assert compare(world).counts == {Standing.AGREES: 5}


def undo_without_verifying(world: Recorded) -> str:
    from unit.workflows.test_undo import propose

    by = propose(world, "plan").plan.plan_id
    world.plans.set_state(by, PlanState.APPROVED, "me", world.now)
    world.now += timedelta(hours=1)
    with pytest.raises(Killed):
        world.mover(DyingClient(world.client, "change_tiers", 0, acted=True)).carry_out(by, 0, 4)
    return by


def failed_although_it_moved(world: Recorded, plan_id: str = "plan", number: int = 0) -> None:
    """As a look that was refused after the move leaves it."""
    move = world.plans.moves(plan_id, number, number)[0]
    before = world.client.head(move.ref)
    world.client.change_tiers([TierChange(before, move.to_class)])
    for state, seen in ((S.SUBMITTED, before), (S.VERIFYING, None), (S.FAILED, None)):
        entry = ledger_entry(
            plan_id, move, state, at=world.now, actor="test", detail="it cannot be verified", object_state=seen
        )
        world.ledger.append([entry])


def test_what_failed_but_did_move_intact_becomes_done(world: Recorded) -> None:
    world.add_plan("plan", COLD[world.provider])
    world.now += timedelta(hours=1)
    failed_although_it_moved(world)
    assert compare(world).counts == {Standing.BEHIND: 1, Standing.AGREES: 4}
    finding = only(compare(world, repair=True))
    assert (finding.standing, finding.detail) == (
        Standing.REPAIRED,
        "it did move, and it is intact: recorded as done",
    )
    assert world.states("plan") == {0: S.DONE}
    assert world.ledger.left("plan")[0] == world.client.head(world.refs[0])


def test_a_failed_undo_that_did_move_is_recorded_on_both_plans(on_aws: Recorded) -> None:
    from unit.workflows.test_undo import propose

    on_aws.moved("plan", "GLACIER_IR")
    by = propose(on_aws, "plan").plan.plan_id
    on_aws.now += timedelta(hours=1)
    failed_although_it_moved(on_aws, by, 3)
    assert compare(on_aws, by, repair=True).counts == {Standing.REPAIRED: 1, Standing.AGREES: 4}
    assert (on_aws.states("plan")[3], on_aws.states("plan")[0]) == (S.UNDONE, S.DONE)


def test_what_failed_stays_failed_when_the_object_is_not_as_it_was(on_aws: Recorded) -> None:
    on_aws.add_plan("plan", "GLACIER_IR")
    on_aws.now += timedelta(hours=1)
    failed_although_it_moved(on_aws)
    on_aws.client.put_object(on_aws.refs[0], on_aws.refs[0].key.encode(), storage_class="GLACIER_IR")  # no metadata
    assert compare(on_aws, repair=True).counts == {Standing.AGREES: 5}
    assert on_aws.states("plan") == {0: S.FAILED}


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("overwrite", "overwritten after its move"),
        ("delete", "deleted after its move"),
        ("move on", "moved to {} after its move"),
        ("move back", "moved to {} after its move"),
    ],
)
def test_what_somebody_did_after_a_move_is_no_disagreement(world: Recorded, change: str, detail: str) -> None:
    world.moved("plan", COLD[world.provider])
    world.now += timedelta(hours=1)
    ref = world.refs[2]
    to_class = (COOL if change == "move on" else STANDARD)[world.provider]
    if change == "overwrite":
        world.client.put_object(ref, b"other")
    elif change == "delete":
        world.client.delete_object(ref)
    else:
        world.move_by_hand(ref, to_class)
    report = compare(world, repair=True)
    assert report.counts == {Standing.CHANGED: 1, Standing.AGREES: 4}
    assert only(report).detail == detail.format(to_class)


def test_a_later_plan_explains_where_an_object_is(world: Recorded) -> None:
    world.moved("plan", COOL[world.provider])
    world.moved("later", COLD[world.provider], refs=world.refs[:2])
    report = compare(world)
    assert report.counts == {Standing.CHANGED: 2, Standing.AGREES: 3}
    assert {finding.detail for finding in report.findings} == {"moved on by later"}


def test_a_move_that_is_done_on_paper_alone_is_a_disagreement(world: Recorded) -> None:
    world.add_plan("plan", COLD[world.provider])
    world.now += timedelta(hours=1)
    move = world.plans.moves("plan", 1, 1)[0]
    before = world.client.head(move.ref)
    after = replace(before, storage_class=COLD[world.provider])
    for state, seen in ((S.SUBMITTED, before), (S.VERIFYING, None), (S.DONE, after)):
        world.ledger.append([ledger_entry("plan", move, state, at=world.now, actor="liar", object_state=seen)])
    report = compare(world, repair=True)
    assert report.counts == {Standing.DISAGREES: 1, Standing.AGREES: 4}
    assert only(report).detail == f"it never moved: it is in {STANDARD[world.provider]}, as it was before"
    assert world.states("plan") == {1: S.DONE}


def test_a_move_that_is_undone_on_paper_alone_is_a_disagreement(on_aws: Recorded) -> None:
    on_aws.moved("plan", "GLACIER_IR")
    move = on_aws.plans.moves("plan", 1, 1)[0]
    on_aws.ledger.append([ledger_entry("plan", move, S.UNDONE, at=on_aws.now, actor="liar")])
    finding = only(compare(on_aws, repair=True))
    assert (finding.standing, finding.detail) == (
        Standing.DISAGREES,
        "it was not taken back: it is in GLACIER_IR, as its move left it",
    )


@pytest.mark.parametrize("state", [S.SKIPPED, S.CANCELLED])
def test_a_move_that_was_called_off_but_happened_is_a_disagreement(on_aws: Recorded, state: MigrationState) -> None:
    on_aws.add_plan("plan", "GLACIER_IR")
    on_aws.now += timedelta(hours=1)
    move = on_aws.plans.moves("plan", 1, 1)[0]
    before = on_aws.client.head(move.ref)
    on_aws.ledger.append([ledger_entry("plan", move, S.SUBMITTED, at=on_aws.now, actor="a", object_state=before)])
    on_aws.ledger.append([ledger_entry("plan", move, state, at=on_aws.now, actor="a")])
    assert compare(on_aws).counts == {Standing.AGREES: 5}
    on_aws.move_by_hand(move.ref, "GLACIER_IR")  # as a request that was under way for long does
    finding = only(compare(on_aws, repair=True))
    assert (finding.standing, finding.detail) == (
        Standing.DISAGREES,
        f"it is {state}, but it did move, and it is intact",
    )


def test_an_object_that_was_never_touched_by_us_may_be_anywhere(world: Recorded) -> None:
    world.add_plan("plan", COLD[world.provider])
    world.client.put_object(world.refs[0], b"other")
    world.client.delete_object(world.refs[1])
    if world.provider is not Provider.GCP:  # where a move is a new generation
        world.move_by_hand(world.refs[2], COLD[world.provider])
    report = compare(world, repair=True)
    details = [finding.detail for finding in report.findings]
    assert details[:2] == ["overwritten since the plan", "deleted since the plan"]
    assert details[2:] == [f"its class became {COLD[world.provider]} since the plan"] * (len(details) - 2)
    assert set(report.counts) == {Standing.CHANGED, Standing.AGREES}
    assert world.states("plan") == {}


def test_what_overtook_a_move_is_recorded_when_no_run_will_do_so(world: Recorded) -> None:
    world.add_plan("plan", COLD[world.provider])
    with pytest.raises(Killed):
        world.mover(DyingClient(world.client, "change_tiers", 0, acted=False)).carry_out("plan", 0, 4)
    world.client.put_object(world.refs[0], b"other")
    world.client.delete_object(world.refs[1])
    assert compare(world, repair=True).counts == {Standing.OPEN: 5}  # the run does it
    world.plans.set_state("plan", PlanState.HALTED, "me", world.now)
    assert compare(world).counts == {Standing.OPEN: 3, Standing.BEHIND: 2}
    assert compare(world, repair=True).counts == {Standing.OPEN: 3, Standing.REPAIRED: 2}
    assert {number: state for number, state in world.states("plan").items() if state is S.SKIPPED} == {
        0: S.SKIPPED,
        1: S.SKIPPED,
    }
    assert compare(world).counts == {Standing.OPEN: 3, Standing.CHANGED: 2}


def test_a_move_under_verification_fails_when_the_object_is_not_as_it_was(on_aws: Recorded) -> None:
    on_aws.add_plan("plan", "GLACIER_IR")
    on_aws.mover().submit("plan", 0, 4)
    on_aws.client.put_object(on_aws.refs[0], b"other", storage_class="GLACIER_IR")
    report = compare(on_aws, repair=True)
    assert report.counts == {Standing.REPAIRED: 5}
    assert Counter(on_aws.states("plan").values()) == {S.DONE: 4, S.FAILED: 1}
    assert report.findings[0].detail.endswith("recorded as failed")


class Looking:
    """A client that shows some objects otherwise, and moves nothing."""

    def __init__(self, world: Recorded, looks: dict[int, Any]) -> None:
        self.capabilities = world.client.capabilities
        self._client = world.client
        self._looks = {world.refs[number].key: look for number, look in looks.items()}

    def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
        found = self._client.head_many(refs)
        return [self._looks.get(ref.key, state) for ref, state in zip(refs, found, strict=True)]

    def change_tiers(self, changes: Sequence[TierChange]) -> list[Any]:
        raise AssertionError("nothing is to be changed")


def test_nothing_is_proved_of_an_object_that_cannot_be_looked_at(on_aws: Recorded) -> None:
    on_aws.moved("plan", "GLACIER_IR")
    denied = Unseen(on_aws.refs[4], "access denied", passing=False)
    finding = only(compare(on_aws, client=Looking(on_aws, {4: denied}), repair=True))
    assert (finding.standing, finding.detail) == (Standing.UNSEEN, "access denied")


def test_our_tag_is_reported_when_it_was_left_on_a_finished_move(on_aws: Recorded) -> None:
    on_aws.moved("plan", "GLACIER_IR")
    tagged = replace(on_aws.client.head(on_aws.refs[0]), tags={"cloudflux-move": "GLACIER_IR"})
    report = compare(on_aws, client=Looking(on_aws, {0: tagged}))
    assert (report.counts, report.leftovers) == ({Standing.AGREES: 5}, 1)
    assert only(report).leftover == "our tag cloudflux-move is left on it"


def test_an_unmoved_object_is_never_moved_by_a_repair(world: Recorded) -> None:
    """Only what is in its new class already is handed to the client, bound to how it was just seen."""
    world.add_plan("plan", COLD[world.provider])
    world.now += timedelta(hours=1)
    with pytest.raises(Killed):
        world.mover(DyingClient(world.client, "change_tiers", 0, acted=False)).carry_out("plan", 0, 4)
    first = world.client.head(world.refs[0])
    world.client.change_tiers([TierChange(first, COLD[world.provider])])
    assert compare(world, repair=True).counts == {Standing.REPAIRED: 1, Standing.OPEN: 4}
    assert world.classes() == [COLD[world.provider], *[STANDARD[world.provider]] * 4]


def test_a_move_is_looked_at_again_when_somebody_finished_it_meanwhile(on_aws: Recorded) -> None:
    on_aws.add_plan("plan", "GLACIER_IR")

    class Racing(Looking):
        def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
            on_aws.mover().carry_out("plan", 0, 4)
            return super().head_many(refs)

    report = compare(on_aws, client=Racing(on_aws, {}))
    assert report.counts == {Standing.AGREES: 5}


def test_credentials_that_are_refused_end_the_comparison(on_aws: Recorded) -> None:
    on_aws.moved("plan", "GLACIER_IR")

    class Refused(Looking):
        def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
            raise TerminalError("the token has expired")

    with pytest.raises(TerminalError, match="expired"):
        compare(on_aws, client=Refused(on_aws, {}))
