"""The classes that cost least over all futures of a usage chain: dynamic programming over use, class and clocks.

What is decided today is weighed with what can still be decided later: an object that is read can come back, one that
falls idle can go down, and both cost what the price book says. For each state of use, each class with its days held
(they count until the minimum days are over) or its days idle (an autopilot's clock), and each interval of sizes,
backward induction over the horizon gives the move that is expected to cost least, and what it is expected to cost.

The tables know nothing of single objects: they are solved once for a chain and a price book, and looked up for any
number of objects.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloudflux.domain.accounting import Tariff, tariff_of
from cloudflux.domain.costs import YEAR_DAYS
from cloudflux.domain.prices import GIB_BYTES, PriceBook
from cloudflux.domain.usage import UsageChain

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

_SMALLEST_EXPONENT: Final = 13
_EXPONENT_STEP: Final = 2
_LARGEST_EXPONENT: Final = 27
"""Above 128 MiB the fees for a request are less than a thousandth of a month's storage: all sizes decide alike."""
_ABOVE_MINIMUM: Final = (1.0, 1.25, 2.0)
"""Edges at and above each minimum size: there a move first pays, and each size that stands for many is a little off."""


@dataclass(frozen=True, slots=True)
class PlacementTables:
    """What is best, and what it is expected to cost, for every state. Make it with ``solve_placement``.

    The first axis of the tables is the *clock*: the days held or idle of each class, one class after another.
    """

    book: PriceBook
    class_names: tuple[str, ...]
    horizon_days: int
    size_edges_bytes: Floats
    """Inner edges of the S intervals of sizes, shape (S - 1,)."""
    clock_starts: Codes
    """Where each class's clocks begin on the first axis, shape (C + 1,)."""
    targets: NDArray[np.int8]
    """The class to be in today, shape (clocks, S, K)."""
    usd_gib: NDArray[np.float32] | None
    """Expected cost of being in that class and clock today, after any move, and following the targets afterwards: what
    each GiB adds to it, shape (clocks, S, K). None when only the targets were asked for."""
    usd_object: NDArray[np.float32] | None
    """What it is for each object, whatever its size within the interval."""
    keep_usd_gib: NDArray[np.float32] | None
    """The same when the object stays in the class over the whole horizon."""
    keep_usd_object: NDArray[np.float32] | None
    by_client: bool
    """Whether all moves are charged as a client's."""
    deleted_share_year: float
    read_share: float

    def sizes_of(self, size_bytes: ArrayLike) -> Codes:
        """Give the interval of each size."""
        return np.searchsorted(self.size_edges_bytes, np.asarray(size_bytes, dtype=np.float64), side="right")

    def clocks_of(self, class_codes: Codes, days_in_class: ArrayLike, idle_days: ArrayLike) -> Codes:
        """Give each object's place on the first axis."""
        starts = self.clock_starts[class_codes]
        last = self.clock_starts[class_codes + 1] - 1 - starts
        autopilot = np.array([self.book.prices_of(name).autopilot is not None for name in self.class_names])
        days = np.where(autopilot[class_codes], np.asarray(idle_days), np.asarray(days_in_class))
        clocks: Codes = starts + np.minimum(days.astype(np.intp), last)
        return clocks

    def best_classes(
        self, states: Codes, size_bytes: ArrayLike, class_codes: Codes, days_in_class: ArrayLike, idle_days: ArrayLike
    ) -> Codes:
        """Give the class that each of N objects should be in today, shape (N,)."""
        best: Codes = self.targets[
            self.clocks_of(class_codes, days_in_class, idle_days), self.sizes_of(size_bytes), states
        ].astype(np.intp)
        return best

    def expected_usd(
        self, states: Codes, size_bytes: ArrayLike, class_codes: Codes, days_in_class: ArrayLike, idle_days: ArrayLike
    ) -> Floats:
        """Give what being in each class from today on is expected to cost N objects over the horizon, shape (N, C).

        The move there is not in it; later moves are, where they are expected to pay. For the present class its own
        clock counts. Raises ``ValueError`` when the tables were solved without costs.
        """
        here = self.clocks_of(class_codes, days_in_class, idle_days)
        return self._looked_up((self.usd_gib, self.usd_object), states, size_bytes, class_codes, here)

    def kept_usd(
        self, states: Codes, size_bytes: ArrayLike, class_codes: Codes, days_in_class: ArrayLike, idle_days: ArrayLike
    ) -> Floats:
        """Give the same for objects that are never moved again, shape (N, C)."""
        here = self.clocks_of(class_codes, days_in_class, idle_days)
        return self._looked_up((self.keep_usd_gib, self.keep_usd_object), states, size_bytes, class_codes, here)

    def _looked_up(
        self,
        by_gib_and_object: tuple[NDArray[np.float32] | None, NDArray[np.float32] | None],
        states: Codes,
        size_bytes: ArrayLike,
        class_codes: Codes,
        here: Codes,
    ) -> Floats:
        by_gib, by_object = by_gib_and_object
        if by_gib is None or by_object is None:
            raise ValueError("these tables were solved without costs")
        sizes = np.asarray(size_bytes, dtype=np.float64)
        gib, intervals = sizes / GIB_BYTES, self.sizes_of(sizes)
        expected = np.empty((len(sizes), len(self.class_names)))
        for code in range(len(self.class_names)):
            clocks = np.where(class_codes == code, here, self.clock_starts[code])
            expected[:, code] = by_gib[clocks, intervals, states] * gib + by_object[clocks, intervals, states]
        return expected


