"""Submit, verify and close: what is moved, skipped and recorded, and what a killed attempt leaves behind."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from cloudflux.domain.errors import TerminalError, TransientError
from cloudflux.domain.ledger import LedgerEntry
from cloudflux.domain.migrations import (
    NEXT_STATES,
    ChangeOutcome,
    MigrationState,
    RestoreOrder,
    TierChange,
    TierChangeResult,
)
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.plans import (
    NEXT_PLAN_STATES,
    Guardrails,
    MigrationPlan,
    MoveRole,
    PlannedMove,
    PlanState,
    PlanTotals,
)
from cloudflux.domain.quiet_hours import QuietHours
from cloudflux.domain.tiers import Provider
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.workflows import migrate
from cloudflux.workflows.garbage_collection import OBJECTS_BETWEEN

AT = datetime(2026, 3, 1, tzinfo=UTC)
TO_CLASS = {Provider.AWS: "GLACIER_IR", Provider.AZURE: "Cold", Provider.GCP: "COLDLINE"}


def a_plan(moves: int, **overrides: object) -> MigrationPlan:
    plan = MigrationPlan(
        plan_id="plan",
        run_id="run",
        created_at=AT,
        expires_at=AT + timedelta(days=14),
        decisions_day=AT.date(),
        horizon_days=180,
        dry_run=False,
        guardrails=Guardrails(100, 10**9, Decimal(1), Decimal(0)),
        totals=PlanTotals(moves, 1, Decimal(1), Decimal(1), Decimal(1), Decimal(1), moves, 0),
        groups=(),
    )
    return replace(plan, **overrides)


class Plans:
    def __init__(self, moves: Sequence[PlannedMove], state: PlanState = PlanState.APPROVED) -> None:
        self._moves = moves
        self.current = state
        self.plan = a_plan(len(moves))
        self.note: str | None = None

    def moves(self, plan_id: str, first: int, last: int) -> Sequence[PlannedMove]:
        return self._moves[first : last + 1]

    def get(self, plan_id: str) -> Any:
        values = {field.name: getattr(self.plan, field.name) for field in fields(self.plan)}
        return SimpleNamespace(**values, state=self.current)

    def set_state(self, plan_id: str, state: PlanState, by: str, at: datetime, note: str | None = None) -> None:
        assert state in NEXT_PLAN_STATES[self.current]
        self.current, self.note = state, note


class Ledger:
    """The rules of the real one: append-only, one entry for each state, only allowed transitions."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.fail_after: int | None = None
        self._one_at_a_time = threading.Lock()

    def append(self, entries: Sequence[LedgerEntry]) -> int:
        with self._one_at_a_time:
            return self._append(entries)

    def _append(self, entries: Sequence[LedgerEntry]) -> int:
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise TransientError("the database went away")
        new = 0
        for entry in entries:
            mine = [
                other.state
                for other in self.entries
                if (other.plan_id, other.move_no) == (entry.plan_id, entry.move_no)
            ]
            if entry.state in mine:
                continue
            before = mine[-1] if mine else MigrationState.PLANNED
            assert entry.state in NEXT_STATES[before], (before, entry.state)
            self.entries.append(entry)
            new += 1
        return new

    def states(
        self, plan_id: str, first: int | None = None, last: int | None = None
    ) -> Mapping[int, tuple[MigrationState, str]]:
        within = self.within(plan_id, first, last)
        return {entry.move_no: (entry.state, entry.detail) for entry in within}

    def seen(self, plan_id: str, first: int | None = None, last: int | None = None) -> Mapping[int, ObjectState]:
        submitted = (entry for entry in self.within(plan_id, first, last) if entry.state is MigrationState.SUBMITTED)
        return {entry.move_no: entry.object_state for entry in submitted if entry.object_state is not None}

    def within(self, plan_id: str, first: int | None, last: int | None) -> list[LedgerEntry]:
        return [
            entry
            for entry in self.entries
            if entry.plan_id == plan_id
            and (first is None or entry.move_no >= first)
            and (last is None or entry.move_no <= last)
        ]


