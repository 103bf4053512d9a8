"""What N objects cost in each of a price book's C storage classes: float64 arrays of expected USD.

The parts are those of the bill: storage of the billable size, requests and retrieval, monitoring, the move itself,
early deletion still owed; and two expectations that no bill shows beforehand: coming back, and an owner who deletes too
early.
``cloudflux.domain.explain`` computes the same for one object in plain arithmetic, and the tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloudflux.domain.prices import GIB_BYTES, MONTH_DAYS, Autopilot, ClassPrices, PriceBook

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

YEAR_DAYS: Final = 365
MIN_CHANCE: Final = 1e-6
"""No forecast is surer than one in a million that there will be no read, if it expects reads at all."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is expected of N objects over a horizon. Arrays have shape (N,); make it with ``demand_of``."""

    size_bytes: Floats
    reads: Floats
    """Expected reads over the horizon."""
    read_bytes: Floats
    """Expected bytes read over the horizon."""
    probability_any: Floats
    """Of at least one read within the horizon; at most ``reads``, as no distribution of counts allows more."""
    horizon_days: int


def demand_of(
    size_bytes: ArrayLike,
    reads: ArrayLike,
    horizon_days: int,
    *,
    read_bytes: ArrayLike | None = None,
    probability_any: ArrayLike | None = None,
) -> Demand:
    """Put a forecast into the form that the cost functions take, with what it left open filled in.

    Without ``read_bytes`` every read reads the whole object; without ``probability_any`` (or where it is 0 although
    reads are expected) reads come as evenly as they can. Raises ``ValueError`` naming the column that holds negative
    figures or none at all.
    """
    if horizon_days < 1:
        raise ValueError(f"horizon_days must be at least 1, it is {horizon_days}")
    sizes = np.atleast_1d(np.asarray(size_bytes, dtype=np.float64))
    expected = _like(sizes, reads)
    transferred = expected * sizes if read_bytes is None else _like(sizes, read_bytes)
    chance = np.ones_like(sizes) if probability_any is None else _like(sizes, probability_any)
    for name, column in (
        ("size_bytes", sizes),
        ("reads", expected),
        ("read_bytes", transferred),
        ("probability_any", chance),
    ):
        if not bool(np.all(np.isfinite(column) & (column >= 0))):
            raise ValueError(f"{name} holds a figure that is negative or no number")
    chance = np.where(chance > 0, np.maximum(chance, MIN_CHANCE), 1.0)
    return Demand(sizes, expected, transferred, np.minimum(chance, np.minimum(expected, 1.0)), horizon_days)


def storage_usd_month(book: PriceBook, size_bytes: ArrayLike) -> Floats:
    """Give the storage price of a month, shape (N, C): minimum size and overhead included, no monitoring.

    An autopilot's class is priced as if the object were read all the time.
    """
    gib = np.atleast_1d(np.asarray(size_bytes, dtype=np.float64))[:, None] / GIB_BYTES
    billable = np.maximum(gib, _row(book, lambda c: c.min_billable_bytes / GIB_BYTES))
    at_class = billable + _row(book, lambda c: c.overhead_class_bytes / GIB_BYTES)
    standard = book.classes[book.standard_code].storage_usd_gib_month
    at_standard = _row(book, lambda c: c.overhead_standard_bytes / GIB_BYTES * standard)
    priced: Floats = at_class * _row(book, lambda c: c.storage_usd_gib_month) + at_standard
    return priced


def holding_usd(book: PriceBook, demand: Demand, idle_days: ArrayLike | None = None) -> Floats:
    """Give storage and monitoring over the horizon, shape (N, C).

    ``idle_days``: for how long the autopilot of the object's present class has not seen a read (0 when left out, as for
    an object that has just got there); shape (N,).
    """
    months = demand.horizon_days / MONTH_DAYS
    holding = storage_usd_month(book, demand.size_bytes) * months
    idle = np.zeros_like(demand.size_bytes) if idle_days is None else _like(demand.size_bytes, idle_days)
    for code, prices in enumerate(book.classes):
        if prices.autopilot is not None:
            holding[:, code] += _autopilot_usd(prices, prices.autopilot, demand, idle)
    return holding


