"""When moves were under way, by the ledger."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine

from cloudflux.domain.migrations import TERMINAL_STATES
from cloudflux.domain.uploads import Attempt

_ATTEMPTS: Final = """
SELECT move_no, min(at) FILTER (WHERE state = 'submitted') AS began_at,
    max(at) FILTER (WHERE state = ANY(%(terminal)s::text[])) AS ended_at
FROM cloudflux.ledger WHERE plan_id = %(plan_id)s AND move_no BETWEEN %(first)s AND %(last)s
GROUP BY move_no HAVING bool_or(state = 'submitted')
"""


class Attempts:
    """What the ledger says of when moves began and ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of_plan(self, plan_id: str, first: int, last: int) -> dict[int, Attempt]:
        """Give those of a plan that are numbered ``first`` to ``last``, both included; what never began is left out."""
        terminal = sorted(state.value for state in TERMINAL_STATES)
        values = {"plan_id": plan_id, "first": first, "last": last, "terminal": terminal}
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(_ATTEMPTS, values)
            return {row.move_no: Attempt(row.began_at, row.ended_at) for row in rows}
