"""What an explanation says: the object, its history, its forecast, a cost row for each choice, and the decision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from cloudflux.domain.bucket_autopilots import AutopilotProposal


@dataclass(frozen=True, slots=True)
class ExplainedObject:
    """The object as the newest inventory has it, and what its owner wants of it."""

    size_bytes: int
    storage_class: str
    tier: str
    class_since_at: datetime
    days_in_class: float
    last_modified_at: datetime
    content_type: str | None
    lock_reason: str | None
    excluded_prefix: str | None
    """The prefix that its owner excluded it with, or None."""
    pinned_class: str | None
    retained: bool
    """Whether it is younger than its owner's minimum retention."""
    latency: str
    """The slowest first byte that its owner accepts: ``ms`` or ``hours``."""


@dataclass(frozen=True, slots=True)
class WindowAccess:
    """What the logs hold of the last days."""

    days: int
    reads: int
    writes: int
    excluded_reads: int
    """Reads by agents that the estate excludes; they do not count."""


@dataclass(frozen=True, slots=True)
class ExplainedHistory:
    """What the access logs tell of the object before the day of the decision."""

    known_since: date | None
    """The first day that is looked at; None when nothing was logged. Windows that begin before it hold less."""
    first_day: date
    """The day of the first figure of ``daily_reads``."""
    daily_reads: tuple[int, ...]
    """Of the last 90 days, the oldest first."""
    windows: tuple[WindowAccess, ...]
    """Over the last 7, 30, 90 and 180 days."""
    last_read_on: date | None
    last_written_on: date | None
    coverage: float
    """How much of the last month the bucket's access logs tell, 0 to 1."""


@dataclass(frozen=True, slots=True)
class HorizonForecast:
    """What is expected of the next days."""

    days: int
    probability_any: float
    """Of at least one read, by the forecaster."""
    expected_reads: float
    state_probability_any: float | None
    """The same by the object's state of use, which is what the costs are made with; None without one."""
    state_expected_reads: float | None


@dataclass(frozen=True, slots=True)
class ExplainedState:
    """The object's state of use in the chain that the forecaster learnt."""

    state: int
    states: int
    """How many there are."""
    chance_of_read_a_day: float
    expected_reads_a_day: float
    learnt_from_days: float
    """Days of objects that the state was learnt from."""


@dataclass(frozen=True, slots=True)
class ExplainedGuard:
    """What the object's reads have cost beyond what the usage chain had led to expect, see ``domain.surprise``."""

    surprise_usd: float
    """What is in the account."""
    refuted_until: date | None
    """Until that day break-even decides; None: the chain does."""
    since: date
    """When the accounts began."""
    model: str
    """Whose chain they began with."""


@dataclass(frozen=True, slots=True)
class ExplainedForecast:
    """What is expected of the object, and who says so."""

    source: str
    """``model:<version>`` or ``rules``."""
    note: str | None
    """Why the rules speak, where they do."""
    tier: str
    confidence: float
    """The probability of the tier, 0 to 1."""
    horizons: tuple[HorizonForecast, ...]
    """Over 7, 30, 90 and 180 days."""
    state: ExplainedState | None


@dataclass(frozen=True, slots=True)
class CandidateCost:
    """What one choice is expected to cost over the horizon, part by part, in USD."""

    option: Literal["move", "keep", "wait"]
    """``keep``: stay there for good, what a move is weighed with; ``wait``: stay for now, and move later where the best
    is to move later; ``move``: move there today, and do the best afterwards."""
    storage_class: str
    chosen: bool
    storage_usd: float
    monitoring_usd: float
    requests_usd: float
    retrieval_usd: float
    moves_usd: float
    """Today's move and later ones, without early deletion."""
    early_deletion_usd: float
    """Owed today, at later moves, and where its owner deletes too early."""
    coming_back_usd: float
    """The chance of having to come back, for objects without a state of use; else it is among the other parts."""
    total_usd: float
    """The sum of the parts."""
    decided_usd: float
    """The figure that the decision compares: ``total_usd``, but for the rounding of the tables."""


@dataclass(frozen=True, slots=True)
class RuledOut:
    """A class that was no candidate."""

    storage_class: str
    why: str


@dataclass(frozen=True, slots=True)
class ExplainedDecision:
    """The decision of this moment."""

    action: Literal["move", "keep"]
    chosen_class: str
    reason: str
    horizon_days: int
    expected_reads: float
    """Over the horizon, as the costs are made with."""
    placed_by: Literal["state of use", "expected reads", "break-even"]
    """``break-even``: the object's own reads have refuted its state of use, see ``ExplainedGuard``."""
    stay_usd: float
    chosen_usd: float
    one_time_usd: float
    saving_usd: float
    payback_days: float | None
    payback_on: date | None
    """The day on which the one-time cost is earned back; None when nothing moves."""
    current_monthly_usd: float
    chosen_monthly_usd: float


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """What the newest published decisions say of the object."""

    day: date
    action: str
    chosen_class: str
    reason: str
    saving_usd: float
    source: str | None
    """Whose forecast it was made with; None when the forecast is not kept any more."""
    agrees: bool
    """Whether it is the same move, or no move either."""


@dataclass(frozen=True, slots=True)
class PricesUsed:
    """The price book."""

    name: str
    region: str
    redundancy: str
    seen_on: date
    """When the prices were looked up."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that one object's decision hangs on."""

    uri: str
    provider: str
    bucket: str
    key: str
    day: date
    """The first day of the horizon."""
    inventory_day: date
    object: ExplainedObject
    history: ExplainedHistory
    forecast: ExplainedForecast
    decision: ExplainedDecision
    candidates: tuple[CandidateCost, ...]
    """What was weighed, in the price book's order; the present class first."""
    ruled_out: tuple[RuledOut, ...]
    rule_class: str
    """What the rule-based classifier would choose, for comparison."""
    rule_reason: str
    prices: PricesUsed
    stored: StoredDecision | None
    guard: ExplainedGuard | None = None
    """None: the object has given no surprise."""
    bucket_autopilot: AutopilotProposal | None = None
    """What the newest scoring says of an autopilot for the whole bucket or account; None where there is none."""
