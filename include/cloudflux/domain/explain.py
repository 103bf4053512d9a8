"""What one object costs in one storage class, part by part, in plain arithmetic.

For people who want to follow a decision, and for the tests: ``cloudflux.domain.costs`` computes the same in arrays, and
a property test holds the two together. Nothing is shared between the two but the price book.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from cloudflux.domain.prices import GIB_BYTES, MONTH_DAYS, ClassPrices, MoveCharge, PriceBook


@dataclass(frozen=True, slots=True)
class Outlook:
    """One object and what is expected of it over a horizon."""

    size_bytes: int
    current_class: str
    days_in_class: float
    idle_days: float
    reads: float
    read_bytes: float
    probability_any: float
    horizon_days: int
    deleted_share_year: float


@dataclass(frozen=True, slots=True)
class CostParts:
    """The expected cost of one object in one class over the horizon, part by part, in USD."""

    storage_usd: float
    monitoring_usd: float
    requests_usd: float
    retrieval_usd: float
    move_usd: float
    early_deletion_usd: float
    coming_back_usd: float
    deleted_too_early_usd: float

    @property
    def running_usd(self) -> float:
        """What holding and reading cost."""
        return self.storage_usd + self.monitoring_usd + self.requests_usd + self.retrieval_usd

    @property
    def one_time_usd(self) -> float:
        """What the move costs."""
        return self.move_usd + self.early_deletion_usd

    @property
    def total_usd(self) -> float:
        """All parts together: what the policy compares."""
        return sum(float(getattr(self, field.name)) for field in fields(self))


def explain_cost(book: PriceBook, outlook: Outlook, storage_class: str) -> CostParts:
    """Give the parts of what an object is expected to cost in one class, the move there included.

    Raises ``KeyError`` naming a class that the book does not have.
    """
    there = book.prices_of(storage_class)
    here = book.prices_of(outlook.current_class)
    moves = storage_class != outlook.current_class
    gib = outlook.size_bytes / GIB_BYTES
    months = outlook.horizon_days / MONTH_DAYS
    chance = _chance_of_reads(outlook)

    storage = _storage_usd_month(book, there, outlook.size_bytes) * months
    monitoring = 0.0
    if there.autopilot is not None and outlook.size_bytes >= there.autopilot.monitored_min_bytes:
        monitoring = there.autopilot.monitoring_usd_month * months
        idle = 0.0 if moves else min(outlook.idle_days, outlook.days_in_class)
        price, for_object = there.storage_usd_gib_month, 0.0
        for step in there.autopilot.steps:
            days = _days_unread_for(outlook, step.idle_days, idle, chance)
            storage -= (price - step.storage_usd_gib_month) * gib * days / MONTH_DAYS
            storage += (step.object_usd_month - for_object) * days / MONTH_DAYS
            price, for_object = step.storage_usd_gib_month, step.object_usd_month

    move = early = 0.0
    if moves:
        move = _move_usd(book, here, there, gib)
        missing_days = max(here.min_days - outlook.days_in_class, 0)
        if _charge(book, here, there).early_deletion:
            early = _storage_usd_month(book, here, outlook.size_bytes) * missing_days / MONTH_DAYS

    owed_days = there.min_days if moves else max(there.min_days - outlook.days_in_class, 0)
    return CostParts(
        storage_usd=storage,
        monitoring_usd=monitoring,
        requests_usd=outlook.reads * (there.read_usd + there.restore_request_usd),
        retrieval_usd=outlook.read_bytes / GIB_BYTES * _retrieval_usd_gib(book, there),
        move_usd=move,
        early_deletion_usd=early,
        coming_back_usd=_coming_back_usd(book, outlook, there, chance) if moves else 0.0,
        deleted_too_early_usd=_storage_usd_month(book, there, outlook.size_bytes)
        * _unused_days(owed_days, outlook.deleted_share_year)
        / MONTH_DAYS,
    )


def _chance_of_reads(outlook: Outlook) -> float:
    """Give the chance of any read: no distribution of counts lets it exceed the mean."""
    stated = max(outlook.probability_any, 1e-6) if outlook.probability_any > 0 else 1.0
    return min(stated, outlook.reads, 1.0)


def _standard(book: PriceBook) -> ClassPrices:
    return book.classes[book.standard_code]


def _storage_usd_month(book: PriceBook, prices: ClassPrices, size_bytes: int) -> float:
    billable_bytes = max(size_bytes, prices.min_billable_bytes) + prices.overhead_class_bytes
    at_standard = prices.overhead_standard_bytes * _standard(book).storage_usd_gib_month
    return (billable_bytes * prices.storage_usd_gib_month + at_standard) / GIB_BYTES


def _retrieval_usd_gib(book: PriceBook, prices: ClassPrices) -> float:
    copy = prices.restored_copy_days / MONTH_DAYS * _standard(book).storage_usd_gib_month
    return prices.retrieval_usd_gib + copy


def _move_usd(book: PriceBook, source: ClassPrices, destination: ClassPrices, gib: float) -> float:
    if source.leave_usd is not None:
        return source.leave_usd
    charge = _charge(book, source, destination)
    total = 0.0
    if charge.write_at_destination:
        total += destination.write_usd
    if charge.read_at_source:
        total += source.read_usd + source.restore_request_usd
    if charge.retrieval_at_source:
        total += gib * _retrieval_usd_gib(book, source)
    return total + gib * source.storage_usd_gib_month * book.soft_delete_days / MONTH_DAYS


def _charge(book: PriceBook, source: ClassPrices, destination: ClassPrices) -> MoveCharge:
    down = book.classes.index(destination) > book.classes.index(source)
    return book.client_move_down if down else book.client_move_up


def _coming_back_usd(book: PriceBook, outlook: Outlook, there: ClassPrices, chance: float) -> float:
    standard = _standard(book)
    if there is standard or there.autopilot is not None or outlook.reads == 0:
        return 0.0
    gib_per_read = outlook.read_bytes / outlook.reads / GIB_BYTES

    def read_usd(prices: ClassPrices) -> float:
        return prices.read_usd + prices.restore_request_usd + gib_per_read * _retrieval_usd_gib(book, prices)

    dearer = read_usd(there) - read_usd(standard)
    if dearer <= 0:
        return 0.0
    held_there = _storage_usd_month(book, there, outlook.size_bytes)
    saved_month = max(_storage_usd_month(book, standard, outlook.size_bytes) - held_there, 0.0)
    break_even_reads = saved_month * outlook.horizon_days / MONTH_DAYS / dearer
    one_more = 1 - 1 / max(outlook.reads / chance, 1.0)
    chance_of_more = chance * math.pow(one_more, max(break_even_reads - 1, 0.0))
    owed_days = max(there.min_days - outlook.horizon_days / 2, 0.0)
    back = _move_usd(book, there, standard, outlook.size_bytes / GIB_BYTES)
    return chance_of_more * (back + held_there * owed_days / MONTH_DAYS)


def _unused_days(owed_days: float, deleted_share_year: float) -> float:
    if deleted_share_year <= 0:
        return 0.0
    rate = -math.log(1 - deleted_share_year) / 365
    return owed_days - (1 - math.exp(-rate * owed_days)) / rate


def _days_unread_for(outlook: Outlook, after_days: int, idle_days: float, chance: float) -> float:
    """Give how many days of the horizon the object is expected to have been unread for ``after_days``."""
    horizon = outlook.horizon_days
    first = min(max(after_days - idle_days, 0.0), horizon)
    until = min(after_days, horizon)
    span = max(until - first, 0.0)
    if outlook.reads == 0:
        return span + (horizon - until)
    rate = outlook.reads / chance / horizon
    if_read = (math.exp(-rate * first) - math.exp(-rate * (first + span))) / rate
    if_read += (horizon - until) * math.exp(-rate * after_days)
    return (1 - chance) * (span + horizon - until) + chance * if_read