class World:
    """Five objects of one provider, a plan to move them all, and the ledger."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.now = AT
        self.client = MemoryTierClient(provider, lambda: AT)
        self.client.create_bucket("b")
        self.refs = [ObjectRef(provider, "b", f"key {number}") for number in range(5)]
        seen = [
            self.client.put_object(ref, ref.key.encode(), metadata={"owner": "me"}, content_type="text/plain")
            for ref in self.refs
        ]
        self.plans = Plans([planned(number, state) for number, state in enumerate(seen)])
        self.ledger = Ledger()

    def mover(self, client: object = None, **more: Any) -> migrate.Mover:
        return migrate.Mover(
            client or self.client,  # type: ignore[arg-type]  # scripted ones have what is asked of them
            self.plans,
            self.ledger,
            "test",
            lambda: self.now,
            **more,
        )

    def submit(self, client: object = None, **more: Any) -> Mapping[str, int]:
        return shown(self.mover(client, **more).submit("plan", 0, 4), self.ledger)

    def verify(self, client: object = None, **more: Any) -> Mapping[str, int]:
        return self.mover(client, **more).verify("plan", 0, 4).ended

    def close(self) -> dict[str, int]:
        return migrate.close(self.plans, self.ledger, plan_id="plan", actor="test", clock=lambda: self.now)

    def classes(self) -> Counter[str]:
        return Counter(state.storage_class for page in self.client.list_pages("b") for state in page)


def shown(progress: migrate.RangeProgress, ledger: Ledger) -> Mapping[str, int]:
    """Count what ended, and what now waits to be verified."""
    verifying = sum(1 for state, _ in ledger.states("plan").values() if state is MigrationState.VERIFYING)
    return {**progress.ended, **({"verifying": verifying} if verifying else {})}


def planned(number: int, seen: ObjectState) -> PlannedMove:
    return PlannedMove(
        move_no=number,
        ref=seen.ref,
        etag=seen.etag,
        size_bytes=seen.size_bytes,
        last_modified_at=seen.last_modified_at,
        class_since_at=seen.class_since_at,
        from_class=seen.storage_class,
        to_class=TO_CLASS[seen.ref.provider],
        saving_usd=Decimal("0.1"),
        one_time_usd=Decimal("0.01"),
        monthly_saving_usd=Decimal("0.02"),
        payback_days=15.0,
        reason="nobody reads it",
    )


@pytest.fixture(params=list(Provider))
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


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


class Scripted:
    """A client that answers some objects in its own way, and asks the real one for the rest."""

    def __init__(
        self,
        world: World,
        looks: Mapping[int, Unseen] | None = None,
        outcomes: Mapping[int, ChangeOutcome] | None = None,
    ) -> None:
        self.capabilities = world.client.capabilities
        self._client = world.client
        self._looks = {world.refs[number].key: look for number, look in (looks or {}).items()}
        self._outcomes = {world.refs[number].key: outcome for number, outcome in (outcomes or {}).items()}
        self.changes: list[TierChange] = []

    def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
        found = self._client.head_many(refs)
        return [self._looks.get(ref.key, state) for ref, state in zip(refs, found, strict=True)]

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        self.changes += changes
        mine = [change for change in changes if change.ref.key not in self._outcomes]
        done = {result.ref.key: result for result in self._client.change_tiers(mine)}
        return [
            done.get(change.ref.key) or TierChangeResult(change.ref, self._outcomes[change.ref.key], "scripted")
            for change in changes
        ]


class Watching(Scripted):
    """A client that tells how many calls were under way at once, and may do something before each."""

    def __init__(self, world: World, before: Callable[[int], None] = lambda _: None) -> None:
        super().__init__(world)
        self.calls = 0
        self.most_at_once = 0
        self._under_way = 0
        self._before = before

    def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
        with self._call():
            return super().head_many(refs)

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        with self._call():
            return super().change_tiers(changes)

    @contextmanager
    def _call(self) -> Iterator[None]:
        self.calls += 1
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        self._before(self.calls)
        yield
        self._under_way -= 1


def test_all_is_done_and_calls_take_turns_when_a_range_has_many_steps(world: World) -> None:
    client = Watching(world)
    assert world.mover(client, step_moves=2).carry_out("plan", 0, 4) == migrate.RangeProgress({"done": 5}, 0, 0, None)
    assert (client.calls, client.most_at_once) == (9, 1)
    assert world.close() == {"done": 5}
    assert world.classes() == {TO_CLASS[world.provider]: 5}


def test_the_next_step_asks_the_provider_when_one_writes_to_the_ledger(world: World) -> None:
    asked_again, waits, first = threading.Event(), [], iter([True])
    client = Watching(world, lambda calls: asked_again.set() if calls == 2 else None)
    append = world.ledger.append

    def slow(entries: Sequence[LedgerEntry]) -> int:
        if next(first, False):
            waits.append(asked_again.wait(10))
        return append(entries)

    world.ledger.append = slow  # type: ignore[method-assign]  # of this world alone
    assert world.mover(client, step_moves=3).carry_out("plan", 0, 4).ended == {"done": 5}
    assert waits == [True]


def test_two_steps_ask_at_once_when_the_client_allows_it(world: World) -> None:
    both = threading.Barrier(2, timeout=10)

    class Together(Scripted):
        def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
            both.wait()  # breaks, and fails the test, when the other step has to wait for its turn
            return super().change_tiers(changes)

    mover = world.mover(Together(world), step_moves=1, steps_together=True)
    assert mover.carry_out("plan", 0, 3).ended == {"done": 4}


def test_no_other_step_changes_anything_when_the_provider_refuses_everything(world: World) -> None:
    def refuse(calls: int) -> None:
        raise TransientError("nobody is served")

    client = Watching(world, refuse)
    with pytest.raises(TransientError, match="nobody is served"):
        world.mover(client, step_moves=1).carry_out("plan", 0, 4)
    assert client.calls == 1
    assert world.ledger.entries == []


def test_no_other_step_begins_when_the_ledger_cannot_be_written(world: World) -> None:
    world.ledger.fail_after = 0
    with pytest.raises(TransientError, match="the database went away"):
        world.mover(step_moves=1).carry_out("plan", 0, 4)
    assert TO_CLASS[world.provider] not in world.classes()
    world.ledger.fail_after = None
    assert world.mover(step_moves=1).carry_out("plan", 0, 4).ended == {"done": 5}


def test_steps_that_have_begun_are_finished_when_quiet_hours_begin(world: World) -> None:
    world.plans.plan = replace(
        world.plans.plan,
        guardrails=replace(world.plans.plan.guardrails, quiet_hours=QuietHours(time(1), time(2), "UTC")),
    )
    begins, ends = AT + timedelta(hours=1), AT + timedelta(hours=2)

    def later(calls: int) -> None:
        if calls == 2:
            world.now = begins

    progress = world.mover(Watching(world, later), step_moves=1).carry_out("plan", 0, 4)
    done = progress.ended["done"]
    assert 1 <= done <= 2, "only what had begun: as many steps as there are at once"
    assert (progress.quiet_until, world.classes()[TO_CLASS[world.provider]]) == (ends, done)
    world.now = ends
    assert world.mover(step_moves=1).carry_out("plan", 0, 4).ended == {"done": 5 - done}


def test_one_call_submits_and_verifies_when_a_range_is_carried_out(world: World) -> None:
    progress = world.mover().carry_out("plan", 0, 4)
    assert progress == migrate.RangeProgress({"done": 5}, 0, 0, None)
    assert world.close() == {"done": 5}


def test_garbage_is_collected_seldom_while_moves_are_under_way(world: World) -> None:
    seen = []

    class Watching:
        capabilities = world.client.capabilities

        def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
            seen.append(gc.get_threshold()[0])
            return world.client.head_many(refs)

        def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
            return world.client.change_tiers(changes)

    before = gc.get_threshold()
    assert world.mover(Watching()).carry_out("plan", 0, 4).ended == {"done": 5}
    assert min(seen) >= OBJECTS_BETWEEN
    assert gc.get_threshold() == before


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
