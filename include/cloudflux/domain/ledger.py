"""The migration ledger: one entry for each change of state of one object's move, never changed afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from cloudflux.domain.errors import TerminalError, TransientError
from cloudflux.domain.migrations import MigrationState
from cloudflux.domain.objects import ObjectRef, ObjectState


class InvalidTransition(TerminalError):
    """A move was to enter a state that may not follow the one it is in; nothing of the call was recorded."""


class LedgerConflict(TransientError):
    """Somebody else recorded the same move at the same moment; nothing of the call was recorded."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One move entered one state."""

    plan_id: str
    move_no: int
    ref: ObjectRef
    state: MigrationState
    at: datetime
    from_class: str
    to_class: str
    etag: str
    """Of the object when this was recorded: the one seen before the move, the one verified after it."""
    size_bytes: int
    detail: str
    """Why: the provider's message, the reason for skipping. May be empty."""
    request_id: str | None
    """The provider's name of the request, for its support desk."""
    one_time_usd: Decimal
    expected_saving_usd: Decimal
    """Over the plan's horizon, net of ``one_time_usd``."""
    actor: str
    """Who did it: a DAG run's id, or a person's name."""
    object_state: ObjectState | None = None
    """What the object was when this was recorded: before the move in ``submitted``, after it in ``done``."""
    cost_usd: Decimal | None = None
    """What the move did cost once, at the prices and the days of the move; in ``done`` only."""


@dataclass(frozen=True, slots=True)
class StateTotals:
    """What the moves amount to whose newest state is one and the same."""

    moves: int
    bytes: int
    one_time_usd: Decimal
    expected_saving_usd: Decimal
    """Over the plans' horizons, net of ``one_time_usd``."""
    monthly_saving_usd: Decimal
    """Of the running cost, as the plans expected it."""
