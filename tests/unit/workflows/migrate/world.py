"""What tests of moving share: five objects in memory, a plan to move them all, a ledger, and clients that interfere."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from cloudflux.domain.errors import TransientError
from cloudflux.domain.ledger import LedgerEntry
from cloudflux.domain.migrations import (
    NEXT_STATES,
    ChangeOutcome,
    MigrationState,
    TierChange,
    TierChangeResult,
)
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.plans import (
    NEXT_PLAN_STATES,
    Guardrails,
    MigrationPlan,
    PlannedMove,
    PlanState,
    PlanTotals,
)
from cloudflux.domain.tiers import Provider
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.workflows import migrate

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
