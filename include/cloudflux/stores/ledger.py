"""The append-only record of all that happened to every move. Triggers in the database forbid to change it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import psycopg
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from cloudflux.domain.ledger import InvalidTransition, LedgerConflict, LedgerEntry, StateTotals
from cloudflux.domain.migrations import NEXT_STATES, MigrationState
from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.tiers import Provider
from cloudflux.stores.bulk import copy_lines, storable, temporary_copy_of
from cloudflux.stores.object_states import state_from_json, state_to_json
from cloudflux.stores.tables import LedgerRow

_TABLE: Final = "cloudflux.ledger"
_COLUMNS: Final = (
    "plan_id", "move_no", "provider", "bucket", "key", "version_id", "state", "at", "from_class", "to_class", "etag",
    "size_bytes", "detail", "request_id", "one_time_usd", "expected_saving_usd", "actor", "object_state", "cost_usd",
)  # fmt: skip
_LISTED: Final = ", ".join(_COLUMNS)

# Every move of a stored plan is planned, whether or not an entry says so.
_ALLOWED: Final = [
    ("", MigrationState.PLANNED.value),
    *(("", state.value) for state in sorted(NEXT_STATES[MigrationState.PLANNED])),
    *((before.value, after.value) for before, states in NEXT_STATES.items() for after in sorted(states)),
]

# One statement: of what came in, drop what is recorded already, chain the rest to each move's newest entry and to one
# another, and insert all of it or, when one link is not allowed, none.
_APPEND: Final = f"""
WITH incoming AS (
    SELECT DISTINCT ON (plan_id, move_no, state) * FROM ledger_in ORDER BY plan_id, move_no, state, ledger_id
), recorded AS MATERIALIZED (
    SELECT plan_id, move_no, state, step FROM {_TABLE} WHERE {{recorded}}
), fresh AS (
    SELECT i.* FROM incoming i WHERE NOT EXISTS (
        SELECT FROM recorded r WHERE r.plan_id = i.plan_id AND r.move_no = i.move_no AND r.state = i.state)
), newest AS (
    SELECT DISTINCT ON (plan_id, move_no) plan_id, move_no, state AS newest_state, step AS newest_step
    FROM recorded ORDER BY plan_id, move_no, step DESC
), chained AS (
    SELECT fresh.*, coalesce(lag(state) OVER entries, newest_state, '') AS previous,
        coalesce(newest_step, 0) + row_number() OVER entries AS step
    FROM fresh LEFT JOIN newest USING (plan_id, move_no)
    WINDOW entries AS (PARTITION BY plan_id, move_no ORDER BY ledger_id)
), wrong AS (
    SELECT * FROM chained
    WHERE (previous, state) NOT IN (SELECT * FROM unnest(%(before)s::text[], %(after)s::text[]))
), inserted AS (
    INSERT INTO {_TABLE} ({_LISTED}, step) SELECT {_LISTED}, step FROM chained
    WHERE NOT EXISTS (SELECT FROM wrong) ORDER BY ledger_id RETURNING 1
)
SELECT (SELECT count(*) FROM inserted) AS added, (SELECT count(*) FROM wrong) AS wrong,
    (SELECT string_agg(format('move %%s of %%s (%%s) from %%s to %%s', move_no, plan_id, key,
        coalesce(nullif(previous, ''), 'planned'), state), '; ')
     FROM (SELECT * FROM wrong ORDER BY plan_id, move_no LIMIT 3) AS first_ones) AS examples
"""  # noqa: S608  # our own names

# What is recorded of the moves that came in: of a step's moves, which follow one another, one range of the index.
_APPEND_RANGE: Final = _APPEND.format(
    recorded="plan_id = %(plan_id)s AND move_no BETWEEN %(first)s::bigint AND %(last)s::bigint"
)
_APPEND_SPARSE: Final = _APPEND.format(recorded="(plan_id, move_no) IN (SELECT plan_id, move_no FROM ledger_in)")
_SPARSE: Final = 4
"""Where a plan's moves that come in are fewer than one of so many in their range, they are looked up one by one."""

_LOCK: Final = "pg_advisory_xact_lock(hashtextextended('cloudflux.ledger/' || %(plan_id)s::text, 0))"
# Nothing tells the planner how many rows came in or are recorded: joined by a loop, 1,000 of each would take a second.
_LOCK_RANGE: Final = f"SELECT {_LOCK}, set_config('enable_nestloop', 'off', true)"

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
        somebody recorded the same move at the same moment. Takes thousands of entries a call: one COPY, one statement.
        """
        if not entries:
            return 0
        plan_ids = sorted({entry.plan_id for entry in entries})
        numbers = [entry.move_no for entry in entries]
        first, last = min(numbers), max(numbers)
        as_range = len(plan_ids) == 1 and last - first < _SPARSE * len(entries)
        try:
            with (
                self._engine.begin() as connection,
                temporary_copy_of(connection, _TABLE, ("ledger_id", *_COLUMNS), name="ledger_in"),
            ):
                times = {at: at.isoformat() for at in {entry.at for entry in entries}}  # one time for thousands
                rows = [_cells(entry, number, times[entry.at]) for number, entry in enumerate(entries)]
                copy_lines(connection, "ledger_in", ("ledger_id", *_COLUMNS), rows)
                # whoever appends to the same plan waits here: the statement below must see what the other recorded
                for plan_id in plan_ids:
                    lock = _LOCK_RANGE if as_range else f"SELECT {_LOCK}"
                    connection.exec_driver_sql(lock, {"plan_id": plan_id})
                values = {"before": [pair[0] for pair in _ALLOWED], "after": [pair[1] for pair in _ALLOWED]}
                within = {"plan_id": plan_ids[0], "first": first, "last": last} if as_range else {}
                outcome = connection.exec_driver_sql(
                    _APPEND_RANGE if as_range else _APPEND_SPARSE, {**values, **within}
                ).one()
                if outcome.wrong:
                    raise InvalidTransition(
                        f"{outcome.wrong} ledger entries do not follow from what is recorded, nothing was appended: "
                        f"{outcome.examples}"
                    )
                return int(outcome.added)
        except IntegrityError as exc:
            if isinstance(exc.orig, psycopg.errors.ForeignKeyViolation):
                raise InvalidTransition(
                    f"a ledger entry is for a move that no stored plan has: {exc.orig.diag.message_detail}"
                ) from exc
            if isinstance(exc.orig, psycopg.errors.UniqueViolation):
                raise LedgerConflict(
                    f"another run recorded the same move at the same moment: {exc.orig.diag.message_detail}"
                ) from exc
            raise

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


def _cells(entry: LedgerEntry, number: int, at: str) -> tuple[str | None, ...]:
    """Write an entry as PostgreSQL reads it."""
    ref, object_state, cost = entry.ref, entry.object_state, entry.cost_usd
    return (
        str(number), entry.plan_id, str(entry.move_no), ref.provider, ref.bucket, ref.key, ref.version_id,
        entry.state, at, entry.from_class, entry.to_class, entry.etag, str(entry.size_bytes),
        storable(entry.detail), entry.request_id, str(entry.one_time_usd), str(entry.expected_saving_usd),
        storable(entry.actor), None if object_state is None else state_to_json(object_state),
        None if cost is None else str(cost),
    )  # fmt: skip
