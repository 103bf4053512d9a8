"""Keep or move: the storage class that is expected to cost each object least, and the reason in words."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.costs import (
    Codes,
    Demand,
    Floats,
    client_move_usd,
    coming_back_usd,
    deleted_too_early_usd,
    demand_of,
    holding_usd,
    one_time_usd,
    owed_days_of,
    running_usd,
    storage_usd_month,
)
from cloudflux.domain.placement import PlacementTables
from cloudflux.domain.prices import MONTH_DAYS, ClassPrices, Latency, PriceBook
from cloudflux.domain.reasons import Grounds, Phrases, reasons_of
from cloudflux.domain.usage import UsageChain

Texts = NDArray[np.object_]

_CHUNK_ROWS: Final = 131_072  # keeps the (rows, classes) matrices of one decision run within some 100 MB


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """How the policy weighs what it does not know."""

    horizon_days: int = 180
    min_confidence: float = 0.5
    """Below it a forecast counts as weak, as one by rules always does."""
    deleted_share_year: float = 0.10
    """Which share of the objects their owners delete or overwrite in a year, and then pay a class's minimum days for
    nothing. An assumption, not a measurement: raise it for buckets that turn over."""
    weak_factor: float = 2.0
    """A weak forecast may be wrong by this factor, in either direction."""


@dataclass(frozen=True, slots=True)
class OwnerLimits:
    """What the owner of a bucket allows."""

    latency: Latency = Latency.MS
    """The slowest first byte: ``hours`` lets classes in that need a restore."""
    allowed_classes: Collection[str] | None = None
    """None: every class that the latency allows and that keeps the redundancy; a single-zone class must be named."""
    leave_autopilot: bool = False
    """Whether objects may be taken out of an account's autopilot that is on, which is for good (Azure's smart tier).
    Such an account has no class that needs a restore: smart tier and Archive are for different redundancies."""


@dataclass(frozen=True, slots=True)
class ObjectColumns:
    """N objects of one price book and one owner's limits, with their forecasts. All arrays have shape (N,)."""

    size_bytes: NDArray[Any]
    current_class: Texts
    days_in_class: Floats
    idle_days: Floats
    """Since the last read, or since the history begins or the object came, when there was none; 0 when not known."""
    expected_reads: Floats
    """Over the horizon."""
    expected_read_bytes: Floats
    probability_any: Floats
    confidence: Floats
    """Of the forecast, 0 to 1."""
    from_rules: NDArray[np.bool_]
    """Whether the forecast came from the rules of a cold start instead of a model."""
    excluded: NDArray[np.bool_]
    """Whether the owner excluded the object."""
    lock_reason: Texts
    """Why the object may not be touched, or None."""
    usage_state: Codes | None = None
    """The state of use that a forecaster put the object into, -1 where it could not; None: there are no states."""
    pinned_class: Texts | None = None
    """The class that the owner wants an object in, whatever it costs, or None; None: nothing is pinned."""
    retained: NDArray[np.bool_] | None = None
    """Whether the object is younger than its owner's minimum retention; None: there is none."""
    break_even_opens: NDArray[np.bool_] | None = None
    """To which of the book's classes break-even opens each object, shape (N, C): all of them, where it is not the rule
    that decides. None: it decides for no object. See ``cloudflux.domain.break_even.open_classes``."""

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.size_bytes)

    def take(self, rows: Codes | slice) -> ObjectColumns:
        """Give some of the objects."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        cut: dict[str, Any] = {name: None if column is None else column[rows] for name, column in columns.items()}
        return ObjectColumns(**cut)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided for N objects. Arrays have shape (N,) or (N, C) over the price book's classes."""

    class_names: tuple[str, ...]
    price_book: str
    horizon_days: int
    current_class: Texts
    chosen_class: Texts
    moves: NDArray[np.bool_]
    reasons: Phrases
    candidate_usd: Floats
    """Expected cost over the horizon, the move included, shape (N, C)."""
    weighed: NDArray[np.bool_]
    """Which classes were candidates, shape (N, C)."""
    expected_reads: Floats
    stay_usd: Floats
    chosen_usd: Floats
    one_time_usd: Floats
    saving_usd: Floats
    payback_days: Floats
    """NaN when nothing moves."""
    current_monthly_usd: Floats
    chosen_monthly_usd: Floats

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.moves)

    @property
    def reason(self) -> Texts:
        """The reasons as whole texts, shape (N,)."""
        return self.reasons.texts()

    def columns(self) -> dict[str, NDArray[Any]]:
        """Give the columns of the ``decisions`` dataset that are the decision's figures and classes, by name.

        NaN in ``payback_days`` stands for null. ``action`` (``moves``), ``reason`` (``reasons``), ``price_book``,
        ``candidates`` (see ``candidate_lists``), ``rule_class``, and the objects' names and days are the caller's to
        add.
        """
        count = len(self)
        return {
            "current_class": self.current_class,
            "chosen_class": self.chosen_class,
            "horizon_days": np.full(count, self.horizon_days, dtype=np.int32),
            "expected_reads": self.expected_reads,
            "stay_usd": self.stay_usd,
            "chosen_usd": self.chosen_usd,
            "one_time_usd": self.one_time_usd,
            "saving_usd": self.saving_usd,
            "payback_days": self.payback_days,
            "current_monthly_usd": self.current_monthly_usd,
            "chosen_monthly_usd": self.chosen_monthly_usd,
        }

    def candidate_lists(self) -> tuple[NDArray[np.int32], Codes, Floats]:
        """Give the ``candidates`` column flat: N + 1 offsets, then each list's classes and expected USD.

        A class is its position in ``class_names``. The offsets, and a struct of the two others, make an Arrow list
        array.
        """
        offsets = np.zeros(len(self) + 1, dtype=np.int32)
        np.cumsum(self.weighed.sum(axis=1), out=offsets[1:])
        return offsets, np.nonzero(self.weighed)[1], self.candidate_usd[self.weighed]


