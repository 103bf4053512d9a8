"""A provider region's prices and rules, as values. Files become these in ``cloudflux.price_books``.

A GB is 2**30 bytes on all three bills, whatever the unit is called. A month is 30 days here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloudflux.domain.tiers import STANDARD_CLASS, Provider, Tier, tier_of

GIB_BYTES: Final = 2**30
MONTH_DAYS: Final = 30


class Latency(StrEnum):
    """How long the first byte takes."""

    MS = "ms"
    HOURS = "hours"


class AutopilotScope(StrEnum):
    """What a provider's autopilot is switched on for."""

    OBJECT = "object"  # S3 Intelligent-Tiering: a storage class like any other
    BUCKET = "bucket"  # GCS Autoclass
    ACCOUNT = "account"  # Azure smart tier


@dataclass(frozen=True, slots=True)
class AutopilotStep:
    """The storage price that an autopilot charges from ``idle_days`` without a read on."""

    idle_days: int
    storage_usd_gib_month: float
    name: str = ""
    """The provider's name of what the object is in then: an access tier of S3, a storage class of GCS or Azure."""
    object_usd_month: float = 0.0
    """What each object is charged on top of its size then: the overhead of S3's archive tiers."""


@dataclass(frozen=True, slots=True)
class RestoreOption:
    """One way to make an object of an archive readable: the slower, the cheaper."""

    name: str
    """The provider's own: ``expedited``, ``standard``, ``bulk``; Azure's ``high`` and ``standard`` priority."""
    request_usd: float | None
    """Restoring one object; None: not known."""
    retrieval_usd_gib: float | None
    """None: not known."""
    soonest_minutes: int
    """0 where the provider names no lower end."""
    within_minutes: int
    time: str
    """The provider's own words for how long it takes."""
    is_default: bool = False
    """Whether the class's ``restore_request_usd`` and ``retrieval_usd_gib`` are this option's."""
    read_usd: float | None = None
    """One read in this way, where it is not priced at the class's ``read_usd``: Azure's high priority."""


@dataclass(frozen=True, slots=True)
class ArchiveStep:
    """An archive tier that an owner may add to an autopilot: an object there has to be restored before it is read."""

    name: str
    min_idle_days: int
    """The lowest and the highest figure that an owner can set."""
    max_idle_days: int
    storage_usd_gib_month: float
    restores: tuple[RestoreOption, ...]
    overhead_class_bytes: int = 0
    """Billed for each object at this tier's rate, on top of its size."""
    overhead_standard_bytes: int = 0
    """Billed for each object at the standard class's rate, on top of its size."""
    from_idle_days: int | None = None
    """When objects go there, where the owner has switched it on; None: it is off."""

    def step(self, standard_usd_gib_month: float) -> AutopilotStep | None:
        """Give what an object costs there, and from when on; None where it is off."""
        if self.from_idle_days is None:
            return None
        at_class = self.overhead_class_bytes / GIB_BYTES * self.storage_usd_gib_month
        at_standard = self.overhead_standard_bytes / GIB_BYTES * standard_usd_gib_month
        return AutopilotStep(self.from_idle_days, self.storage_usd_gib_month, self.name, at_class + at_standard)


@dataclass(frozen=True, slots=True)
class Autopilot:
    """A class whose storage price falls while an object is idle, against a fee for each object watched."""

    scope: AutopilotScope
    monitoring_usd_month: float
    """For one object and month."""
    monitored_min_bytes: int
    """Smaller objects are neither monitored nor charged for it: they stay at the class's own price."""
    steps: tuple[AutopilotStep, ...]
    """By rising ``idle_days``, with falling prices for a GiB; archive tiers that are switched on are among them."""
    archive_steps: tuple[ArchiveStep, ...] = ()
    """Opt-in: S3's Archive Access and Deep Archive Access."""
    promotion_usd: float = 0.0
    """One object that goes back to the warmest price as it is read, if it was idle for long enough."""
    promotion_from_idle_days: int = 0
    """From which step on ``promotion_usd`` is due."""
    enable_usd: float = 0.0
    """One object, once, as the autopilot is switched on for the bucket or account that holds it."""
    enable_retrieval: bool = False
    """Whether retrieval is due as well then, at the class that the object was in."""
    enable_early_deletion: bool = False
    """Whether early deletion is due as well then, at the class that the object was in."""
    leave_usd: float | None = None
    """One object that is taken out into a class of its own; None: charged like any other move."""
    reenter: bool = True
    """Whether an object that was taken out can go back in."""
    redundancies: tuple[str, ...] = ()
    """The only redundancies that it is offered for; empty: any."""

    @property
    def is_object_setting(self) -> bool:
        """Whether single objects are put into it; else a whole bucket or account is."""
        return self.scope is AutopilotScope.OBJECT

    @property
    def left_for_good(self) -> bool:
        """Whether it is a whole bucket's or account's, and single objects may leave it: Azure's smart tier."""
        return not self.is_object_setting and self.leave_usd is not None


@dataclass(frozen=True, slots=True)
class StorageBand:
    """A part of the bytes that an account holds in one class of one region, with its price."""

    up_to_gib: float | None
    """Where the band ends; None: it has no end."""
    usd_gib_month: float