def solve_placement(
    chain: UsageChain,
    book: PriceBook,
    class_names: Sequence[str],
    *,
    horizon_days: int,
    deleted_share_year: float = 0.0,
    read_share: float = 1.0,
    with_costs: bool = True,
    by_client: bool = False,
    may_enter: Collection[str] | None = None,
) -> PlacementTables:
    """Find the cheapest class for every state of use, class, clock and size.

    class_names : the classes that an object may be in, of the book's names; a class that it can never be moved to may
        be among them.
    deleted_share_year : which share of the objects their owners delete in a year; what their class is then still owed
        is charged.
    read_share : how much of an object one read reads, 0 to 1.
    with_costs : keep the expected costs too; it takes three times as long.
    by_client : all moves are charged as a client's, see ``accounting.tariff_of``.
    may_enter : the classes that an object may be moved to; left out, all of them.
    """
    edges = _size_edges(book)

    def problem_of(*, parted: bool) -> _Problem:
        return _Problem.of(
            chain,
            book,
            class_names,
            edges=edges,
            deleted_share_year=deleted_share_year,
            read_share=read_share,
            parted=parted,
            by_client=by_client,
            may_enter=may_enter,
        )

    problem = problem_of(parted=False)
    values = problem.nothing()
    inside = values
    for _ in range(horizon_days):
        inside = [problem.held(code, value) for code, value in enumerate(values)]
        values = problem.best(inside)
    targets = problem.targets(inside)
    costs = kept = None
    if with_costs:
        # what following the targets costs, day after day: near the horizon's end the very best would differ from them
        parted = problem_of(parted=True)
        values, keeping = parted.nothing(), parted.nothing()
        for _ in range(horizon_days):
            inside = [parted.held(code, value) for code, value in enumerate(values)]
            values = parted.followed(inside, targets)
            keeping = [parted.held(code, value) for code, value in enumerate(keeping)]
        costs, kept = np.concatenate(inside, axis=1), np.concatenate(keeping, axis=1)
    return PlacementTables(
        book=book,
        class_names=problem.tariff.class_names,
        horizon_days=horizon_days,
        size_edges_bytes=edges[1:-1],
        clock_starts=np.concatenate([[0], np.cumsum(problem.clocks)]).astype(np.intp),
        targets=np.concatenate(targets, axis=0),
        usd_gib=None if costs is None else costs[0],
        usd_object=None if costs is None else costs[1],
        keep_usd_gib=None if kept is None else kept[0],
        keep_usd_object=None if kept is None else kept[1],
        by_client=by_client,
        deleted_share_year=deleted_share_year,
        read_share=read_share,
    )


def _size_edges(book: PriceBook) -> Floats:
    """Give the edges of the size intervals: within one, what an object is billed is linear in its size."""
    edges = {2.0**exponent for exponent in range(_SMALLEST_EXPONENT, _LARGEST_EXPONENT + 1, _EXPONENT_STEP)}
    for prices in book.classes:
        edges.update(step * prices.min_billable_bytes for step in _ABOVE_MINIMUM)
        if prices.autopilot is not None:
            edges.update(step * prices.autopilot.monitored_min_bytes for step in _ABOVE_MINIMUM)
    edges.discard(0.0)
    return np.array([0.0, *sorted(edges), np.inf])


