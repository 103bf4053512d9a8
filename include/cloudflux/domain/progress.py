"""How far a plan has come: what its moves amount to, how fast they go, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

RECENT: Final = timedelta(minutes=1)
"""Over how long the present rate is taken."""


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """What became of a plan's moves of one provider and bucket, or of several."""

    provider: str
    """Empty when it is of several."""
    bucket: str
    moves: int
    """All that are to move: what is held out is not among them."""
    bytes: int
    done: int
    bytes_done: int
    failed: int
    skipped: int
    cancelled: int
    undone: int
    """Done once, and taken back by a later plan."""
    restoring: int
    in_flight: int
    """Submitted or to be verified."""
    recently_ended: int
    """Moves that ended in the last minute before ``at``."""
    cost_usd: Decimal
    """What was spent so far: also for what was undone later."""
    without_cost: int
    """Moves that are done and whose cost nobody could tell."""
    first_at: datetime | None
    """Of the ledger's entries; None when there is none."""
    last_at: datetime | None
    at: datetime
    """When all this was so."""

    @property
    def ended(self) -> int:
        """How many moves will change no more."""
        return self.done + self.failed + self.skipped + self.cancelled + self.undone

    @property
    def planned(self) -> int:
        """How many moves have not begun."""
        return self.moves - self.ended - self.restoring - self.in_flight

    @property
    def per_second(self) -> float | None:
        """Moves that ended in a second, over the last minute or since the beginning, whichever is shorter."""
        if self.first_at is None:
            return None
        seconds = min(RECENT, self.at - self.first_at).total_seconds()
        return self.recently_ended / seconds if seconds > 0 else None

    @property
    def overall_per_second(self) -> float | None:
        """Moves that ended in a second, from the first entry to the last."""
        if self.first_at is None or self.last_at is None:
            return None
        seconds = (self.last_at - self.first_at).total_seconds()
        return (self.ended - self.cancelled) / seconds if seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the present rate; None when nothing ended of late.

        What waits for a restore is left out: that takes as long as the provider takes.
        """
        left = self.planned + self.in_flight
        if not left:
            return 0.0
        return left / self.per_second if self.per_second else None


def together(parts: Sequence[MoveProgress]) -> MoveProgress:
    """Add up the progress of several buckets, seen at one moment."""
    if not parts:
        raise ValueError("nothing to add up")

    def total(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    firsts = [part.first_at for part in parts if part.first_at is not None]
    lasts = [part.last_at for part in parts if part.last_at is not None]
    providers = {part.provider for part in parts}
    buckets = {part.bucket for part in parts}
    return MoveProgress(
        provider=providers.pop() if len(providers) == 1 else "",
        bucket=buckets.pop() if len(buckets) == 1 else "",
        moves=total("moves"),
        bytes=total("bytes"),
        done=total("done"),
        bytes_done=total("bytes_done"),
        failed=total("failed"),
        skipped=total("skipped"),
        cancelled=total("cancelled"),
        undone=total("undone"),
        restoring=total("restoring"),
        in_flight=total("in_flight"),
        recently_ended=total("recently_ended"),
        cost_usd=sum((part.cost_usd for part in parts), Decimal(0)),
        without_cost=total("without_cost"),
        first_at=min(firsts, default=None),
        last_at=max(lasts, default=None),
        at=parts[0].at,
    )
