"""What the measured moves of plans come to, added up over the shards, and the figures that are told of each plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cloudflux.domain.costs import usd
from cloudflux.domain.plans import MigrationPlan
from cloudflux.domain.reports import HeldOut, MovesMeasured, PlanSavings, SavingsDay, UsdEstimate, UsdFigure
from cloudflux.domain.savings import CostSums, Estimate, against_hold_out
from cloudflux.workflows.realised_rows import NEVER, Axis, Flags, Floats, Ints

_USD_PLACES: Final = 10

_COUNTED: Final = (
    "done", "measured", "compared", "undone", "deleted", "overwritten", "reclassified", "unpriced", "costs_unknown",
    "held_out", "held_out_measured", "object_days", "left_out_days", "excluded_reads",
)  # fmt: skip


@dataclass(slots=True)
class Sums:
    """What is added up over the shards, by plan; and by plan and day, as it stands at the day's end."""

    realised: Floats
    projected: Floats
    one_time: Floats
    planned_cost: Floats
    compared_cost: Floats
    """What was paid once for the moves that are compared with the hold-out."""
    one_time_total: Floats
    """What was paid once up to now, the last day that cannot be measured yet included; shape (plans,)."""
    planned_total: Floats
    compared_total: Floats
    moved: Floats
    """``CostSums``, shape (plans, days, 6)."""
    held: Floats
    moved_month: Floats
    """The same by the month, at the end; shape (plans, 6)."""
    held_month: Floats
    realised_month: Floats
    projected_month: Floats
    excluded_usd: Floats
    counts: list[dict[str, int]]
    first: Ints
    """The first day that may count."""

    @classmethod
    def empty(cls, plans: int, days: int) -> Sums:
        """Begin with nothing."""
        by_day = ("realised", "projected", "one_time", "planned_cost", "compared_cost")
        by_plan = (
            "one_time_total", "planned_total", "compared_total", "realised_month", "projected_month", "excluded_usd",
        )  # fmt: skip
        return cls(
            **{name: np.zeros((plans, days)) for name in by_day},
            **{name: np.zeros(plans) for name in by_plan},
            moved=np.zeros((plans, days, 6)),
            held=np.zeros((plans, days, 6)),
            moved_month=np.zeros((plans, 6)),
            held_month=np.zeros((plans, 6)),
            counts=[dict.fromkeys(_COUNTED, 0) for _ in range(plans)],
            first=np.full(plans, NEVER, dtype=np.int64),
        )

    def count(self, name: str, plans: Ints, amounts: npt.NDArray[Any] | None = None) -> None:
        """Add to a count of each plan."""
        found = np.bincount(plans, weights=amounts, minlength=len(self.counts))
        for counts, more in zip(self.counts, found.tolist(), strict=True):
            counts[name] += int(more)


def cost_sums(plans: Ints, chosen: Flags, projected: Floats, cost: Floats, count: int) -> Floats:
    """Give the ``CostSums`` of each plan, shape (plans, 6)."""
    p, y, of_plan = projected[chosen], cost[chosen], plans[chosen]
    parts = (np.ones(len(p)), p, y, y * y, y * p, p * p)
    return np.stack([np.bincount(of_plan, weights=part, minlength=count) for part in parts], axis=1)


def plan_savings(plan: MigrationPlan, number: int, sums: Sums, axis: Axis) -> PlanSavings:
    """Give the figures of one plan, by its place in ``sums``."""
    counts = sums.counts[number]
    moved, held = _last(sums.moved[number]), _last(sums.held[number])
    any_day = counts["measured"] > 0
    realised, projected = _total(sums.realised[number]), _total(sums.projected[number])
    once, planned = float(sums.one_time_total[number]), float(sums.planned_total[number])
    first = int(sums.first[number])
    begins = first if first < axis.days else None
    return PlanSavings(
        plan_id=plan.plan_id,
        first_day=None if begins is None else axis.first + timedelta(days=begins),
        last_day=None if begins is None else axis.first + timedelta(days=axis.days - 1),
        moves=MovesMeasured(**{name: counts[name] for name in MovesMeasured.__dataclass_fields__}),
        object_days=counts["object_days"],
        left_out_days=counts["left_out_days"],
        one_time_usd=_usd(once),
        projected=UsdFigure(_usd(sums.projected_month[number]) if any_day else None, _usd(projected - planned)),
        realised=UsdFigure(_usd(sums.realised_month[number]) if any_day else None, _usd(realised - once)),
        held_out=_held_out(counts, _cost(sums.held_month[number]), held),
        against_hold_out_month=_estimate(
            against_hold_out(_cost(sums.moved_month[number]), _cost(sums.held_month[number]))
        ),
        against_hold_out_since=_estimate(against_hold_out(moved, held, float(sums.compared_total[number]))),
        excluded_reads=counts["excluded_reads"],
        excluded_reads_usd=_usd(sums.excluded_usd[number]),
        days=() if begins is None else tuple(_days(number, begins, sums, axis)),
    )


def _days(number: int, begins: int, sums: Sums, axis: Axis) -> Iterator[SavingsDay]:
    for day in range(begins, axis.days):
        compared = against_hold_out(
            _cost(sums.moved[number, day]), _cost(sums.held[number, day]), float(sums.compared_cost[number, day])
        )
        error = None if compared is None else compared.standard_error_usd
        yield SavingsDay(
            day=axis.first + timedelta(days=day),
            projected_usd=_usd(sums.projected[number, day] - sums.planned_cost[number, day]),
            realised_usd=_usd(sums.realised[number, day] - sums.one_time[number, day]),
            against_hold_out_usd=None if compared is None else _usd(compared.usd),
            standard_error_usd=None if error is None else _usd(error),
        )


def _held_out(counts: Mapping[str, int], month: CostSums, since: CostSums) -> HeldOut | None:
    if not counts["held_out"]:
        return None
    measured = month.objects > 0
    return HeldOut(
        objects=counts["held_out"],
        measured=counts["held_out_measured"],
        projected=UsdFigure(_usd(month.projected_usd) if measured else None, _usd(since.projected_usd)),
        realised=UsdFigure(_usd(month.cost_usd) if measured else None, _usd(since.cost_usd)),
    )


def _estimate(found: Estimate | None) -> UsdEstimate | None:
    if found is None:
        return None
    rest = (found.standard_error_usd, found.low_usd, found.high_usd)
    error, low, high = (None if amount is None else _usd(amount) for amount in rest)
    return UsdEstimate(_usd(found.usd), error, low, high)


def _last(by_day: Floats) -> CostSums:
    return _cost(by_day[-1]) if len(by_day) else CostSums()


def _total(by_day: Floats) -> float:
    return float(by_day[-1]) if len(by_day) else 0.0


def _cost(parts: Floats) -> CostSums:
    return CostSums(int(parts[0]), *map(float, parts[1:]))


def _usd(amount: float) -> Decimal:
    return usd(float(amount), _USD_PLACES)
