"""The migration plans: stored once, never changed, only their state moves on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, cast

import psycopg
import pyarrow as pa
from psycopg import sql
from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, RowMapping, func, select, update
from sqlalchemy.dialects.postgresql import insert

from cloudflux.domain.errors import CloudFluxError, TerminalError
from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.plans import (
    NEXT_PLAN_STATES,
    AboveCap,
    Guardrails,
    MigrationPlan,
    MoveRole,
    PlanGroup,
    PlanKind,
    PlannedMove,
    PlanState,
    PlanTotals,
)
from cloudflux.domain.tiers import Provider
from cloudflux.stores.bulk import copy_table, storable
from cloudflux.stores.tables import PlannedMoveRow, PlanRow, PlanStateRow

_MOVE_COLUMNS: Final = tuple(column.name for column in PlannedMoveRow.__table__.columns)
MOVE_COLUMNS: Final = tuple(name for name in _MOVE_COLUMNS if name != "plan_id")
_CELLS: Final = len(MOVE_COLUMNS)
_GUARDRAILS: Final = TypeAdapter(Guardrails)
_GROUPS: Final = TypeAdapter(tuple[PlanGroup, ...])
_ABOVE_CAPS: Final = TypeAdapter(tuple[AboveCap, ...])


class PlanTampered(TerminalError):
    """The stored moves of a plan are not those that were planned."""


class PlanNotFound(CloudFluxError, LookupError):
    """There is no such plan."""


class InvalidPlanState(TerminalError):
    """A plan was to enter a state that may not follow the one it is in, e.g. a preview to be approved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan(MigrationPlan):
    """A plan as it is kept, and where it stands."""

    state: PlanState
    moves_sha256: str
    """Of all its moves, in order; empty when an earlier release stored it."""


@dataclass(frozen=True, slots=True)
class MoveRange:
    """Consecutive moves of a plan, of one provider and bucket."""

    provider: str
    bucket: str
    first: int
    last: int
    """Included."""


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

    def add(self, plan: MigrationPlan, moves: pa.Table | Iterable[pa.Table], state: PlanState) -> bool:
        """Store a plan with all its moves, in one transaction; one with the same ``plan_id`` stays as it was.

        ``moves`` has the columns ``MOVE_COLUMNS``, by ``move_no``, money as float64 USD; it may come in parts, which
        are read only if the plan is new. Returns whether it was. Money is kept to ten places.
        """
        totals = plan.totals
        header = {
            "plan_id": plan.plan_id,
            "run_id": plan.run_id,
            "created_at": plan.created_at,
            "expires_at": plan.expires_at,
            "decisions_day": plan.decisions_day,
            "horizon_days": plan.horizon_days,
            "dry_run": plan.dry_run,
            "state": state.value,
            "kind": plan.kind.value,
            "undoes": plan.undoes,
            "guardrails": _GUARDRAILS.dump_python(plan.guardrails, mode="json"),
            "groups": _GROUPS.dump_python(plan.groups, mode="json"),
            "above_caps": _ABOVE_CAPS.dump_python(plan.above_caps, mode="json"),
            "objects": totals.objects,
            "bytes": totals.bytes,
            "saving_usd": totals.saving_usd,
            "one_time_usd": totals.one_time_usd,
            "before_usd_month": totals.before_usd_month,
            "after_usd_month": totals.after_usd_month,
            "scored_objects": totals.scored_objects,
            "left_out": totals.left_out,
            "canaries": totals.canaries,
            "held_out": totals.held_out,
            "moves_sha256": "",
        }
        with self._engine.begin() as connection:
            added = insert(PlanRow).values(header).on_conflict_do_nothing().returning(PlanRow.plan_id)
            if connection.execute(added).one_or_none() is None:
                return False
            for part in [moves] if isinstance(moves, pa.Table) else moves:
                owner = pa.repeat(pa.scalar(plan.plan_id, pa.string()), part.num_rows)
                copy_table(connection, "cloudflux.planned_moves", part.append_column("plan_id", owner))
            digest = _moves_sha256(connection, plan.plan_id)
            connection.execute(update(PlanRow).where(PlanRow.plan_id == plan.plan_id).values(moves_sha256=digest))
            connection.execute(
                insert(PlanStateRow).values(
                    plan_id=plan.plan_id, state=state.value, by=plan.run_id, at=plan.created_at, note="planned"
                )
            )
        return True

    def check_moves(self, plan_id: str) -> None:
        """Make sure that the moves are those that were stored with the plan.

        Raises ``PlanTampered`` when they are not, and ``PlanNotFound``.
        """
        stored = self.get(plan_id)
        with self._engine.connect() as connection:
            digest = _moves_sha256(connection, plan_id)
        if stored.moves_sha256 not in ("", digest):
            raise PlanTampered(
                f"the moves of {plan_id} are not those that were planned (sha256 {digest}, not {stored.moves_sha256}): "
                "nothing is moved; make a new plan, and find out who can write to the table planned_moves"
            )

    def get(self, plan_id: str) -> StoredPlan:
        """Give a plan. Raises ``PlanNotFound``."""
        with self._engine.connect() as connection:
            row = connection.execute(select(PlanRow).where(PlanRow.plan_id == plan_id)).mappings().one_or_none()
        if row is None:
            raise PlanNotFound(f"there is no plan {plan_id!r}")
        return _stored(row)

    def ranges(self, plan_id: str, role: MoveRole, most_moves: int | Callable[[str, str], int]) -> list[MoveRange]:
        """Cut the moves of one role into ranges of at most ``most_moves`` numbers, each of one provider and bucket.

        ``most_moves`` may depend on provider and bucket. Moves are numbered by provider and bucket, so those of a
        bucket follow one another.
        """
        most_of = most_moves if callable(most_moves) else lambda _provider, _bucket: most_moves
        with self._engine.connect() as connection:
            found = connection.execute(
                select(
                    PlannedMoveRow.provider,
                    PlannedMoveRow.bucket,
                    func.min(PlannedMoveRow.move_no).label("first"),
                    func.max(PlannedMoveRow.move_no).label("last"),
                )
                .where(PlannedMoveRow.plan_id == plan_id, PlannedMoveRow.role == role.value)
                .group_by(PlannedMoveRow.provider, PlannedMoveRow.bucket)
                .order_by(PlannedMoveRow.provider, PlannedMoveRow.bucket)
            ).all()
        return [
            MoveRange(row.provider, row.bucket, first, min(first + most - 1, row.last))
            for row in found
            for most in (most_of(row.provider, row.bucket),)
            for first in range(row.first, row.last + 1, most)
        ]

    def latest(self, *, dry_run: bool | None = None) -> StoredPlan | None:
        """Give the newest plan, of all or of the dry (or not dry) ones; None when there is none."""
        found = self.recent(1, dry_run=dry_run)
        return found[0] if found else None

    def recent(self, limit: int, *, dry_run: bool | None = None) -> list[StoredPlan]:
        """Give the newest plans, newest first."""
        wanted = select(PlanRow).order_by(PlanRow.created_at.desc(), PlanRow.plan_id).limit(limit)
        if dry_run is not None:
            wanted = wanted.where(PlanRow.dry_run == dry_run)
        with self._engine.connect() as connection:
            return [_stored(row) for row in connection.execute(wanted).mappings()]

    def moves(self, plan_id: str, first: int, last: int) -> list[PlannedMove]:
        """Give the moves numbered ``first`` to ``last``, both included, by number."""
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(_MOVES, {"plan_id": plan_id, "first": first, "last": last}).fetchall()
        return [planned_move(row) for row in rows]

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