def reading_usd(book: PriceBook, demand: Demand) -> Floats:
    """Give requests and retrieval of the expected reads over the horizon, shape (N, C)."""
    reading: Floats = demand.reads[:, None] * read_request_usd(book) + demand.read_bytes[
        :, None
    ] / GIB_BYTES * retrieval_usd_gib(book)
    return reading


def running_usd(book: PriceBook, demand: Demand, idle_days: ArrayLike | None = None) -> Floats:
    """Give what holding and reading cost over the horizon, shape (N, C): no move, no early deletion."""
    return holding_usd(book, demand, idle_days) + reading_usd(book, demand)


def running_month_usd(
    book: PriceBook, demand: Demand, class_codes: Codes, idle_days: ArrayLike | None = None
) -> Floats:
    """Give each object's running cost of a 30-day month in its given class, shape (N,): for before and after tables."""
    running = running_usd(book, demand, idle_days)
    return _taken(running, class_codes) * (MONTH_DAYS / demand.horizon_days)


def read_request_usd(book: PriceBook) -> Floats:
    """Give what one read's requests cost in each class, shape (C,): the restore request included."""
    return _row(book, lambda c: c.read_usd + c.restore_request_usd)


def retrieval_usd_gib(book: PriceBook) -> Floats:
    """Give what reading a GiB costs in each class, shape (C,): a restored copy's days at the standard rate included."""
    standard = book.classes[book.standard_code].storage_usd_gib_month
    return _row(book, lambda c: c.retrieval_usd_gib + c.restored_copy_days / MONTH_DAYS * standard)


def client_move_usd(book: PriceBook, size_bytes: ArrayLike, from_codes: Codes) -> Floats:
    """Give what a client pays to move each object to every class, shape (N, C); 0 for the class it is in.

    Early deletion comes on top, see ``early_deletion_usd``.
    """
    fixed, per_gib = _client_move_rates(book)
    gib = np.atleast_1d(np.asarray(size_bytes, dtype=np.float64))[:, None] / GIB_BYTES
    moved: Floats = fixed[from_codes] + gib * per_gib[from_codes]
    return moved


def lifecycle_move_usd(book: PriceBook, from_codes: Codes) -> Floats:
    """Give what the provider's lifecycle rules charge to move each object to every class, shape (N, C).

    ``inf`` where lifecycle rules cannot take an object; 0 for the class it is in.
    """
    count = len(book.classes)
    rates = np.full((count, count), np.inf)
    np.fill_diagonal(rates, 0.0)
    for source, prices in enumerate(book.classes):
        for name in prices.lifecycle_to:
            if name in book.class_names:
                destination = book.code_of(name)
                transition = book.classes[destination].transition_in_usd
                rates[source, destination] = np.inf if transition is None else transition
    moved: Floats = rates[from_codes]
    return moved


def early_deletion_usd(book: PriceBook, size_bytes: ArrayLike, class_codes: Codes, days_in_class: ArrayLike) -> Floats:
    """Give what leaving its class now would still owe for each object, shape (N,): storage for the missing days."""
    sizes = np.atleast_1d(np.asarray(size_bytes, dtype=np.float64))
    missing = np.maximum(_row(book, lambda c: float(c.min_days))[class_codes] - _like(sizes, days_in_class), 0.0)
    owed: Floats = _taken(storage_usd_month(book, sizes), class_codes) * missing / MONTH_DAYS
    return owed


