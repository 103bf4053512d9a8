"""Savings by the month, in percent and by the year; whether they are projected or realised; and what caused them.

``docs/savings.md`` derives the comparison with the objects that are held out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

_CENT: Final = Decimal("0.01")
_MONTHS_OF_YEAR: Final = 12


class SavingsBasis(StrEnum):
    """What savings rest on. Nothing is ever called plain savings."""

    PROJECTED = "projected"  # what the decisions expected
    REALISED = "realised"  # what the ledger and the bill show


@dataclass(frozen=True, slots=True)
class Savings:
    """The running cost of a 30-day month before and after, and what the change itself cost."""

    basis: SavingsBasis
    before_usd_month: Decimal
    after_usd_month: Decimal
    one_time_usd: Decimal

    @property
    def monthly_usd(self) -> Decimal:
        """What a month costs less; negative when it costs more."""
        return self.before_usd_month - self.after_usd_month

    @property
    def percent(self) -> Decimal:
        """The monthly saving in percent of the cost before, to two places; 0 when there was no cost."""
        if self.before_usd_month == 0:
            return Decimal("0.00")
        return (self.monthly_usd / self.before_usd_month * 100).quantize(_CENT, ROUND_HALF_UP)

    @property
    def annual_usd(self) -> Decimal:
        """Twelve monthly savings, without the one-time cost."""
        return self.monthly_usd * _MONTHS_OF_YEAR

    @property
    def first_year_usd(self) -> Decimal:
        """Twelve monthly savings less the one-time cost."""
        return self.annual_usd - self.one_time_usd

    @property
    def payback_months(self) -> Decimal | None:
        """After how many months the one-time cost has come back, to two places; None when it never does."""
        if self.one_time_usd <= 0:
            return Decimal("0.00")
        if self.monthly_usd <= 0:
            return None
        return (self.one_time_usd / self.monthly_usd).quantize(_CENT, ROUND_HALF_UP)


def projected_savings(before_usd_month: Decimal, after_usd_month: Decimal, one_time_usd: Decimal) -> Savings:
    """Give the savings that decisions or a plan expect."""
    return Savings(SavingsBasis.PROJECTED, before_usd_month, after_usd_month, one_time_usd)


def realised_savings(before_usd_month: Decimal, after_usd_month: Decimal, one_time_usd: Decimal) -> Savings:
    """Give the savings that moves which are done and verified brought."""
    return Savings(SavingsBasis.REALISED, before_usd_month, after_usd_month, one_time_usd)


@dataclass(frozen=True, slots=True)
class CostSums:
    """Sums over objects of what each was projected to cost (p) and what it did cost (y): all that comparing needs.

    Sums of parts of the objects add up, so that nobody has to hold all of them.
    """

    objects: int = 0
    projected_usd: float = 0.0
    cost_usd: float = 0.0
    cost_squares: float = 0.0
    """Sum of y y."""
    products: float = 0.0
    """Sum of y p."""
    projected_squares: float = 0.0
    """Sum of p p."""

    @classmethod
    def of(cls, projected_usd: ArrayLike, cost_usd: ArrayLike) -> CostSums:
        """Add up N objects."""
        projected = np.atleast_1d(np.asarray(projected_usd, dtype=np.float64))
        cost = np.atleast_1d(np.asarray(cost_usd, dtype=np.float64))
        return cls(
            len(projected),
            float(projected.sum()),
            float(cost.sum()),
            float((cost * cost).sum()),
            float((cost * projected).sum()),
            float((projected * projected).sum()),
        )

    @property
    def ratio(self) -> float | None:
        """How many times the projected cost it came to; None when nothing was projected."""
        return self.cost_usd / self.projected_usd if self.projected_usd > 0 else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure that a sample gives, and how sure it is."""

    usd: float
    standard_error_usd: float | None
    """None when the sample is one object: nothing tells how objects differ."""
    low_usd: float | None
    """Of the interval that holds the true figure in 95 of 100 cases."""
    high_usd: float | None


def against_hold_out(moved: CostSums, held_out: CostSums, one_time_usd: float = 0.0) -> Estimate | None:
    """Estimate what moving saved, from objects of the same kind that were not moved; None when there are none.

    What befell everybody shows in the hold-out's ratio r of cost to projected cost. Unmoved, the moved objects would
    have cost r times what was projected of them; what they did cost, and the moves, are taken off. The variance of the
    error r P - sum y0 is s2 (n P2 / Ph2 + m), with s2 that of the hold-out's residuals y - r p: the first part is r's,
    the second the moved objects' own chance. The interval has Student's t with n - 1 degrees of freedom.
    """
    ratio = held_out.ratio
    if ratio is None or not moved.objects:
        return None
    saved = ratio * moved.projected_usd - moved.cost_usd - one_time_usd
    count = held_out.objects
    if count < 2:
        return Estimate(saved, None, None, None)
    squares = held_out.cost_squares - 2 * ratio * held_out.products + ratio**2 * held_out.projected_squares
    spread = max(squares, 0.0) / (count - 1)
    scale = moved.projected_usd / held_out.projected_usd
    error = math.sqrt(spread * (count * scale**2 + moved.objects))
    reach = student_t_975(count - 1) * error
    return Estimate(saved, error, saved - reach, saved + reach)


_T_975: Final = (12.706205, 4.302653, 3.182446, 2.776445)
"""Student's t at 0.975 for 1 to 4 degrees of freedom."""
_Z_975: Final = 1.9599639845


def student_t_975(degrees: int) -> float:
    """Give the 0.975 quantile of Student's t distribution, to three places.

    From five degrees of freedom on by the expansion in 1 / degrees, Abramowitz and Stegun, 26.7.5.
    """
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = _Z_975
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / degrees ** (place + 1) for place, term in enumerate(terms)))
