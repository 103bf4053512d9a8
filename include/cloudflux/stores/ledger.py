"""The append-only record of all that happened to every move. Triggers in the database forbid to change it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import psycopg
from sqlalchemy import Connection, Engine, select

from cloudflux.domain.ledger import InvalidTransition, LedgerConflict, LedgerEntry, StateTotals
from cloudflux.domain.migrations import NEXT_STATES, MigrationState
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.stores.bulk import copy_columns, storable
from cloudflux.stores.object_states import state_from_json, state_to_json
from cloudflux.stores.tables import LedgerRow

_TABLE: Final = "cloudflux.ledger"
_MAY_FOLLOW: Final = {
    # every move of a stored plan is planned, whether or not an entry says so
    "": NEXT_STATES[MigrationState.PLANNED] | {MigrationState.PLANNED},
    **{str(state): following for state, following in NEXT_STATES.items()},
}

_SPARSE: Final = 4
"""Where a plan's moves that come in are fewer than one of so many in their range, they are looked up one by one."""

_BLOCK_MOVES: Final = 1000
_FEW_BLOCKS: Final = 8
"""Who appends to more blocks of a plan's moves than that has the whole plan for itself."""

# Whoever appends to the same moves waits here: what is read next must be what the other has recorded. Steps of one plan
# append to moves of their own, and do not wait for one another.
_KEY: Final = "hashtextextended('cloudflux.ledger/' || %(plan_id)s::text, 0)"
_LOCK_PLAN: Final = f"SELECT pg_advisory_xact_lock({_KEY})"
_SHARE_PLAN: Final = f"SELECT pg_advisory_xact_lock_shared({_KEY})"
_LOCK_BLOCKS: Final = """
SELECT pg_advisory_xact_lock(hashtextextended('cloudflux.ledger/' || %(plan_id)s::text || '/' || block, 0))
FROM unnest(%(blocks)s::bigint[]) AS block
"""
_RECORDED: Final = (
    f"SELECT move_no, state FROM {_TABLE} WHERE plan_id = %(plan_id)s AND {{moves}} ORDER BY move_no, step"  # noqa: S608  # our own names
)
_RECORDED_RANGE: Final = _RECORDED.format(moves="move_no BETWEEN %(first)s::bigint AND %(last)s::bigint")
_RECORDED_SPARSE: Final = _RECORDED.format(moves="move_no = ANY(%(numbers)s::bigint[])")

_NEWEST: Final = f"""
SELECT DISTINCT ON (plan_id, move_no) plan_id, move_no, state, detail, size_bytes, one_time_usd, expected_saving_usd
FROM {_TABLE} {{where}}
ORDER BY plan_id DESC, move_no DESC, step DESC
"""  # noqa: S608  # our own names; all descending: the unique index gives this order, nothing is sorted

_RANGE: Final = (
    "WHERE plan_id = %(plan_id)s AND move_no >= coalesce(%(first)s::bigint, 0) "
    "AND move_no <= coalesce(%(last)s::bigint, 9223372036854775807)"
)