def one_time_usd(book: PriceBook, size_bytes: ArrayLike, from_codes: Codes, days_in_class: ArrayLike) -> Floats:
    """Give the one-time cost of moving each object to every class, shape (N, C): a client's move and early deletion.

    0 for the class it is in.
    """
    count = len(book.classes)
    owes = np.array(
        [
            [
                source != destination
                and (book.client_move_down if destination > source else book.client_move_up).early_deletion
                for destination in range(count)
            ]
            for source in range(count)
        ]
    )
    owed = early_deletion_usd(book, size_bytes, from_codes, days_in_class)
    once: Floats = client_move_usd(book, size_bytes, from_codes) + np.where(owes[from_codes], owed[:, None], 0.0)
    return once


def coming_back_usd(book: PriceBook, demand: Demand) -> Floats:
    """Give the expected price of having to come back from each class, shape (N, C); 0 if reading is not dearer.

    An object has to come back when it is read so often that the standard class would have been cheaper over the
    horizon. The chance of it follows from the two figures of the forecast: no read at all with 1 - p, else a geometric
    number of reads with mean reads / p, which gives bursts the weight that a Poisson tail would deny them. Coming back
    costs the move to the standard class and, half of the horizon later, the early deletion owed then.
    """
    standard = book.standard_code
    months = demand.horizon_days / MONTH_DAYS
    gib_per_read = (
        np.divide(demand.read_bytes, demand.reads, out=demand.size_bytes.copy(), where=demand.reads > 0) / GIB_BYTES
    )
    storage = storage_usd_month(book, demand.size_bytes)
    saved = np.maximum(storage[:, [standard]] - storage, 0.0) * months
    read = read_request_usd(book) + gib_per_read[:, None] * retrieval_usd_gib(book)
    dearer = read - read[:, [standard]]
    charged = dearer > 0
    break_even_reads = np.divide(saved, dearer, out=np.zeros_like(saved), where=charged)
    mean_if_any = np.divide(
        demand.reads, demand.probability_any, out=np.ones_like(demand.reads), where=demand.probability_any > 0
    )
    again = 1.0 - 1.0 / np.maximum(mean_if_any, 1.0)
    chance = demand.probability_any[:, None] * again[:, None] ** np.maximum(break_even_reads - 1.0, 0.0)
    fixed, per_gib = _client_move_rates(book)
    back = fixed[:, standard] + demand.size_bytes[:, None] / GIB_BYTES * per_gib[:, standard]
    owed_days = np.maximum(_row(book, lambda c: float(c.min_days)) - demand.horizon_days / 2, 0.0)
    autopilot = np.array([prices.autopilot is not None for prices in book.classes])
    expected: Floats = np.where(charged & ~autopilot, chance * (back + storage * owed_days / MONTH_DAYS), 0.0)
    return expected


def deleted_too_early_usd(
    book: PriceBook, size_bytes: ArrayLike, owed_days: NDArray[np.float64], deleted_share_year: float
) -> Floats:
    """Give the expected early deletion for objects that their owners delete or overwrite, shape (N, C).

    ``owed_days`` (N, C): how many days the class would still be owed from now on. A share of the objects is lost each
    year at an even rate r; of m owed days the expected part that is never used is m - (1 - exp(-r m)) / r.
    """
    storage = storage_usd_month(book, size_bytes)
    if deleted_share_year <= 0:
        return np.zeros_like(storage)
    rate = -np.log1p(-deleted_share_year) / YEAR_DAYS
    unused: Floats = owed_days + np.expm1(-rate * owed_days) / rate
    return storage * unused / MONTH_DAYS


def owed_days_of(book: PriceBook, class_codes: Codes, days_in_class: ArrayLike) -> Floats:
    """Give for how many days each class would be owed from now on, shape (N, C): the rest in the present class."""
    min_days = _row(book, lambda c: float(c.min_days))
    owed = np.tile(min_days, (len(class_codes), 1))
    rows = np.arange(len(class_codes))
    rest = min_days[class_codes] - np.asarray(days_in_class, dtype=np.float64)
    owed[rows, class_codes] = np.maximum(rest, 0.0)
    return owed