@dataclass(frozen=True, slots=True)
class _Problem:
    """The arrays of the backward induction. Parted, component 0 is for each GiB, 1 for each object; else their sum.

    Shapes: clocks L of a class, S sizes, K states.
    """

    tariff: Tariff
    components: int
    clocks: list[int]
    shape: tuple[int, int]
    unread_next: NDArray[np.float32]
    """Transposed transitions, (K, K)."""
    read_next: NDArray[np.float32]
    gib: NDArray[np.float32]
    """A size that stands for its interval, (S, 1)."""
    holding: list[NDArray[np.float32]]
    """By class: a day's holding and reading, (components, L, S, K)."""
    owed: list[NDArray[np.float32]]
    """By class: early deletion by days held, (components, L, S, 1)."""
    lost: float
    """Chance that the object is deleted on a day."""
    moving: NDArray[np.float32]
    """By source and target, (C, C, components)."""

    @classmethod
    def of(
        cls,
        chain: UsageChain,
        book: PriceBook,
        class_names: Sequence[str],
        *,
        edges: Floats,
        deleted_share_year: float,
        read_share: float,
        parted: bool,
        by_client: bool,
        may_enter: Collection[str] | None,
    ) -> _Problem:
        low, high = edges[:-1], np.where(np.isinf(edges[1:]), edges[-2] * 4, edges[1:])
        middle = np.sqrt(np.maximum(low, high / 4) * high)
        # two sizes of each interval give the line that holds within it
        first, second = low + (high - low) * 0.25, low + (high - low) * 0.75
        tariffs = [tariff_of(book, sizes, class_names, by_client=by_client) for sizes in (middle, first, second)]
        gib = middle / GIB_BYTES
        count, states = len(tariffs[0].class_names), len(chain)

        def billed(at_first: Floats, at_second: Floats) -> Floats:
            """Give (components, ...) of figures at the two sizes; the size's axis is the last but one."""
            slope = (at_second - at_first) / ((second - first) / GIB_BYTES)[:, None]
            level = at_first - slope * (first / GIB_BYTES)[:, None]
            return np.stack([slope, level]) if parted else (slope * gib[:, None] + level)[None]

        chance = chain.read.sum(axis=1)
        holding: list[NDArray[np.float32]] = []
        owed: list[NDArray[np.float32]] = []
        clocks: list[int] = []
        for code in range(count):
            autopilot = tariffs[0].autopilots[code]
            days = int(tariffs[0].min_days[code]) + 1 if autopilot is None else len(autopilot.usd_gib_day)
            clocks.append(days)
            idle = np.arange(days)
            sizes = np.arange(len(middle))
            bills = []
            for tariff in tariffs[1:]:
                by_clock = [
                    np.add(*tariff.holding_usd(sizes, np.full(len(sizes), code), np.full(len(sizes), day)))
                    for day in (idle if autopilot is not None else [0])
                ]
                bill = np.stack(by_clock)[:, :, None] * np.ones((days, 1, 1))
                read = tariff.request_usd[code] + tariff.size_gib * read_share * tariff.retrieval_usd_gib[code]
                bill = bill + read[None, :, None] * chain.reads[None, None, :]
                if autopilot is not None and autopilot.promotion_usd > 0:
                    due = (idle >= autopilot.promotion_from_idle_days)[:, None, None] & autopilot.watched[None, :, None]
                    bill = bill + due * autopilot.promotion_usd * chance[None, None, :]
                bills.append(bill)
            holding.append(billed(bills[0], bills[1]).astype(np.float32))
            missing = np.zeros(days) if autopilot is not None else (days - 1.0) - idle
            debts = [missing[:, None, None] * tariff.storage_usd_day[:, code][None, :, None] for tariff in tariffs[1:]]
            owed.append(billed(debts[0], debts[1]).astype(np.float32))
        base = tariffs[0]
        closed = np.array([may_enter is not None and name not in may_enter for name in base.class_names])
        per_object, per_gib = np.where(closed[None, :], np.inf, base.move_usd), base.move_usd_gib
        moving = np.stack([per_gib, per_object], axis=-1) if parted else per_object[..., None]
        rate = 0.0 if deleted_share_year <= 0 else -float(np.expm1(np.log1p(-deleted_share_year) / YEAR_DAYS))
        return cls(
            tariff=base,
            components=2 if parted else 1,
            clocks=clocks,
            shape=(len(middle), states),
            unread_next=np.ascontiguousarray(chain.unread.T, dtype=np.float32),
            read_next=np.ascontiguousarray(chain.read.T, dtype=np.float32),
            gib=gib[:, None].astype(np.float32),
            holding=holding,
            owed=owed,
            lost=rate,
            moving=moving.astype(np.float32),
        )

    def nothing(self) -> list[NDArray[np.float32]]:
        """Give what each class's clocks cost when no day is left."""
        return [np.zeros((self.components, clocks, *self.shape), dtype=np.float32) for clocks in self.clocks]

    def held(self, code: int, later: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give the cost of holding a class today, from what each clock costs tomorrow."""
        following = np.concatenate([later[:, 1:], later[:, -1:]], axis=1)
        states = self.shape[1]
        flat = following.reshape(-1, states)
        if self.tariff.autopilots[code] is None:
            expected = (flat @ (self.unread_next + self.read_next)).reshape(following.shape)
        else:
            expected = (flat @ self.unread_next).reshape(following.shape)
            expected += (later[:, 0].reshape(-1, states) @ self.read_next).reshape(later[:, :1].shape)
        if self.lost > 0:
            owed = np.concatenate([self.owed[code][:, 1:], self.owed[code][:, -1:]], axis=1)
            expected = np.float32(1.0 - self.lost) * expected + np.float32(self.lost) * owed
        total: NDArray[np.float32] = expected + self.holding[code]
        return total

    def best(self, inside: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Give each class's value when the best of staying and moving is done."""
        values = []
        for code, held in enumerate(inside):
            value = held
            for leaving, owed in self._leaving(code, inside):
                away = leaving[:, None] + owed
                better = self._usd(away) < self._usd(value)
                value = np.where(better[None], away, value)
            values.append(value)
        return values

    def followed(self, inside: list[NDArray[np.float32]], targets: list[NDArray[np.int8]]) -> list[NDArray[np.float32]]:
        """Give each class's value when what the targets say is done."""
        values = []
        for code, held in enumerate(inside):
            value = held
            for other in np.unique(targets[code]):
                if other == code:
                    continue
                away = self._arrived(code, int(other), inside)[:, None]
                away = away + self.owed[code] if self.tariff.owes[code, other] else away
                value = np.where((targets[code] == other)[None], away, value)
            values.append(value)
        return values

    def targets(self, inside: list[NDArray[np.float32]]) -> list[NDArray[np.int8]]:
        """Give the class to be in, (L, S, K) for each class."""
        chosen = []
        for code, held in enumerate(inside):
            best = self._usd(held).copy()
            target = np.full(best.shape, code, dtype=np.int8)
            for other in range(len(inside)):
                if other == code or not np.isfinite(self.moving[code, other]).all():
                    continue
                away = self._arrived(code, other, inside)[:, None]
                away = away + self.owed[code] if self.tariff.owes[code, other] else away
                usd = np.broadcast_to(self._usd(away), best.shape)
                better = usd < best
                target[better] = other
                best = np.where(better, usd, best)
            chosen.append(target)
        return chosen

    def _leaving(
        self, code: int, inside: list[NDArray[np.float32]]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32] | float]]:
        """Give the best way out of a class that owes early deletion, and the best that does not, with what is owed."""
        ways: list[tuple[NDArray[np.float32], NDArray[np.float32] | float]] = []
        for owing in (True, False):
            best: NDArray[np.float32] | None = None
            for other in range(len(inside)):
                if (
                    other == code
                    or bool(self.tariff.owes[code, other]) is not owing
                    or not np.isfinite(self.moving[code, other]).all()
                ):
                    continue
                way = self._arrived(code, other, inside)
                best = way if best is None else np.where((self._usd(way) < self._usd(best))[None], way, best)
            if best is not None:
                ways.append((best, self.owed[code] if owing else 0.0))
        return ways

    def _arrived(self, code: int, other: int, inside: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Give the cost of moving to another class and being there today, (components, S, K)."""
        move = self.moving[code, other]
        if self.components == 1:
            per_gib = np.float32(self.tariff.move_usd_gib[code, other])
            arrived: NDArray[np.float32] = inside[other][:, 0] + (move[0] + per_gib * self.gib)[None]
            return arrived
        parted: NDArray[np.float32] = inside[other][:, 0] + move[:, None, None]
        return parted

    def _usd(self, parted: NDArray[np.float32]) -> NDArray[Any]:
        """Give the cost at the size that stands for the interval: the components' axis goes."""
        usd: NDArray[Any] = parted[0] if self.components == 1 else parted[0] * self.gib + parted[1]
        return usd