@dataclass(frozen=True, slots=True)
class ClassPrices:
    """What one storage class costs. Requests are priced singly, bytes by the GiB."""

    storage_class: str
    storage_usd_gib_month: float
    write_usd: float
    """One PUT, write operation or Class A operation."""
    read_usd: float
    """One GET, read operation or Class B operation."""
    retrieval_usd_gib: float
    transition_in_usd: float | None
    """One object brought here by the provider's lifecycle rules; None: they cannot."""
    lifecycle_to: tuple[str, ...]
    """The classes that lifecycle rules may take an object of this class to."""
    min_days: int
    min_billable_bytes: int
    overhead_class_bytes: int
    """Billed for each object at this class's rate, on top of its size."""
    overhead_standard_bytes: int
    """Billed for each object at the standard class's rate, on top of its size."""
    latency: Latency
    single_az: bool
    restore_request_usd: float
    """What makes one object readable before it can be read; 0 where it always is."""
    restored_copy_days: int
    """For how many days a restored copy is billed at the standard rate."""
    autopilot: Autopilot | None
    restores: tuple[RestoreOption, ...] = ()
    """From the fastest to the slowest; one of them is the default. Empty where an object is always readable."""
    storage_bands: tuple[StorageBand, ...] = ()
    """By rising end, the first at ``storage_usd_gib_month``. Empty: one price, however much there is."""
    lifecycle_in_min_age_days: int = 0
    """How old an object of the standard class must be before lifecycle rules can bring it here."""

    @property
    def is_setting_of_whole(self) -> bool:
        """Whether it is an autopilot that a whole bucket or account is put into, no single object."""
        return self.autopilot is not None and not self.autopilot.is_object_setting

    @property
    def leave_usd(self) -> float | None:
        """What an object pays that leaves it, wherever it goes; None where it pays as for any other move."""
        return None if self.autopilot is None else self.autopilot.leave_usd


@dataclass(frozen=True, slots=True)
class MoveCharge:
    """What one move by a client pays, whatever the class. Early deletion is owed at the source."""

    write_at_destination: bool
    read_at_source: bool
    retrieval_at_source: bool
    early_deletion: bool


@dataclass(frozen=True, slots=True)
class Fee:
    """What the provider charges for watching or changing many objects at once; no part of a class's price."""

    name: str
    usd: float
    per: str
    """What ``usd`` is for, e.g. ``1000000 objects``."""


@dataclass(frozen=True, slots=True)
class PriceBook:
    """One provider region's prices and rules."""

    name: str
    provider: Provider
    region: str
    seen_on: date
    classes: tuple[ClassPrices, ...]
    """From the warmest to the coldest: a move to a later class is a move down."""
    client_move_down: MoveCharge
    client_move_up: MoveCharge
    lifecycle_early_deletion: bool
    """Whether a lifecycle rule that takes an object away before its minimum days pays for the days that are missing."""
    lifecycle_retrieval: bool = False
    """Whether a lifecycle rule pays retrieval at the class that it takes an object from."""
    lifecycle_min_bytes: int = 0
    """Lifecycle rules leave smaller objects where they are, unless the owner tells them otherwise."""
    soft_delete_days: int = 0
    """For how many days what a client's move overwrites is still billed, in its old class: GCS's soft delete."""
    list_usd: float | None = None
    """One LIST request, whatever the classes of what it lists; None: not known."""
    redundancy: str = ""
    """What the prices are for, where a region sells several (``LRS``); empty: there is one."""
    fees: tuple[Fee, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The provider's names of the classes, in the book's order."""
        return tuple(prices.storage_class for prices in self.classes)

    @property
    def standard_code(self) -> int:
        """The position of the class that an upload gets when it names none."""
        return self.class_names.index(STANDARD_CLASS[self.provider])

    def left_behind_usd_gib(self, source: int) -> float:
        """Give what a GiB that a client moves out of a class is still billed there, until soft delete lets go of it.

        Nobody says that these days count towards a class's minimum, so that they come on top of early deletion.
        """
        return self.classes[source].storage_usd_gib_month * self.soft_delete_days / MONTH_DAYS

    def code_of(self, storage_class: str) -> int:
        """Give a class's position. Raises ``KeyError`` naming the class and the book."""
        try:
            return self.class_names.index(storage_class)
        except ValueError:
            raise KeyError(f"price book {self.name} has no storage class {storage_class!r}") from None

    def prices_of(self, storage_class: str) -> ClassPrices:
        """Give a class's prices. Raises ``KeyError`` naming the class and the book."""
        return self.classes[self.code_of(storage_class)]

    def tier_of(self, storage_class: str) -> Tier:
        """Tell the provider-neutral tier of a class."""
        return tier_of(self.provider, storage_class)

    def codes_of(self, storage_classes: NDArray[Any]) -> NDArray[np.intp]:
        """Give the positions of N class names; -1 for a class that the book does not know."""
        names = np.asarray(storage_classes, dtype=object)
        codes = np.full(names.shape, -1, dtype=np.intp)
        for code, name in enumerate(self.class_names):
            codes[names == name] = code
        return codes


def banded_storage_usd_month(prices: ClassPrices, total_gib: ArrayLike) -> NDArray[np.float64]:
    """Give what a month of all the bytes that an account holds in one class of a region costs, in the shape given.

    ``total_gib``: their billable size. Bands are counted over all buckets of the account and region, so the figures of
    single buckets must be added up first.
    """
    total = np.asarray(total_gib, dtype=np.float64)
    if not prices.storage_bands:
        return np.asarray(total * prices.storage_usd_gib_month)
    usd = np.zeros_like(total)
    start = 0.0
    for band in prices.storage_bands:
        end = np.inf if band.up_to_gib is None else band.up_to_gib
        usd += np.clip(total - start, 0.0, end - start) * band.usd_gib_month
        start = end
    return usd


def marginal_storage_usd_gib_month(prices: ClassPrices, total_gib: float) -> float:
    """Give the price of the last GiB of ``total_gib``: what one object less of them would save."""
    for band in prices.storage_bands:
        if band.up_to_gib is None or total_gib <= band.up_to_gib:
            return band.usd_gib_month
    return prices.storage_usd_gib_month
