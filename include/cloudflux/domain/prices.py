"""A provider region's prices and rules, as values. Files become these in ``cloudflux.price_books``.

A GB is 2**30 bytes on all three bills, whatever the unit is called. A month is 30 days here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class Autopilot:
    """A class whose storage price falls while an object is idle, against a fee for each object watched."""

    scope: AutopilotScope
    monitoring_usd_month: float
    """For one object and month."""
    monitored_min_bytes: int
    """Smaller objects are neither monitored nor charged for it: they stay at the class's own price."""
    steps: tuple[AutopilotStep, ...]
    """By rising ``idle_days``, with falling prices."""


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


@dataclass(frozen=True, slots=True)
class MoveCharge:
    """What one move by a client pays, whatever the class. Early deletion is owed at the source."""

    write_at_destination: bool
    read_at_source: bool
    retrieval_at_source: bool
    early_deletion: bool


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

    @property
    def class_names(self) -> tuple[str, ...]:
        """The provider's names of the classes, in the book's order."""
        return tuple(prices.storage_class for prices in self.classes)

    @property
    def standard_code(self) -> int:
        """The position of the class that an upload gets when it names none."""
        return self.class_names.index(STANDARD_CLASS[self.provider])

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
