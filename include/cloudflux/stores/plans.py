"""The migration plans: stored once, never changed, only their state moves on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Engine, RowMapping, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute

from cloudflux.domain.errors import CloudFluxError, TerminalError
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.plans import NEXT_PLAN_STATES, Guardrails, MigrationPlan, PlannedMove, PlanState, PlanTotals
from cloudflux.domain.tiers import Provider
from cloudflux.stores.bulk import copy_rows, storable
from cloudflux.stores.tables import PlannedMoveRow, PlanRow, PlanStateRow

_MOVE_COLUMNS = tuple(column.name for column in PlannedMoveRow.__table__.columns)


class PlanNotFound(CloudFluxError, LookupError):
    """There is no such plan."""


class InvalidPlanState(TerminalError):
    """A plan was to enter a state that may not follow the one it is in, e.g. a preview to be approved."""


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """A plan without its moves, and where it stands."""

    plan_id: str
    run_id: str
    created_at: datetime
    decisions_day: date
    horizon_days: int
    dry_run: bool
    state: PlanState
    guardrails: Guardrails
    totals: PlanTotals


@dataclass(frozen=True, slots=True)
class PlanStateChange:
    """A plan entered a state."""

    state: PlanState
    by: str
    at: datetime
    note: str


class Plans:
    """The plans and their moves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, plan: MigrationPlan, state: PlanState) -> bool:
        """Store a plan with all its moves, in one transaction; one with the same ``plan_id`` stays as it was.

        Returns whether it was new. Money is kept to ten places. Takes about a second for 100,000 moves.
        """
        caps, totals = plan.guardrails, plan.totals
        header = {
            "plan_id": plan.plan_id,
            "run_id": plan.run_id,
            "created_at": plan.created_at,
            "decisions_day": plan.decisions_day,
            "horizon_days": plan.horizon_days,
            "dry_run": plan.dry_run,
            "state": state.value,
            "max_objects": caps.max_objects,
            "max_bytes": caps.max_bytes,
            "max_one_time_usd": caps.max_one_time_usd,
            "min_saving_usd": caps.min_saving_usd,
            "objects": totals.objects,
            "bytes": totals.bytes,
            "saving_usd": totals.saving_usd,
            "one_time_usd": totals.one_time_usd,
            "before_usd_month": totals.before_usd_month,
            "after_usd_month": totals.after_usd_month,
            "scored_objects": totals.scored_objects,
            "left_out": totals.left_out,
        }
        with self._engine.begin() as connection:
            added = insert(PlanRow).values(header).on_conflict_do_nothing().returning(PlanRow.plan_id)
            if connection.execute(added).one_or_none() is None:
                return False
            copy_rows(
                connection,
                "cloudflux.planned_moves",
                _MOVE_COLUMNS,
                (
                    (
                        plan.plan_id,
                        move.move_no,
                        move.ref.provider.value,
                        move.ref.bucket,
                        move.ref.key,
                        move.ref.version_id,
                        move.etag,
                        move.size_bytes,
                        move.last_modified_at,
                        move.class_since_at,
                        move.from_class,
                        move.to_class,
                        move.saving_usd,
                        move.one_time_usd,
                        move.monthly_saving_usd,
                        move.payback_days,
                        move.reason,
                    )
                    for move in plan.moves
                ),
            )
            connection.execute(
                insert(PlanStateRow).values(
                    plan_id=plan.plan_id, state=state.value, by=plan.run_id, at=plan.created_at, note="planned"
                )
            )
        return True

    def get(self, plan_id: str) -> MigrationPlan:
        """Give a whole plan with its moves. Raises ``PlanNotFound``."""
        summary = self.summary(plan_id)
        return MigrationPlan(
            plan_id=summary.plan_id,
            run_id=summary.run_id,
            created_at=summary.created_at,
            decisions_day=summary.decisions_day,
            horizon_days=summary.horizon_days,
            dry_run=summary.dry_run,
            guardrails=summary.guardrails,
            totals=summary.totals,
            moves=tuple(self._moves(plan_id, None, None)),
        )

    def summary(self, plan_id: str) -> PlanSummary:
        """Give a plan without its moves. Raises ``PlanNotFound``."""
        with self._engine.connect() as connection:
            row = connection.execute(select(PlanRow).where(PlanRow.plan_id == plan_id)).mappings().one_or_none()
        if row is None:
            raise PlanNotFound(f"there is no plan {plan_id!r}")
        return _summary(row)

    def latest(self, *, dry_run: bool | None = None) -> PlanSummary | None:
        """Give the newest plan, of all or of the dry (or not dry) ones; None when there is none."""
        found = self.recent(1, dry_run=dry_run)
        return found[0] if found else None

    def recent(self, limit: int, *, dry_run: bool | None = None) -> list[PlanSummary]:
        """Give the newest plans, newest first."""
        wanted = select(PlanRow).order_by(PlanRow.created_at.desc(), PlanRow.plan_id).limit(limit)
        if dry_run is not None:
            wanted = wanted.where(PlanRow.dry_run == dry_run)
        with self._engine.connect() as connection:
            return [_summary(row) for row in connection.execute(wanted).mappings()]

    def moves(self, plan_id: str, first: int, last: int) -> list[PlannedMove]:
        """Give the moves numbered ``first`` to ``last``, both included, by number."""
        return list(self._moves(plan_id, first, last))

    def state(self, plan_id: str) -> PlanState:
        """Tell where a plan stands. Raises ``PlanNotFound``."""
        with self._engine.connect() as connection:
            state = connection.execute(select(PlanRow.state).where(PlanRow.plan_id == plan_id)).scalar_one_or_none()
        if state is None:
            raise PlanNotFound(f"there is no plan {plan_id!r}")
        return PlanState(state)

    def set_state(self, plan_id: str, state: PlanState, by: str, at: datetime, note: str | None = None) -> None:
        """Let a plan enter a state and put on the record who did it; the state it is in already changes nothing.

        Raises ``PlanNotFound``, or ``InvalidPlanState`` when ``NEXT_PLAN_STATES`` forbids it.
        """
        with self._engine.begin() as connection:
            current = connection.execute(
                select(PlanRow.state).where(PlanRow.plan_id == plan_id).with_for_update()
            ).scalar_one_or_none()
            if current is None:
                raise PlanNotFound(f"there is no plan {plan_id!r}")
            if current == state.value:
                return
            if state not in NEXT_PLAN_STATES[PlanState(current)]:
                raise InvalidPlanState(f"{plan_id} is {current}: it cannot become {state.value}")
            connection.execute(update(PlanRow).where(PlanRow.plan_id == plan_id).values(state=state.value))
            connection.execute(
                insert(PlanStateRow).values(
                    plan_id=plan_id, state=state.value, by=storable(by), at=at, note=storable(note or "")
                )
            )

    def history(self, plan_id: str) -> list[PlanStateChange]:
        """Give all states that a plan entered, oldest first: who approved it, and when."""
        wanted = select(PlanStateRow).where(PlanStateRow.plan_id == plan_id).order_by(PlanStateRow.plan_state_id)
        with self._engine.connect() as connection:
            return [
                PlanStateChange(PlanState(row.state), row.by, row.at, row.note) for row in connection.execute(wanted)
            ]

    def _moves(self, plan_id: str, first: int | None, last: int | None) -> Iterator[PlannedMove]:
        number: InstrumentedAttribute[int] = PlannedMoveRow.move_no
        wanted = select(*(PlannedMoveRow.__table__.columns)).where(PlannedMoveRow.plan_id == plan_id).order_by(number)
        if first is not None:
            wanted = wanted.where(number >= first)
        if last is not None:
            wanted = wanted.where(number <= last)
        with self._engine.connect() as connection:
            # a cursor on the server: a plan of any size is read with the memory of 5,000 moves
            for row in connection.execution_options(yield_per=5_000).execute(wanted):
                yield PlannedMove(
                    move_no=row.move_no,
                    ref=ObjectRef(Provider(row.provider), row.bucket, row.key, row.version_id),
                    etag=row.etag,
                    size_bytes=row.size_bytes,
                    last_modified_at=row.last_modified_at,
                    class_since_at=row.class_since_at,
                    from_class=row.from_class,
                    to_class=row.to_class,
                    saving_usd=row.saving_usd,
                    one_time_usd=row.one_time_usd,
                    monthly_saving_usd=row.monthly_saving_usd,
                    payback_days=row.payback_days,
                    reason=row.reason,
                )


def _summary(row: RowMapping) -> PlanSummary:
    return PlanSummary(
        plan_id=row["plan_id"],
        run_id=row["run_id"],
        created_at=row["created_at"],
        decisions_day=row["decisions_day"],
        horizon_days=row["horizon_days"],
        dry_run=row["dry_run"],
        state=PlanState(row["state"]),
        guardrails=Guardrails(row["max_objects"], row["max_bytes"], row["max_one_time_usd"], row["min_saving_usd"]),
        totals=PlanTotals(
            objects=row["objects"],
            bytes=row["bytes"],
            saving_usd=row["saving_usd"],
            one_time_usd=row["one_time_usd"],
            before_usd_month=row["before_usd_month"],
            after_usd_month=row["after_usd_month"],
            scored_objects=row["scored_objects"],
            left_out=row["left_out"],
        ),
    )
