"""What report_savings puts on the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class SavingsReport:
    """Projected savings are what the decisions expected, realised ones what the ledger shows as done."""

    report_id: str
    """Stable for one DAG run: a retried task replaces its own report."""
    at: datetime
    day: date
    objects: int
    """Scored objects."""
    moves_done: int
    moves_failed: int
    before_usd_month: Decimal
    """Expected running cost of a 30-day month had nothing moved."""
    after_usd_month: Decimal
    """The same with every object where it is now."""
    projected_usd_month: Decimal
    realised_usd_month: Decimal
    one_time_usd: Decimal
    """What the moves done so far cost once."""
    details: Mapping[str, object] = field(default_factory=dict)
    """Further figures, JSON values; Decimals and dates are kept as text."""
