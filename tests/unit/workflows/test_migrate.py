"""Submit, verify and close: what is moved, skipped and recorded, and what a killed attempt leaves behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from cloudflux.domain.errors import TerminalError, TransientError
from cloudflux.domain.ledger import LedgerEntry
from cloudflux.domain.migrations import NEXT_STATES, MigrationState, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.plans import PlannedMove, PlanState
from cloudflux.domain.tiers import Provider
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.workflows import migrate

AT = datetime(2026, 3, 1, tzinfo=UTC)
TO_CLASS = {Provider.AWS: "GLACIER_IR", Provider.AZURE: "Cold", Provider.GCP: "COLDLINE"}


class Plans:
    def __init__(self, moves: Sequence[PlannedMove], state: PlanState = PlanState.APPROVED) -> None:
        self._moves = moves
        self.current = state

    def moves(self, plan_id: str, first: int, last: int) -> Sequence[PlannedMove]:
        return self._moves[first : last + 1]

    def state(self, plan_id: str) -> PlanState:
        return self.current

    def set_state(self, plan_id: str, state: PlanState, by: str, at: datetime, note: str | None = None) -> None:
        self.current = state


class Ledger:
    """The rules of the real one: append-only, one entry for each state, only allowed transitions."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.fail_after: int | None = None

    def append(self, entries: Sequence[LedgerEntry]) -> int:
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise TransientError("the database went away")
        new = 0
        for entry in entries:
            mine = [other.state for other in self.entries if other.move_no == entry.move_no]
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
        return {entry.move_no: (entry.state, entry.detail) for entry in self.within(first, last)}

    def seen(self, plan_id: str, first: int | None = None, last: int | None = None) -> Mapping[int, str]:
        submitted = (entry for entry in self.within(first, last) if entry.state is MigrationState.SUBMITTED)
        return {entry.move_no: entry.detail for entry in submitted}

    def within(self, first: int | None, last: int | None) -> list[LedgerEntry]:
        return [
            entry
            for entry in self.entries
            if (first is None or entry.move_no >= first) and (last is None or entry.move_no <= last)
        ]


class World:
    """Five objects of one provider, a plan to move them all, and the ledger."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.client = MemoryTierClient(provider, lambda: AT)
        self.client.create_bucket("b")
        self.refs = [ObjectRef(provider, "b", f"key {number}") for number in range(5)]
        seen = [
            self.client.put_object(ref, ref.key.encode(), metadata={"owner": "me"}, content_type="text/plain")
            for ref in self.refs
        ]
        self.plans = Plans([planned(number, state) for number, state in enumerate(seen)])
        self.ledger = Ledger()

    def submit(self, client: object = None) -> dict[str, int]:
        return migrate.submit(
            client or self.client,  # type: ignore[arg-type]
            self.plans,
            self.ledger,
            plan_id="plan",
            first=0,
            last=4,
            actor="test",
            clock=lambda: AT,
        )

    def verify(self) -> dict[str, int]:
        return migrate.verify(
            self.client, self.plans, self.ledger, plan_id="plan", first=0, last=4, actor="test", clock=lambda: AT
        )

    def close(self) -> dict[str, int]:
        return migrate.close(self.plans, self.ledger, plan_id="plan", moves=5, actor="test", clock=lambda: AT)

    def classes(self) -> Counter[str]:
        return Counter(state.storage_class for page in self.client.list_pages("b") for state in page)


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

        def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | None]:
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


def test_third_party_change_after_a_cut_off_attempt_fails_verification(world: World) -> None:
    world.ledger.fail_after = 1
    with pytest.raises(TransientError):
        world.submit()
    world.ledger.fail_after = None
    to_class = TO_CLASS[world.provider]
    world.client.put_object(world.refs[4], b"other", storage_class=to_class, content_type="text/plain")
    world.submit()
    assert world.verify() == {"done": 4, "failed": 1}
    assert "its checksum was" in world.ledger.states("plan")[4][1]


def test_repetition_changes_nothing_when_all_is_done(world: World) -> None:
    world.submit()
    world.verify()
    entries = list(world.ledger.entries)
    assert world.submit() == {}
    assert world.verify() == {}
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