class Ledger:
    """The ledger of all migrations."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def append(self, entries: Sequence[LedgerEntry]) -> int:
        """Append entries in their order, all or none; one whose (plan, move, state) is recorded already adds nothing.

        A move's first entry follows ``planned``, which it may also name. Returns how many were new. Raises
        ``InvalidTransition`` naming moves whose state may not follow, or that no plan has; ``LedgerConflict`` when
        somebody recorded the same move at the same moment. Takes thousands of entries a call: they are one COPY.
        """
        if not entries:
            return 0
        moves: dict[str, set[int]] = {}
        for entry in entries:
            moves.setdefault(entry.plan_id, set()).add(entry.move_no)
        try:
            with self._engine.begin() as connection:
                for plan_id in sorted(moves):
                    _lock(connection, plan_id, moves[plan_id])
                entered = {plan_id: _entered(connection, plan_id, numbers) for plan_id, numbers in moves.items()}
                fresh = _chained(entries, entered)
                copy_columns(connection, _TABLE, _cells(fresh))
                return len(fresh)
        except psycopg.errors.ForeignKeyViolation as exc:
            raise InvalidTransition(
                f"a ledger entry is for a move that no stored plan has: {exc.diag.message_detail}"
            ) from exc
        except psycopg.errors.UniqueViolation as exc:
            raise LedgerConflict(
                f"another run recorded the same move at the same moment: {exc.diag.message_detail}"
            ) from exc

    def states(
        self, plan_id: str, first: int | None = None, last: int | None = None
    ) -> dict[int, tuple[MigrationState, str]]:
        """Tell each move's newest state with its detail; a move without an entry (it is planned) is not in it.

        Of all moves, or of those numbered ``first`` to ``last``, both included.
        """
        newest = _NEWEST.format(where=_RANGE)
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(newest, {"plan_id": plan_id, "first": first, "last": last})
            return {row.move_no: (MigrationState(row.state), row.detail) for row in rows}

    def seen(self, plan_id: str, first: int | None = None, last: int | None = None) -> dict[int, ObjectState]:
        """Give what each object was before its move, by move number, of all moves or of a range."""
        return self._object_states(plan_id, MigrationState.SUBMITTED, first, last)

    def left(self, plan_id: str, first: int | None = None, last: int | None = None) -> dict[int, ObjectState]:
        """Give what each object was after its move was verified, by move number, of all moves or of a range."""
        return self._object_states(plan_id, MigrationState.DONE, first, last)

    def _object_states(
        self, plan_id: str, state: MigrationState, first: int | None, last: int | None
    ) -> dict[int, ObjectState]:
        # an earlier release kept the state of `submitted` as text in the detail
        kept = "coalesce(object_state, CASE WHEN state = 'submitted' AND detail LIKE '{%%' THEN detail::jsonb END)"
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(
                f"SELECT move_no, provider, bucket, key, version_id, {kept} AS object_state "  # noqa: S608  # our own names
                f"FROM {_TABLE} {_RANGE} AND state = %(state)s",
                {"plan_id": plan_id, "first": first, "last": last, "state": state.value},
            )
            return {
                row.move_no: state_from_json(
                    ObjectRef(Provider(row.provider), row.bucket, row.key, row.version_id), row.object_state
                )
                for row in rows
                if row.object_state is not None
            }

    def counts(self, plan_id: str) -> dict[MigrationState, int]:
        """Count a plan's moves by their newest state; moves without an entry are not counted."""
        return {state: totals.moves for state, totals in self.totals(plan_id).items()}

    def totals(self, plan_id: str | None = None) -> dict[MigrationState, StateTotals]:
        """Add up the moves by their newest state, of one plan or of all: ``DONE`` is what has been realised."""
        newest = _NEWEST.format(where="" if plan_id is None else "WHERE plan_id = %(plan_id)s")
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(
                f"SELECT newest.state, count(*) AS moves, sum(newest.size_bytes)::bigint AS bytes, "  # noqa: S608  # our own names
                "sum(newest.one_time_usd) AS one_time_usd, sum(newest.expected_saving_usd) AS expected_saving_usd, "
                "sum(planned.monthly_saving_usd) AS monthly_saving_usd "
                f"FROM ({newest}) AS newest JOIN cloudflux.planned_moves AS planned USING (plan_id, move_no) "
                "GROUP BY newest.state",
                {"plan_id": plan_id},
            )
            return {
                MigrationState(row.state): StateTotals(
                    row.moves, row.bytes, row.one_time_usd, row.expected_saving_usd, row.monthly_saving_usd
                )
                for row in rows
            }

    def entries(
        self,
        plan_id: str | None = None,
        *,
        states: Sequence[MigrationState] | None = None,
        since: datetime | None = None,
    ) -> Iterator[LedgerEntry]:
        """Give entries in the order in which they were recorded: of one plan or all, of some states, from a time on.

        They are read through a cursor on the server, 5,000 at a time.
        """
        wanted = select(*LedgerRow.__table__.columns).order_by(LedgerRow.ledger_id)
        if plan_id is not None:
            wanted = wanted.where(LedgerRow.plan_id == plan_id)
        if states is not None:
            wanted = wanted.where(LedgerRow.state.in_([state.value for state in states]))
        if since is not None:
            wanted = wanted.where(LedgerRow.at >= since)
        with self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=5_000).execute(wanted):
                ref = ObjectRef(Provider(row.provider), row.bucket, row.key, row.version_id)
                yield LedgerEntry(
                    plan_id=row.plan_id,
                    move_no=row.move_no,
                    ref=ref,
                    state=MigrationState(row.state),
                    at=row.at,
                    from_class=row.from_class,
                    to_class=row.to_class,
                    etag=row.etag,
                    size_bytes=row.size_bytes,
                    detail=row.detail,
                    request_id=row.request_id,
                    one_time_usd=row.one_time_usd,
                    expected_saving_usd=row.expected_saving_usd,
                    actor=row.actor,
                    object_state=None if row.object_state is None else state_from_json(ref, row.object_state),
                    cost_usd=row.cost_usd,
                )


