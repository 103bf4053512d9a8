"""What was done and may be taken back: of a plan, or of one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Engine, Row

from cloudflux.domain.objects import ObjectRef, ObjectState
from cloudflux.domain.undo import DoneMove
from cloudflux.stores.object_states import state_from_json
from cloudflux.stores.plans import MOVE_COLUMNS, planned_move

_SAME_OBJECT: Final = (
    "hashtextextended(o.key, 0) = hashtextextended(d.key, 0) "  # by the index; then surely
    "AND o.key = d.key AND o.bucket = d.bucket AND o.provider = d.provider AND o.state = 'done'"
)

_PLANNED: Final = ", ".join(f"p.{name}" for name in MOVE_COLUMNS)

# An undo of a later plan's move leaves the object where the earlier plan had left it, but perhaps under another ETag or
# generation. Then the earlier move can be taken back from there.
_DONE: Final = f"""
SELECT {_PLANNED}, d.plan_id, d.at AS done_at, d.etag AS done_etag, d.size_bytes AS done_bytes,
    d.object_state AS done_state,
    coalesce(s.at, d.at) AS began_at,
    o.plan_id AS later_plan, o.to_class AS later_class, o.at AS later_at, o.object_state AS later_state,
    o.kind AS later_kind
FROM cloudflux.ledger d
JOIN cloudflux.planned_moves p USING (plan_id, move_no)
LEFT JOIN cloudflux.ledger s ON s.plan_id = d.plan_id AND s.move_no = d.move_no AND s.state = 'submitted'
LEFT JOIN LATERAL (
    SELECT o.plan_id, o.to_class, o.at, o.object_state, later.kind
    FROM cloudflux.ledger o JOIN cloudflux.plans later USING (plan_id)
    WHERE {_SAME_OBJECT} AND o.ledger_id > d.ledger_id
    ORDER BY o.ledger_id DESC LIMIT 1
) o ON true
WHERE d.state = 'done' AND NOT EXISTS (
    SELECT FROM cloudflux.ledger u WHERE u.plan_id = d.plan_id AND u.move_no = d.move_no AND u.state = 'undone')
"""  # noqa: S608  # our own names

_NEWEST: Final = f"""
SELECT d.number, o.plan_id, o.to_class
FROM unnest(%(providers)s::text[], %(buckets)s::text[], %(keys)s::text[])
    WITH ORDINALITY d(provider, bucket, key, number)
CROSS JOIN LATERAL (
    SELECT o.plan_id, o.to_class FROM cloudflux.ledger o WHERE {_SAME_OBJECT} ORDER BY o.ledger_id DESC LIMIT 1
) o
"""  # noqa: S608  # our own names


class DoneMoves:
    """The moves that are done and not taken back."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of_plan(self, plan_id: str, first: int, last: int) -> list[DoneMove]:
        """Give those of a plan that are numbered ``first`` to ``last``, both included, by number."""
        wanted = f"{_DONE} AND d.plan_id = %(plan_id)s AND d.move_no BETWEEN %(first)s AND %(last)s ORDER BY d.move_no"
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(wanted, {"plan_id": plan_id, "first": first, "last": last})
            return [_done_move(row) for row in rows]

    def of_object(self, ref: ObjectRef) -> DoneMove | None:
        """Give the newest move of an object that no undo made; None when there is none."""
        wanted = (
            f"{_DONE} AND hashtextextended(d.key, 0) = hashtextextended(%(key)s::text, 0) AND d.key = %(key)s "
            "AND d.bucket = %(bucket)s AND d.provider = %(provider)s "
            "AND EXISTS (SELECT FROM cloudflux.plans k WHERE k.plan_id = d.plan_id AND k.kind <> 'undo') "
            "ORDER BY d.ledger_id DESC LIMIT 1"
        )
        values = {"key": ref.key, "bucket": ref.bucket, "provider": ref.provider.value}
        with self._engine.connect() as connection:
            row = connection.exec_driver_sql(wanted, values).one_or_none()
        return None if row is None else _done_move(row)

    def newest(self, refs: Sequence[ObjectRef]) -> dict[ObjectRef, tuple[str, str]]:
        """Tell by which plan and to which class objects were moved last; one that never moved is left out."""
        values = {
            "providers": [ref.provider.value for ref in refs],
            "buckets": [ref.bucket for ref in refs],
            "keys": [ref.key for ref in refs],
        }
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(_NEWEST, values)
            return {refs[row.number - 1]: (row.plan_id, row.to_class) for row in rows}


def _done_move(row: Row[Any]) -> DoneMove:
    move = planned_move(row)
    ref = move.ref
    brought_back = row.later_kind == "undo" and row.later_class == row.to_class and row.later_state is not None
    if brought_back:
        left, left_at = state_from_json(ref, row.later_state), row.later_at
    elif row.done_state is not None:
        left, left_at = state_from_json(ref, row.done_state), row.done_at
    else:  # an earlier release kept the ETag alone
        left_at = row.done_at
        left = ObjectState(ref, row.done_bytes, row.to_class, row.done_etag, row.done_at, row.done_at)
    return DoneMove(row.plan_id, move, left, row.began_at, left_at, None if brought_back else row.later_plan)
