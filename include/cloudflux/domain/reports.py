"""What report_savings puts on the record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
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
    realised_usd_month: Decimal | None
    """From the accesses since the moves; None while no whole day of them is covered by access logs."""
    one_time_usd: Decimal
    """What the moves done so far cost once."""
    plan_id: str | None = None
    """None: over all plans."""
    details: Mapping[str, object] = field(default_factory=dict)
    """Further figures, JSON values; Decimals and dates are kept as text."""


@dataclass(frozen=True, slots=True)
class UsdFigure:
    """An amount by the 30-day month, without what is paid once, and since the moves, with it."""

    month_usd: Decimal | None
    """None while there is no measured day."""
    since_usd: Decimal


@dataclass(frozen=True, slots=True)
class UsdEstimate:
    """An amount that a sample gives, with its standard error and the interval that holds it in 95 of 100 cases."""

    usd: Decimal
    standard_error_usd: Decimal | None
    low_usd: Decimal | None
    high_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What became of the objects that were not moved on purpose."""

    objects: int
    measured: int
    """Those with at least one measured day and a projected cost."""
    projected: UsdFigure
    """What they were projected to cost."""
    realised: UsdFigure
    """What they did cost."""


@dataclass(frozen=True, slots=True)
class MovesMeasured:
    """How many moves the figures rest on."""

    done: int = 0
    measured: int = 0
    """Those with at least one measured day."""
    compared: int = 0
    """Of these, those whose projected cost is known: the ones that are compared with the hold-out."""
    undone: int = 0
    deleted: int = 0
    """Objects that are gone; the days before count, and so does early deletion."""
    overwritten: int = 0
    """Objects with new content; the same holds."""
    reclassified: int = 0
    """Objects that somebody else put into another class; the days before count."""
    unpriced: int = 0
    """Moves from or to a class that the price book does not know: left out."""
    costs_unknown: int = 0
    """Moves whose cost the ledger does not have: the planned one is taken."""


@dataclass(frozen=True, slots=True)
class SavingsDay:
    """What a plan has come to at the end of a day, since its moves, what was paid once included."""

    day: date
    projected_usd: Decimal
    realised_usd: Decimal
    against_hold_out_usd: Decimal | None
    standard_error_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class PlanSavings:
    """What one plan's moves brought, measured by the accesses since; or all plans'."""

    plan_id: str | None
    first_day: date | None
    """The first day that is counted: the one after the first move."""
    last_day: date | None
    moves: MovesMeasured
    object_days: int
    """Days of moved objects that are counted."""
    left_out_days: int
    """Days of moved objects that are not, because the access logs do not cover them."""
    one_time_usd: Decimal
    """As the ledger recorded it: the moves, and those that took them back."""
    projected: UsdFigure
    """What was expected of the very moves and days that are measured."""
    realised: UsdFigure
    """The objects' own accesses, in the class that they came from less in the one that they are in."""
    held_out: HeldOut | None
    """None when the plan has no hold-out."""
    against_hold_out_month: UsdEstimate | None
    against_hold_out_since: UsdEstimate | None
    excluded_reads: int
    """Reads by excluded agents, which the figures leave out."""
    excluded_reads_usd: Decimal
    """What they would take off the realised saving if each of them had read its whole object."""
    days: tuple[SavingsDay, ...] = ()


def savings_of_all(plans: Sequence[PlanSavings]) -> PlanSavings:
    """Add up what plans brought.

    What only some have, a comparison with a hold-out, is the sum of those that have it; ``moves.compared`` tells of how
    many moves. Standard errors and intervals are added up as they are: plans hold out the same objects, so that their
    errors do not cancel out.
    """
    held = [plan.held_out for plan in plans if plan.held_out is not None]
    firsts = [plan.first_day for plan in plans if plan.first_day is not None]
    lasts = [plan.last_day for plan in plans if plan.last_day is not None]
    return PlanSavings(
        plan_id=None,
        first_day=min(firsts, default=None),
        last_day=max(lasts, default=None),
        moves=MovesMeasured(
            **{one.name: sum(getattr(plan.moves, one.name) for plan in plans) for one in fields(MovesMeasured)}
        ),
        object_days=sum(plan.object_days for plan in plans),
        left_out_days=sum(plan.left_out_days for plan in plans),
        one_time_usd=_sum(plan.one_time_usd for plan in plans),
        projected=_figure([plan.projected for plan in plans]),
        realised=_figure([plan.realised for plan in plans]),
        held_out=HeldOut(
            sum(one.objects for one in held),
            sum(one.measured for one in held),
            _figure([one.projected for one in held]),
            _figure([one.realised for one in held]),
        )
        if held
        else None,
        against_hold_out_month=_estimate([plan.against_hold_out_month for plan in plans]),
        against_hold_out_since=_estimate([plan.against_hold_out_since for plan in plans]),
        excluded_reads=sum(plan.excluded_reads for plan in plans),
        excluded_reads_usd=_sum(plan.excluded_reads_usd for plan in plans),
        days=_days_of_all(plans),
    )


def _days_of_all(plans: Sequence[PlanSavings]) -> tuple[SavingsDay, ...]:
    """Add up by day; a plan whose time of measuring is over keeps its last figures."""
    by_day = [{one.day: one for one in plan.days} for plan in plans]
    standing: list[SavingsDay | None] = [None] * len(plans)
    rows = []
    for day in sorted({day for days in by_day for day in days}):
        standing = [days.get(day, last) for days, last in zip(by_day, standing, strict=True)]
        there = [one for one in standing if one is not None]
        compared = [one for one in there if one.against_hold_out_usd is not None]
        rows.append(
            SavingsDay(
                day=day,
                projected_usd=_sum(one.projected_usd for one in there),
                realised_usd=_sum(one.realised_usd for one in there),
                against_hold_out_usd=_sum_of_known([one.against_hold_out_usd for one in compared]),
                standard_error_usd=_sum_if_all([one.standard_error_usd for one in compared]),
            )
        )
    return tuple(rows)


def _figure(figures: Sequence[UsdFigure]) -> UsdFigure:
    return UsdFigure(_sum_of_known([one.month_usd for one in figures]), _sum(one.since_usd for one in figures))


def _estimate(estimates: Sequence[UsdEstimate | None]) -> UsdEstimate | None:
    known = [one for one in estimates if one is not None]
    if not known:
        return None
    return UsdEstimate(
        _sum(one.usd for one in known),
        _sum_if_all([one.standard_error_usd for one in known]),
        _sum_if_all([one.low_usd for one in known]),
        _sum_if_all([one.high_usd for one in known]),
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))


def _sum_of_known(amounts: Sequence[Decimal | None]) -> Decimal | None:
    known = [amount for amount in amounts if amount is not None]
    return _sum(known) if known else None


def _sum_if_all(amounts: Sequence[Decimal | None]) -> Decimal | None:
    return _sum_of_known(amounts) if None not in amounts else None