def _lock(connection: Connection, plan_id: str, numbers: Collection[int]) -> None:
    """Let nobody else append to moves of a plan until the transaction ends; in order: no two wait in a circle."""
    blocks = sorted({number // _BLOCK_MOVES for number in numbers})
    if len(blocks) > _FEW_BLOCKS:
        connection.exec_driver_sql(_LOCK_PLAN, {"plan_id": plan_id})
        return
    connection.exec_driver_sql(_SHARE_PLAN, {"plan_id": plan_id})
    connection.exec_driver_sql(_LOCK_BLOCKS, {"plan_id": plan_id, "blocks": blocks})


def _entered(connection: Connection, plan_id: str, numbers: Collection[int]) -> dict[int, list[str]]:
    """Give the states that moves of a plan have entered, in their order."""
    first, last = min(numbers), max(numbers)
    if last - first < _SPARSE * len(numbers):
        values = {"plan_id": plan_id, "first": first, "last": last}
        rows = connection.exec_driver_sql(_RECORDED_RANGE, values)
    else:
        rows = connection.exec_driver_sql(_RECORDED_SPARSE, {"plan_id": plan_id, "numbers": list(numbers)})
    entered: dict[int, list[str]] = {}
    for move_no, state in rows.all():
        entered.setdefault(move_no, []).append(state)
    return entered


def _chained(
    entries: Sequence[LedgerEntry], entered: Mapping[str, dict[int, list[str]]]
) -> list[tuple[LedgerEntry, int]]:
    """Drop entries that are recorded already, and chain the others to what is and to one another; with their steps.

    ``entered`` is written into. Raises ``InvalidTransition`` when a state may not follow.
    """
    fresh: list[tuple[LedgerEntry, int]] = []
    wrong: list[tuple[LedgerEntry, str]] = []
    for entry in entries:
        states = entered[entry.plan_id].setdefault(entry.move_no, [])
        if entry.state in states:
            continue
        before = states[-1] if states else ""
        if entry.state not in _MAY_FOLLOW[before]:
            wrong.append((entry, before))
        states.append(entry.state)
        fresh.append((entry, len(states)))
    if wrong:
        wrong.sort(key=lambda one: (one[0].plan_id, one[0].move_no))
        examples = "; ".join(
            f"move {entry.move_no} of {entry.plan_id} ({entry.ref.key}) from {before or 'planned'} to {entry.state}"
            for entry, before in wrong[:3]
        )
        raise InvalidTransition(
            f"{len(wrong)} ledger entries do not follow from what is recorded, nothing was appended: {examples}"
        )
    return fresh


def _cells(chained: Sequence[tuple[LedgerEntry, int]]) -> dict[str, Sequence[str | None]]:
    """Write entries as PostgreSQL reads them, column by column."""
    entries = [entry for entry, _ in chained]
    refs = [entry.ref for entry in entries]
    states = [entry.object_state for entry in entries]
    times = {at: at.isoformat() for at in {entry.at for entry in entries}}  # one time for thousands
    return {
        "plan_id": [entry.plan_id for entry in entries],
        "move_no": [str(entry.move_no) for entry in entries],
        "step": [str(step) for _, step in chained],
        "provider": [ref.provider for ref in refs],
        "bucket": [ref.bucket for ref in refs],
        "key": [ref.key for ref in refs],
        "version_id": [ref.version_id for ref in refs],
        "state": [entry.state for entry in entries],
        "at": [times[entry.at] for entry in entries],
        "from_class": [entry.from_class for entry in entries],
        "to_class": [entry.to_class for entry in entries],
        "etag": [entry.etag for entry in entries],
        "size_bytes": [str(entry.size_bytes) for entry in entries],
        "detail": [storable(entry.detail) for entry in entries],
        "request_id": [entry.request_id for entry in entries],
        "one_time_usd": [str(entry.one_time_usd) for entry in entries],
        "expected_saving_usd": [str(entry.expected_saving_usd) for entry in entries],
        "actor": [storable(entry.actor) for entry in entries],
        "object_state": [None if state is None else state_to_json(state) for state in states],
        "cost_usd": [None if entry.cost_usd is None else str(entry.cost_usd) for entry in entries],
    }
