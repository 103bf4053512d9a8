"""A migration plan: one frozen value that the preview, the approval form and the execution all read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cloudflux.domain.objects import ObjectRef
from cloudflux.domain.quiet_hours import QuietHours
from cloudflux.domain.tiers import TIER_OF, Provider, Tier


class PlanState(StrEnum):
    """Where a plan stands."""

    PREVIEW = "preview"  # a dry run: never moves anything
    PROPOSED = "proposed"  # waits for approval
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"  # nobody approved it, or it was not carried out, before it became too old
    HALTED = "halted"  # its canary moves did not go well: the rest stays where it is
    EMPTY = "empty"  # nothing to move
    FINISHED = "finished"


NEXT_PLAN_STATES: Final = MappingProxyType(
    {
        PlanState.PREVIEW: frozenset[PlanState](),
        PlanState.PROPOSED: frozenset({PlanState.APPROVED, PlanState.REJECTED, PlanState.EXPIRED}),
        PlanState.APPROVED: frozenset({PlanState.FINISHED, PlanState.HALTED, PlanState.EXPIRED}),
        PlanState.REJECTED: frozenset[PlanState](),
        PlanState.EXPIRED: frozenset[PlanState](),
        PlanState.HALTED: frozenset[PlanState](),
        PlanState.EMPTY: frozenset[PlanState](),
        PlanState.FINISHED: frozenset[PlanState](),
    }
)
"""The states that may follow each state: a preview never becomes an approved plan."""


class PlanKind(StrEnum):
    """What a plan is for."""

    PLACEMENT = "placement"  # what the decisions propose
    UNDO = "undo"  # takes back the moves of an earlier plan


class MoveRole(StrEnum):
    """What part an object has in a plan."""

    CANARY = "canary"  # moves first, and is verified before the rest may move
    MOVE = "move"
    HOLD_OUT = "hold_out"  # never moves: what it costs shows what the moves brought


@dataclass(frozen=True, slots=True)
class Guardrails:
    """Limits on one plan. The best savings come first; what does not fit is left out, and the next one tried."""

    max_objects: int
    max_bytes: int
    max_one_time_usd: Decimal
    min_saving_usd: Decimal
    """Least expected net saving of one move over the horizon. Moves to a pinned class need none."""
    min_plan_saving_usd: Decimal = Decimal(0)
    """Least expected net saving of all moves that are to pay, over the horizon: below it none of them moves."""
    allowed_prefixes: tuple[str, ...] = ()
    """Addresses below which objects may move, as ``s3://bucket/logs/``; empty: everywhere."""
    excluded_prefixes: tuple[str, ...] = ()
    """Addresses below which nothing moves."""
    allowed_tags: tuple[str, ...] = ()
    """``key=value`` or ``key``: an object without any of them is skipped when it is looked at; empty: all may move."""
    excluded_tags: tuple[str, ...] = ()
    """``key=value`` or ``key``: an object with one of them is skipped when it is looked at."""
    quiet_hours: QuietHours | None = None
    canary_share: float = 0.0
    """Share of the moves of each provider, bucket and pair of classes that move first."""
    hold_out_share: float = 0.0
    """Share of the objects that no plan moves. By an object's name: it is the same one in every plan."""
    valid_days: int = 14
    """For how many days after its making a plan may move objects."""


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """One object's proposed move, bound to the object as the inventory saw it."""

    move_no: int
    ref: ObjectRef
    etag: str
    size_bytes: int
    last_modified_at: datetime
    class_since_at: datetime
    from_class: str
    to_class: str
    saving_usd: Decimal
    """Expected net saving over the horizon: the one-time cost is already taken off."""
    one_time_usd: Decimal
    monthly_saving_usd: Decimal
    payback_days: float | None
    """None for a move that is not to pay: to a pinned class, or one that takes an earlier move back."""
    reason: str
    role: MoveRole = MoveRole.MOVE
    undoes_move_no: int | None = None
    """Of the plan that this plan undoes."""


@dataclass(frozen=True, slots=True)
class PlanGroup:
    """The moves of a plan of one provider, bucket and pair of classes."""

    provider: str
    bucket: str
    from_class: str
    to_class: str
    objects: int
    bytes: int
    saving_usd: Decimal
    one_time_usd: Decimal
    longest_payback_days: float | None
    job_fees_usd: Decimal = Decimal(0)
    """What of the one-time cost S3 Batch Operations charges for its jobs, beside the copies."""
    pinned: int = 0
    """How many of the moves go to the class that their owner pinned the objects to, whatever it costs;"""
    pinned_saving_usd: Decimal = Decimal(0)
    """and what these save, often less than nothing."""


@dataclass(frozen=True, slots=True)
class AboveCap:
    """Moves of which each exceeds one of a plan's caps alone, so that no plan takes them; and the largest of them."""

    cap: str
    """``max_bytes`` or ``max_one_time_usd``."""
    moves: int
    provider: str
    bucket: str
    from_class: str
    to_class: str
    amount: Decimal
    """Of the largest, in the cap's unit."""
    saving_usd: Decimal


def leaves_for_good(provider: str, from_class: str) -> bool:
    """Tell whether nothing can take a move back: a blob that has left Azure's smart tier cannot go back in.

    See https://learn.microsoft.com/azure/storage/blobs/access-tiers-smart.
    """
    return provider == Provider.AZURE and TIER_OF[Provider.AZURE].get(from_class) is Tier.AUTO


@dataclass(frozen=True, slots=True)
class PlanTotals:
    """What a plan amounts to."""

    objects: int
    bytes: int
    saving_usd: Decimal
    one_time_usd: Decimal
    before_usd_month: Decimal
    """Expected running cost of a 30-day month of all scored objects where they are now."""
    after_usd_month: Decimal
    """The same once the plan is carried out."""
    scored_objects: int
    left_out: int
    """Moves that a guardrail left out; what is below ``min_saving_usd`` is not counted."""
    canaries: int = 0
    held_out: int = 0
    """Objects that would have moved, and stay for comparison."""


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """The moves that a run proposes, with what they cost and save, and the caps they passed.

    The moves themselves, of which there may be millions, are stored with it, and read by their numbers: first the
    canaries, then the others, then what is held out, each by provider, bucket and key.
    """

    plan_id: str
    """Stable for one DAG run: a retried task finds its plan again."""
    run_id: str
    created_at: datetime
    expires_at: datetime
    decisions_day: date
    horizon_days: int
    dry_run: bool
    guardrails: Guardrails
    totals: PlanTotals
    groups: tuple[PlanGroup, ...]
    kind: PlanKind = PlanKind.PLACEMENT
    undoes: str | None = None
    """The plan whose moves this one takes back."""
    above_caps: tuple[AboveCap, ...] = ()
    """What was left out because it exceeds a cap alone: by cap."""

    @property
    def irreversible(self) -> int:
        """How many of its moves no undo can take back."""
        return sum(group.objects for group in self.groups if leaves_for_good(group.provider, group.from_class))