@dataclass(frozen=True, slots=True)
class PlacedCosts:
    """What N objects are expected to cost by their states of use, shape (N, C) over the book's classes."""

    expected_usd: Floats
    """Being there from today on, the best being done afterwards; infinite for a class that the tables do not have."""
    kept_usd: Floats
    """Being there for the whole horizon."""


class LearntUsage:
    """A learnt chain of usage states with the tables that were solved for it."""

    def __init__(self, chain: UsageChain, tables: PlacementTables) -> None:
        self.chain = chain
        self.tables = tables
        self.book_codes: Codes = np.array([tables.book.code_of(name) for name in tables.class_names], dtype=np.intp)
        """The place in the book of each of the tables' classes."""
        self.expected_reads: Floats = chain.daily_reads(tables.horizon_days).sum(axis=1)
        """Over the horizon, by state."""

    def costs(
        self, states: Codes, size_bytes: Floats, book_codes: Codes, days_in_class: Floats, idle_days: Floats
    ) -> PlacedCosts:
        """Give what N objects are expected to cost; all arguments have shape (N,)."""
        place = np.full(len(self.tables.book.classes), -1, dtype=np.intp)
        place[self.book_codes] = np.arange(len(self.book_codes))
        here = place[book_codes]
        # an autopilot's clock began when the object came there, or at its last read
        clock = np.minimum(days_in_class, idle_days)
        filled = []
        for known in (
            self.tables.expected_usd(states, size_bytes, here, days_in_class, clock),
            self.tables.kept_usd(states, size_bytes, here, days_in_class, clock),
        ):
            matrix = np.full((len(states), len(place)), np.inf)
            matrix[:, self.book_codes] = known
            filled.append(matrix)
        return PlacedCosts(*filled)


