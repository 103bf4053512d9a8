"""Moves that may be taken back: what the ledger says of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cloudflux.domain.objects import ObjectState
from cloudflux.domain.plans import PlannedMove


@dataclass(frozen=True, slots=True)
class DoneMove:
    """A move that is done and was not taken back."""

    plan_id: str
    move: PlannedMove
    left: ObjectState
    """The object as it was left: by the move, or by the newest undo that brought it back to where the move left it."""
    began_at: datetime
    left_at: datetime
    moved_on_by: str | None
    """The later plan that moved the same object on, if there is one."""