_MOVES: Final = (
    f"SELECT {', '.join(MOVE_COLUMNS)} FROM cloudflux.planned_moves "  # noqa: S608  # our own names
    "WHERE plan_id = %(plan_id)s AND move_no BETWEEN %(first)s AND %(last)s ORDER BY move_no"
)
_PROVIDERS: Final = {provider.value: provider for provider in Provider}
_ROLES: Final = {role.value: role for role in MoveRole}


def planned_move(cells: Sequence[Any]) -> PlannedMove:
    """Read a row of ``planned_moves`` whose first columns are ``MOVE_COLUMNS``."""
    (
        move_no, provider, bucket, key, version_id, etag, size_bytes, last_modified_at, class_since_at, from_class,
        to_class, saving_usd, one_time_usd, monthly_saving_usd, payback_days, reason, role, undoes_move_no,
    ) = cells[:_CELLS]  # fmt: skip
    return PlannedMove(
        move_no,
        ObjectRef(_PROVIDERS[provider], bucket, key, version_id),
        etag,
        size_bytes,
        last_modified_at,
        class_since_at,
        from_class,
        to_class,
        saving_usd,
        one_time_usd,
        monthly_saving_usd,
        payback_days,
        reason,
        _ROLES[role],
        undoes_move_no,
    )


def _moves_sha256(connection: Connection, plan_id: str) -> str:
    """Give the digest of a plan's moves as PostgreSQL writes them, streamed."""
    wanted = sql.SQL("COPY (SELECT {} FROM cloudflux.planned_moves WHERE plan_id = {} ORDER BY move_no) TO STDOUT")
    statement = wanted.format(sql.SQL(", ").join(map(sql.Identifier, _MOVE_COLUMNS)), sql.Literal(plan_id))
    digest = hashlib.sha256()
    raw = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    with raw.cursor() as cursor:
        cursor.execute("SET LOCAL TIME ZONE 'UTC'")  # times are written in the session's zone
        with cursor.copy(statement) as copy:
            for block in copy:
                digest.update(block)
    return digest.hexdigest()


def _guardrails(content: Mapping[str, Any]) -> Guardrails:
    # pydantic reads no infinite Decimal, which as a cap means: none
    finite: Guardrails = _GUARDRAILS.validate_python({**content, "max_one_time_usd": 0})
    return replace(finite, max_one_time_usd=Decimal(content["max_one_time_usd"]))


def _stored(row: RowMapping) -> StoredPlan:
    return StoredPlan(
        plan_id=row["plan_id"],
        run_id=row["run_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        decisions_day=row["decisions_day"],
        horizon_days=row["horizon_days"],
        dry_run=row["dry_run"],
        kind=PlanKind(row["kind"]),
        undoes=row["undoes"],
        state=PlanState(row["state"]),
        moves_sha256=row["moves_sha256"],
        guardrails=_guardrails(row["guardrails"]),
        groups=_GROUPS.validate_python(row["groups"]),
        above_caps=_ABOVE_CAPS.validate_python(row["above_caps"]),
        totals=PlanTotals(
            objects=row["objects"],
            bytes=row["bytes"],
            saving_usd=row["saving_usd"],
            one_time_usd=row["one_time_usd"],
            before_usd_month=row["before_usd_month"],
            after_usd_month=row["after_usd_month"],
            scored_objects=row["scored_objects"],
            left_out=row["left_out"],
            canaries=row["canaries"],
            held_out=row["held_out"],
        ),
    )
