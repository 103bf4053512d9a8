"""Savings by the month, in percent and by the year; and whether they are projected or realised."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Final

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