def decide(
    objects: ObjectColumns,
    book: PriceBook,
    limits: OwnerLimits | None = None,
    settings: PolicySettings | None = None,
    usage: LearntUsage | None = None,
) -> Decisions:
    """Decide for every object whether it stays, or moves to the class with the least expected cost over the horizon.

    Objects with a state of use are placed by ``usage``: dynamic programming over the chain that a forecaster learnt,
    with all that can still be decided later (``cloudflux.domain.placement``). A class's cost is then what being there
    from today on is expected to cost if the best is done afterwards; staying is weighed as staying for good. The rest
    of this text is about the other objects.

    The cost of a candidate is storage, monitoring and expected reads over the horizon, the move by a client and the
    early deletion still owed at the source, and the expected price of coming back, and of an owner who deletes before
    the minimum days are over. An object moves only if that is less than the cost of staying, and if the lower running
    cost pays the one-time cost back inside the horizon.

    Classes that need a restore are candidates only where ``limits`` allow hours, single-zone classes only where they
    are named. S3 Intelligent-Tiering is a candidate like any other class. Azure smart tier and GCS Autoclass never are:
    they are settings of an account or a bucket, not of an object, and objects under them are kept. But where
    ``limits.leave_autopilot`` says so, an object in smart tier may leave it: for a price of its own, for good, and so
    not on a weak forecast.

    A weak forecast (by rules, or below ``settings.min_confidence``) must show more:

    - down: the object must have been idle for as long as the colder class needs to earn the whole round trip, there and
      back with all minimum days. This is the break-even rule of ski rental (Karlin et al., Competitive snoopy caching,
      1988): whenever the next read comes, waiting and moving have cost at most twice what hindsight would have paid.
    - up, or into an autopilot: the move must save also if there are ``settings.weak_factor`` times fewer reads, or as
      many times more and another three (what having seen none still allows: the rule of three).

    Where break-even decides (``objects.break_even_opens``, for an object that has refuted the chain by its own reads),
    the classes that it opens are the candidates in place of that.

    A pinned object goes to its class whatever that costs, one that is retained stays until it is old enough.
    Locked and excluded objects are kept, as are objects in a class that the book does not know (priced as if in the
    standard class). Raises ``ValueError`` naming a column that is malformed.
    """
    limits = limits or OwnerLimits()
    settings = settings or PolicySettings()
    parts = [
        _decide_chunk(objects.take(slice(first, first + _CHUNK_ROWS)), book, limits, settings, usage)
        for first in range(0, max(len(objects), 1), _CHUNK_ROWS)
    ]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _decide_chunk(
    objects: ObjectColumns, book: PriceBook, limits: OwnerLimits, settings: PolicySettings, usage: LearntUsage | None
) -> Decisions:
    count = len(objects)
    rows = np.arange(count)
    horizon = settings.horizon_days
    demand = demand_of(
        objects.size_bytes,
        objects.expected_reads,
        horizon,
        read_bytes=objects.expected_read_bytes,
        probability_any=objects.probability_any,
    )
    days_in_class = np.asarray(objects.days_in_class, dtype=np.float64)
    known_codes = book.codes_of(objects.current_class)
    unknown = known_codes < 0
    current = np.where(unknown, book.standard_code, known_codes)

    autopilot = np.array([prices.autopilot is not None for prices in book.classes])
    watched_days = np.where(autopilot[current], np.minimum(objects.idle_days, days_in_class), 0.0)
    once = one_time_usd(book, demand.size_bytes, current, days_in_class)
    pins = np.full(count, -1) if objects.pinned_class is None else book.codes_of(objects.pinned_class)
    costs = _costs(
        book=book, objects=objects, demand=demand, current=current, watched_days=watched_days, once=once,
        deleted_share_year=settings.deleted_share_year,
    )  # fmt: skip
    placeable = (pins < 0) & ~unknown
    if usage is not None:
        costs = _placed(costs, usage, objects=objects, demand=demand, current=current, once=once, placeable=placeable)
    expected, running, stay, by_usage = costs.expected, costs.running, costs.stay, costs.by_usage

    open_to = _candidates(book, limits, objects, current=current, unknown=unknown, pins=pins)
    pinned, weighed = open_to.pinned, open_to.weighed & np.isfinite(expected)
    eligible = weighed.copy()
    weak = (objects.from_rules | (objects.confidence < settings.min_confidence)) & ~by_usage
    if bool(weak.any()):
        some = np.flatnonzero(weak)
        eligible[some] &= _safe_when_weak(
            book=book,
            demand=_demand_rows(demand, some),
            current=current[some],
            once=once[some],
            idle_days=np.asarray(objects.idle_days, dtype=np.float64)[some],
            watched_days=watched_days[some],
            autopilot=autopilot,
            settings=settings,
        )
        eligible[rows, current] = True
    if objects.break_even_opens is not None:
        ruled = ~objects.break_even_opens.all(axis=1)
        eligible[ruled] = weighed[ruled] & objects.break_even_opens[ruled]
        weak = weak | ruled
    unsure = np.flatnonzero(open_to.leaving & weak)  # what cannot be taken back is not done on a guess
    eligible[unsure] = False
    eligible[unsure, current[unsure]] = True

    best = _cheapest(expected, eligible, current)
    saving = stay - expected[rows, best]
    # what is placed by its state saves what its later moves save too; the others, what runs cheaper
    afterwards = np.where(by_usage, expected[rows, best] - once[rows, best], running[rows, best])
    daily = (np.where(by_usage, stay, running[rows, current]) - afterwards) / horizon
    move = (best != current) & (saving > 0) & (once[rows, best] <= daily * horizon)
    best = np.where(move, best, current)
    best, move = np.where(pinned, pins, best), np.where(pinned, pins != current, move)
    saving = np.where(pinned, stay - expected[rows, best], np.where(move, saving, 0.0))
    once_paid = once[rows, best]
    payback = np.where(move & ~pinned, np.divide(once_paid, daily, out=np.zeros_like(daily), where=daily > 0), np.nan)

    names = np.array(book.class_names, dtype=object)
    to_month = MONTH_DAYS / horizon
    chosen = np.where(unknown, objects.current_class, names[best])
    return Decisions(
        class_names=book.class_names,
        price_book=book.name,
        horizon_days=horizon,
        current_class=np.asarray(objects.current_class, dtype=object),
        chosen_class=chosen,
        moves=move,
        reasons=reasons_of(
            Grounds(
                current=current,
                chosen=best,
                moves=move,
                expected_reads=costs.reads,
                saving_usd=saving,
                payback_days=payback,
                excluded=objects.excluded,
                lock_reason=objects.lock_reason,
                unknown=unknown,
                current_class=objects.current_class,
                settled=open_to.settled,
                leaving=open_to.leaving,
                retained=open_to.retained,
                pinned=pinned,
                unguarded=_cheapest(expected, weighed, current),
                runs_cheapest=_cheapest(running, weighed, current),
            ),
            book,
            horizon,
        ),
        candidate_usd=expected,
        weighed=weighed,
        expected_reads=costs.reads,
        stay_usd=stay,
        chosen_usd=np.where(move | pinned, expected[rows, best], stay),
        one_time_usd=once_paid,
        saving_usd=saving,
        payback_days=payback,
        current_monthly_usd=running[rows, current] * to_month,
        chosen_monthly_usd=running[rows, best] * to_month,
    )


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Where the objects of a chunk may be, before any cost is looked at. Arrays have shape (N,)."""

    weighed: NDArray[np.bool_]
    """The classes that are candidates, shape (N, C); the present one always is."""
    settled: NDArray[np.bool_]
    """Whether the object is in an autopilot of the whole bucket or account, and may not leave it,"""
    leaving: NDArray[np.bool_]
    """and whether it is in one that it may leave, for good."""
    retained: NDArray[np.bool_]
    pinned: NDArray[np.bool_]


def _candidates(
    book: PriceBook,
    limits: OwnerLimits,
    objects: ObjectColumns,
    *,
    current: Codes,
    unknown: NDArray[np.bool_],
    pins: Codes,
) -> _Candidates:
    rows = np.arange(len(objects))
    setting = np.array([prices.is_setting_of_whole for prices in book.classes])
    leaving = np.array([may_leave(prices, limits) for prices in book.classes])[current]
    settled = setting[current] & ~leaving
    retained = np.zeros(len(objects), dtype=np.bool_) if objects.retained is None else objects.retained
    fixed = unknown | objects.excluded | _locked(objects) | settled | retained
    restored = np.array([prices.latency == Latency.HOURS for prices in book.classes])
    # neither can be done at the provider: into a setting of the whole, and from smart tier into Archive
    pinned = (pins >= 0) & ~fixed & ~(setting[pins] & (pins != current)) & ~(leaving & restored[pins])
    weighed = np.tile(np.isin(book.class_names, allowed_classes(book, limits)), (len(objects), 1))
    weighed[fixed | pinned] = False
    weighed[rows[pinned], pins[pinned]] = True
    weighed[rows, current] = True
    return _Candidates(weighed, settled, leaving, retained, pinned)


@dataclass(frozen=True, slots=True)
class _Costs:
    """What a chunk is expected to cost over the horizon. Arrays have shape (N,) or (N, C)."""

    expected: Floats
    """With the move there, (N, C)."""
    running: Floats
    """Of holding and reading for the whole horizon, (N, C)."""
    stay: Floats
    """Of staying for good."""
    reads: Floats
    by_usage: NDArray[np.bool_]
    """Whether the object is placed by its state of use."""


def _costs(
    *,
    book: PriceBook,
    objects: ObjectColumns,
    demand: Demand,
    current: Codes,
    watched_days: Floats,
    once: Floats,
    deleted_share_year: float,
) -> _Costs:
    """Weigh a chunk by its expected reads alone."""
    rows = np.arange(len(objects))
    running = running_usd(book, demand, watched_days)
    back = coming_back_usd(book, demand)
    back[rows, current] = 0.0  # who stays does not come back
    owed_days = owed_days_of(book, current, np.asarray(objects.days_in_class, dtype=np.float64))
    lost = deleted_too_early_usd(book, demand.size_bytes, owed_days, deleted_share_year)
    expected = running + once + back + lost
    return _Costs(expected, running, expected[rows, current], demand.reads, np.zeros(len(rows), dtype=np.bool_))


def _placed(
    costs: _Costs,
    usage: LearntUsage,
    *,
    objects: ObjectColumns,
    demand: Demand,
    current: Codes,
    once: Floats,
    placeable: NDArray[np.bool_],
) -> _Costs:
    """Weigh the objects that have a state of use by what was learnt, the others as they were."""
    if objects.usage_state is None:
        return costs
    by_usage = placeable & (objects.usage_state >= 0) & np.isin(current, usage.book_codes)
    some = np.flatnonzero(by_usage)
    states, here = objects.usage_state[some], current[some]
    days_in_class = np.asarray(objects.days_in_class, dtype=np.float64)[some]
    placed = usage.costs(states, demand.size_bytes[some], here, days_in_class, objects.idle_days[some])
    expected, running, stay, reads = (
        column.copy() for column in (costs.expected, costs.running, costs.stay, costs.reads)
    )
    expected[some] = placed.expected_usd + once[some]
    running[some] = placed.kept_usd
    stay[some] = placed.kept_usd[np.arange(len(some)), here]
    reads[some] = usage.expected_reads[states]
    return _Costs(expected, running, stay, reads, by_usage)


def allowed_classes(book: PriceBook, limits: OwnerLimits) -> tuple[str, ...]:
    """Name the classes that an object may be moved to, in the book's order."""
    return tuple(prices.storage_class for prices in book.classes if barred_by(prices, limits) is None)


