"""What a provider's public price list says of one meter, in the same form for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final, Literal

from cloudflux.domain.errors import TerminalError

Counted = Literal["GiB-month", "GiB", "request", "object-month"]

COUNTED_BY: Final[Mapping[str, Counted]] = {
    "GiB-month": "GiB-month",
    "GiB": "GiB",
    "1000 requests": "request",
    "10000 requests": "request",
    "1000 objects-month": "object-month",
    "10000 objects-month": "object-month",
}
"""What a unit of a price book counts."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A meter's price: one for each volume band, for one of what is counted."""

    counted: Counted
    bands: tuple[tuple[Decimal, Decimal], ...]
    """Where each band begins, and its price; by rising beginning, the first at 0."""
    sku: str
    source: str
    """The key, below sources, of the list that says so."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a list has no price for a figure."""

    reason: str


@dataclass(slots=True)
class PriceList:
    """All that was read, ready to be asked figure by figure."""

    find: Callable[[str], Listed | Missing]
    """Give what the list says of a figure, by its label."""
    sources: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Title and date of each list read."""


def amount_of(text: object, what: str) -> Decimal:
    """Read a price or a band's beginning. Raises ``TerminalError`` naming the meter."""
    try:
        amount = Decimal(str(text))
    except InvalidOperation:
        raise TerminalError(f"the price list is damaged: {what} has {text!r} for an amount") from None
    if not amount.is_finite() or amount < 0:
        raise TerminalError(f"the price list is damaged: {what} has {text!r} for an amount")
    return amount