def usd(amount: float, places: int = 2) -> Decimal:
    """Turn an amount into the ``Decimal`` that reports carry, rounded half up to ``places``."""
    return Decimal(repr(float(amount))).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def _autopilot_usd(prices: ClassPrices, autopilot: Autopilot, demand: Demand, idle_days: Floats) -> Floats:
    """Give what monitoring adds and idle tiers take off the frequent storage price over the horizon, shape (N,)."""
    gib = demand.size_bytes / GIB_BYTES
    change = np.full_like(gib, autopilot.monitoring_usd_month * demand.horizon_days / MONTH_DAYS)
    above, object_above = prices.storage_usd_gib_month, 0.0
    for step in autopilot.steps:
        days = idle_time_days(demand, step.idle_days, idle_days)
        saved = gib * (above - step.storage_usd_gib_month) + (object_above - step.object_usd_month)
        change -= saved * days / MONTH_DAYS
        above, object_above = step.storage_usd_gib_month, step.object_usd_month
    monitored: Floats = np.where(demand.size_bytes >= autopilot.monitored_min_bytes, change, 0.0)
    return monitored


def idle_time_days(demand: Demand, after_days: int, idle_days: ArrayLike) -> Floats:
    """Give how many days of the horizon each object is expected to have been unread for ``after_days``, shape (N,).

    An object is never read in the horizon with probability 1 - p, else its reads are Poisson with mean reads / p; so it
    was unread for w days with probability (1 - p) + p exp(-w rate). ``idle_days``: how long it was so at the start.
    """
    horizon = float(demand.horizon_days)
    idle = _like(demand.size_bytes, idle_days)
    chance = demand.probability_any
    rate = np.divide(demand.reads, chance, out=np.zeros_like(chance), where=chance > 0) / horizon
    # before day `after_days` it is idle only if it was so at the start and no read came since
    first = np.clip(after_days - idle, 0.0, horizon)
    until = np.minimum(float(after_days), horizon)
    span = np.maximum(until - first, 0.0)
    unread = np.where(rate > 0, np.exp(-rate * first) * -np.expm1(-rate * span) / np.where(rate > 0, rate, 1.0), span)
    early = (1.0 - chance) * span + chance * unread
    later = (horizon - until) * ((1.0 - chance) + chance * np.exp(-rate * after_days))
    days: Floats = early + later
    return days


def _client_move_rates(book: PriceBook) -> tuple[Floats, Floats]:
    """Give a client's move from each class to each class: USD for an object and USD for a GiB, both (C, C).

    Leaving an autopilot costs what its terms say, wherever the object goes.
    """
    count = len(book.classes)
    fixed = np.zeros((count, count))
    per_gib = np.zeros((count, count))
    read, retrieval = read_request_usd(book), retrieval_usd_gib(book)
    for source, here in enumerate(book.classes):
        for destination, prices in enumerate(book.classes):
            if source == destination:
                continue
            if here.leave_usd is not None:
                fixed[source, destination] = here.leave_usd
                continue
            charge = book.client_move_down if destination > source else book.client_move_up
            fixed[source, destination] = (
                charge.write_at_destination * prices.write_usd + charge.read_at_source * read[source]
            )
            per_gib[source, destination] = charge.retrieval_at_source * retrieval[source] + book.left_behind_usd_gib(
                source
            )
    return fixed, per_gib


def _row(book: PriceBook, figure: Callable[[ClassPrices], float]) -> Floats:
    return np.array([figure(prices) for prices in book.classes], dtype=np.float64)


def _like(column: Floats, values: ArrayLike) -> Floats:
    like: Floats = np.broadcast_to(np.asarray(values, dtype=np.float64), column.shape)
    return like


def _taken(matrix: Floats, codes: Codes) -> Floats:
    taken: Floats = matrix[np.arange(len(codes)), codes]
    return taken
