"""A provider's autopilot for a whole bucket or account: is switching it on cheaper than a class for each object?

GCS Autoclass is a setting of the bucket, Azure's smart tier one of the account. Neither can be had for single objects,
so all objects of the setting are weighed together: what they are expected to cost in it over the horizon, what
switching it on costs included, against what they are expected to cost in the classes that are best for each of them.
It has to be cheaper by at least 2.5 % (``SWITCH_MARGIN``): it is for good, and what is placed object by object learns
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

import numpy as np

from cloudflux.domain.accounting import AutopilotTariff
from cloudflux.domain.costs import YEAR_DAYS, Floats
from cloudflux.domain.prices import PriceBook
from cloudflux.domain.usage import UsageChain

SWITCH_MARGIN: Final = 0.025
"""By how much a bucket's autopilot must be expected to be cheaper."""
MIN_HISTORY_DAYS: Final = 28
"""Below it nothing is proposed, as nothing is learnt from so little."""


def settable_autopilot(book: PriceBook) -> int | None:
    """Give the place of the book's autopilot that is a setting of a bucket or account, None where it has none.

    An autopilot that is not offered for the book's redundancy is none: Azure's smart tier is for zone-redundant
    accounts only.
    """
    for code, prices in enumerate(book.classes):
        autopilot = prices.autopilot
        if autopilot is None or autopilot.is_object_setting:
            continue
        if not autopilot.redundancies or book.redundancy in autopilot.redundancies:
            return code
    return None


@dataclass(frozen=True, slots=True)
class AutopilotLife:
    """What is expected of an object that enters an autopilot today and stays, by its state of use; shape (K,)."""

    storage_usd_gib: Floats
    """Storage of one GiB over the horizon, where the object is watched."""
    promotions: Floats
    """How often it goes back to the warmest price for a fee."""
    reads: Floats
    days: float
    """For how many days it is still there, as owners delete some."""


def autopilot_life(
    chain: UsageChain, autopilot: AutopilotTariff, horizon_days: int, *, deleted_share_year: float = 0.0
) -> AutopilotLife:
    """Follow the chain's states and the autopilot's clock through the horizon.

    The same expectation as ``placement.solve_placement`` for this class alone, for all sizes at once: the price of what
    is watched is linear in its size.
    """
    left = 1.0 if deleted_share_year <= 0 else float(np.exp(np.log1p(-deleted_share_year) / YEAR_DAYS))
    clocks = min(len(autopilot.usd_gib_day), horizon_days + 1)
    price = autopilot.usd_gib_day[:clocks, None]
    due = (np.arange(clocks) >= autopilot.promotion_from_idle_days)[:, None] * chain.read.sum(axis=1)[None, :]
    storage, promotions = np.zeros((clocks, len(chain))), np.zeros((clocks, len(chain)))
    reads, days = np.zeros(len(chain)), 0.0
    unread, read = np.ascontiguousarray(chain.unread.T), np.ascontiguousarray(chain.read.T)
    for _ in range(horizon_days):
        storage = price + left * _tomorrow(storage, unread, read)
        promotions = due + left * _tomorrow(promotions, unread, read)
        reads = chain.reads + left * ((chain.unread + chain.read) @ reads)
        days = 1.0 + left * days
    return AutopilotLife(storage[0], promotions[0], reads, days)


def _tomorrow(later: Floats, unread: Floats, read: Floats) -> Floats:
    """Expect what tomorrow gives for each of today's clocks: the next clock without a read, the first one after one."""
    expected: Floats = np.concatenate([later[1:], later[-1:]]) @ unread + later[0] @ read
    return expected


@dataclass(frozen=True, slots=True)
class AutopilotProposal:
    """What switching a bucket's or an account's autopilot on is expected to bring. Money is over the horizon."""

    provider: str
    scope: str
    """``bucket`` or ``account``."""
    setting_of: str
    """The bucket; for an account the connection that its buckets have in the estate."""
    buckets: tuple[str, ...]
    """Those of the estate that the setting holds for."""
    storage_class: str
    """The autopilot, as the price book names it."""
    price_book: str
    day: date
    """Of the decisions that it was weighed with."""
    horizon_days: int
    objects: int
    bytes: int
    present_usd: Decimal
    """Everything staying where it is."""
    own_usd: Decimal
    """Each object in the class that is best for it, with its moves."""
    own_usd_month: Decimal
    """A 30-day month of that, without what is paid once."""
    switched_usd: Decimal
    """Everything in the autopilot, with what switching it on costs."""
    switched_usd_month: Decimal
    entry_usd: Decimal
    """What switching it on costs once: a fee for each object, retrieval and early deletion where they are due."""
    monitoring_usd_month: Decimal
    """The fee for the objects that it watches, part of ``switched_usd_month``."""
    outside: int
    """Objects that cannot go in: they are counted at their own cost on both sides."""
    by_rules: int
    """Objects that no usage chain speaks for: weighed by their expected reads."""
    kept_by_owner: int
    """Objects that are excluded, pinned, retained or locked. The setting would hold for them too."""
    problems: tuple[str, ...]
    """Why nothing can be proposed, where it cannot."""

    @property
    def saving_usd(self) -> Decimal:
        """What it saves over classes object by object."""
        return self.own_usd - self.switched_usd

    @property
    def saving_share(self) -> float:
        """The same as a share of what classes object by object cost."""
        return float(self.saving_usd / self.own_usd) if self.own_usd > 0 else 0.0

    @property
    def is_proposed(self) -> bool:
        """Whether it is to be switched on."""
        return not self.problems and self.objects > 0 and self.saving_share >= SWITCH_MARGIN

    def described(self) -> str:
        """Say it in a sentence."""
        name = f"{self.storage_class} for {self.scope} {self.setting_of} ({self.provider})"
        if self.problems:
            return f"{name} is not weighed: {'; '.join(self.problems)}"
        compared = (
            f"${self.switched_usd:.2f} in {self.horizon_days} days, ${self.entry_usd:.2f} of it once, against "
            f"${self.own_usd:.2f} with a class for each object ({-self.saving_share:+.1%})"
        )
        if self.is_proposed:
            return f"switch on {name}: {compared}; decided {self.day}, for {self.objects:,} objects"
        return f"leave {name} off: {compared}"


def proposed(found: Sequence[AutopilotProposal]) -> list[AutopilotProposal]:
    """Keep those that are to be switched on, the largest saving first."""
    return sorted((one for one in found if one.is_proposed), key=lambda one: (-one.saving_usd, one.setting_of))
