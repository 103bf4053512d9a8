"""A bucket in memory, plans and a ledger in PostgreSQL: what the tests of undoing and reconciling share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine

from cloudflux.domain.migrations import MigrationState, TierChange, TierChangeResult
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.plans import Guardrails, MigrationPlan, PlanGroup, PlanKind, PlannedMove, PlanState, PlanTotals
from cloudflux.domain.tiers import Provider
from cloudflux.providers.memory import MemoryTierClient
from cloudflux.stores.done_moves import DoneMoves
from cloudflux.stores.ledger import Ledger
from cloudflux.stores.plans import Plans
from cloudflux.workflows.migrate import Mover
from cloudflux.workflows.planned_moves import moves_table

AT = datetime(2026, 3, 1, tzinfo=UTC)
STANDARD = {Provider.AWS: "STANDARD", Provider.AZURE: "Hot", Provider.GCP: "STANDARD"}
COLD = {Provider.AWS: "GLACIER_IR", Provider.AZURE: "Cold", Provider.GCP: "COLDLINE"}
COOL = {Provider.AWS: "STANDARD_IA", Provider.AZURE: "Cool", Provider.GCP: "NEARLINE"}
NO_LIMITS = Guardrails(10**6, 2**60, Decimal("Infinity"), Decimal(0))


class Killed(BaseException):
    """The process ended here."""


class DyingClient:
    """Forwards to a client, and dies before or after its n-th call of one kind, as a killed process does."""

    def __init__(self, client: Any, call: str, number: int, *, acted: bool) -> None:
        self.capabilities = client.capabilities
        self._client, self._call, self._left, self._acted = client, call, number, acted

    def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
        return self._dying("head_many", lambda: self._client.head_many(refs))

    def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
        return self._dying("change_tiers", lambda: self._client.change_tiers(changes))

    def _dying(self, name: str, act: Callable[[], Any]) -> Any:
        self._left -= name == self._call
        if name == self._call and self._left < 0:
            if self._acted:
                act()
            raise Killed
        return act()


class Recorded:
    """Objects of one provider in the bucket ``b``, and what moved them."""

    def __init__(self, engine: Engine, provider: Provider, objects: int = 5) -> None:
        self.provider = provider
        self.engine = engine
        self.now = AT
        self.client = MemoryTierClient(provider, lambda: self.now)
        self.client.create_bucket("b")
        self.plans, self.ledger, self.done_moves = Plans(engine), Ledger(engine), DoneMoves(engine)
        self.refs = [ObjectRef(provider, "b", f"logs/{number:04}") for number in range(objects)]
        for ref in self.refs:
            self.client.put_object(ref, ref.key.encode(), metadata={"owner": "me"}, content_type="text/plain")

    def add_plan(
        self,
        plan_id: str,
        to_class: str,
        *,
        state: PlanState = PlanState.APPROVED,
        refs: Sequence[ObjectRef] | None = None,
    ) -> MigrationPlan:
        """Store a plan to move objects from where they are."""
        seen = [self.client.head(ref) for ref in (self.refs if refs is None else refs)]
        moves = [
            PlannedMove(
                move_no=number,
                ref=at_present.ref,
                etag=at_present.etag,
                size_bytes=at_present.size_bytes,
                last_modified_at=at_present.last_modified_at,
                class_since_at=at_present.class_since_at,
                from_class=at_present.storage_class,
                to_class=to_class,
                saving_usd=Decimal("0.1"),
                one_time_usd=Decimal("0.01"),
                monthly_saving_usd=Decimal("0.02"),
                payback_days=15.0,
                reason="nobody reads it",
            )
            for number, at_present in enumerate(seen)
        ]
        total = sum(move.size_bytes for move in moves)
        usd = Decimal("0.1") * len(moves), Decimal("0.01") * len(moves)
        plan = MigrationPlan(
            plan_id=plan_id,
            run_id=f"run of {plan_id}",
            created_at=self.now,
            expires_at=self.now + timedelta(days=14),
            decisions_day=self.now.date(),
            horizon_days=180,
            dry_run=state is PlanState.PREVIEW,
            guardrails=NO_LIMITS,
            totals=PlanTotals(len(moves), total, *usd, Decimal(10), Decimal(9), 100, 0),
            groups=(
                PlanGroup(
                    self.provider, seen[0].ref.bucket, seen[0].storage_class, to_class, len(moves), total, *usd, 15.0
                ),
            ),
            kind=PlanKind.PLACEMENT,
        )
        self.plans.add(plan, moves_table(moves), state)
        return plan

    def mover(self, client: Any = None) -> Mover:
        return Mover(client or self.client, self.plans, self.ledger, "test", lambda: self.now)

    def carry_out(self, plan_id: str) -> None:
        """Carry out all moves of a plan, an hour later."""
        self.now += timedelta(hours=1)
        objects = self.plans.get(plan_id).totals.objects
        self.mover().carry_out(plan_id, 0, objects - 1)

    def moved(self, plan_id: str, to_class: str, *, refs: Sequence[ObjectRef] | None = None) -> None:
        """Store a plan and carry it out."""
        self.add_plan(plan_id, to_class, refs=refs)
        self.carry_out(plan_id)

    def move_by_hand(self, ref: ObjectRef, to_class: str) -> None:
        """Move an object as somebody else does."""
        self.now += timedelta(hours=1)
        self.client.change_tiers([TierChange(self.client.head(ref), to_class)])

    def states(self, plan_id: str) -> dict[int, MigrationState]:
        return {number: state for number, (state, _) in self.ledger.states(plan_id).items()}

    def classes(self) -> list[str]:
        return [self.client.head(ref).storage_class for ref in self.refs]