def barred_by(prices: ClassPrices, limits: OwnerLimits) -> str | None:
    """Say why an object may not be moved to a class, or None when it may."""
    if prices.autopilot is not None and prices.is_setting_of_whole:
        return f"an autopilot that is a setting of the {prices.autopilot.scope}, not of one object"
    if prices.latency == Latency.HOURS and limits.leave_autopilot:
        return "it needs a restore, and an account with smart tier has no such class"
    if prices.latency == Latency.HOURS and limits.latency != Latency.HOURS:
        return "the first byte takes hours, and its owner accepts milliseconds"
    if limits.allowed_classes is not None:
        return None if prices.storage_class in limits.allowed_classes else "not among the classes that its owner allows"
    return "kept in a single zone: its owner has to name it in allowed_classes" if prices.single_az else None


def may_leave(prices: ClassPrices, limits: OwnerLimits) -> bool:
    """Tell whether objects in a class that is a setting of the whole account may be taken out of it, for good."""
    return limits.leave_autopilot and prices.autopilot is not None and prices.autopilot.left_for_good


def _safe_when_weak(
    *,
    book: PriceBook,
    demand: Demand,
    current: Codes,
    once: Floats,
    idle_days: Floats,
    watched_days: Floats,
    autopilot: NDArray[np.bool_],
    settings: PolicySettings,
) -> NDArray[np.bool_]:
    """Tell to which classes an object may be moved on a weak forecast, shape (N, C); see ``decide``."""
    rows = np.arange(len(current))
    # what holding costs if nobody ever reads: the most that a colder class can save
    unread = holding_usd(
        book, demand_of(demand.size_bytes, np.zeros_like(demand.reads), demand.horizon_days), watched_days
    )
    daily = (unread[rows, current][:, None] - unread) / demand.horizon_days
    count = len(book.classes)
    back = np.stack(
        [
            client_move_usd(book, demand.size_bytes, np.full(len(current), source))[rows, current]
            for source in range(count)
        ],
        axis=1,
    )
    min_days = np.array([prices.min_days for prices in book.classes], dtype=np.float64)
    round_trip = once + back + storage_usd_month(book, demand.size_bytes) * min_days / MONTH_DAYS
    earned: NDArray[np.bool_] = idle_days[:, None] * daily >= round_trip

    saves = np.ones((len(current), count), dtype=np.bool_)
    for factor, more in ((settings.weak_factor, 3.0), (1.0 / settings.weak_factor, 0.0)):
        other = demand_of(
            demand.size_bytes,
            demand.reads * factor + more,
            demand.horizon_days,
            read_bytes=demand.read_bytes * factor + demand.size_bytes * more,
        )
        running = running_usd(book, other, watched_days)
        saves &= running + once < running[rows, current][:, None]
    downwards = (np.arange(count)[None, :] > current[:, None]) & ~autopilot[None, :]
    return np.where(downwards, earned, saves)


def _cheapest(expected: Floats, eligible: NDArray[np.bool_], current: Codes) -> Codes:
    """Give the eligible class with the least cost, shape (N,); the present one where nothing is truly cheaper."""
    rows = np.arange(len(current))
    priced = np.where(eligible, expected, np.inf)
    best = np.argmin(priced, axis=1)
    return np.where(priced[rows, best] < expected[rows, current], best, current)


def _locked(objects: ObjectColumns) -> NDArray[np.bool_]:
    locked: NDArray[np.bool_] = np.not_equal(objects.lock_reason, np.array(None, dtype=object)).astype(np.bool_)
    return locked


def _demand_rows(demand: Demand, rows: Codes) -> Demand:
    return Demand(
        demand.size_bytes[rows],
        demand.reads[rows],
        demand.read_bytes[rows],
        demand.probability_any[rows],
        demand.horizon_days,
    )


def _joined(parts: list[Decisions]) -> Decisions:
    shared = {"class_names", "price_book", "horizon_days"}
    first = parts[0]
    joined: dict[str, Any] = {
        field.name: getattr(first, field.name)
        if field.name in shared
        else Phrases.joined([part.reasons for part in parts])
        if field.name == "reasons"
        else np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(first)
    }
    return Decisions(**joined)
