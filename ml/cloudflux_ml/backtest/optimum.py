"""The clairvoyant optimum: the cheapest sequence of classes for each object, by exact dynamic programming.

The state of an object in the morning of a day is its class with, for a class with minimum days, the days held so far
and, for an autopilot, the days idle. Three observations make that cheap without giving up exactness; with R(t) the
reads' cost before day t in the class and m its minimum days:

- Who enters on day e and leaves on day t < e + m owing the missing days pays m days of storage in all, whenever that
  is. So the best such exit is the minimum of R(t) + onward(t) over a window of m - 1 days: a sliding minimum, in
  constant time by cutting the days into blocks of the window's length (van Herk 1992, Gil and Werman 1993).
- Who has been there for m days, or leaves by a move that owes nothing, needs no memory of e: one value a day.
- In an autopilot the first read makes all entries alike. Until then the clock is the days since entry, so that a ring
  of the values of all entry days, each on top of what it has paid since, needs one minimum a day and no shifting.

Backwards over the days this gives the value of entering each class on each day; forwards, each object's schedule. The
schedule is then replayed and charged like every other policy's, so that no cost of the optimum is taken on trust.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.accounting import Account, AutopilotTariff, Tariff
from cloudflux.domain.costs import Codes, Floats
from cloudflux.domain.errors import SettingsError
from cloudflux_ml.backtest.replay import Moves
from cloudflux_ml.backtest.trace import Trace

CHUNK_OBJECTS: Final = 512
"""Objects taken at once: the largest array, an autopilot's ring, then fits into a core's second-level cache."""
_TIE: Final = 1e-10
"""Values closer than this, in shares of what staying in the standard class costs, are one: above rounding."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every move of a window, and what it all costs by the dynamic programme."""

    days: NDArray[np.intp]
    """The day of each move, rising; shape (M,)."""
    rows: Codes
    targets: Codes
    usd: Floats
    """The least cost of each object over the window, shape (N,)."""


class Scheduled:
    """A policy that carries out a schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take no note: all is settled."""

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Give the day's moves."""
        here = slice(*np.searchsorted(self._schedule.days, [day, day + 1]))
        return self._schedule.rows[here], self._schedule.targets[here]


def optimal_schedule(
    trace: Trace,
    tariff: Tariff,
    progress: Callable[[int, int], None] | None = None,
    *,
    owed_at_end: bool = False,
    inside: int | None = None,
) -> Schedule:
    """Find the cheapest schedule of each object over the trace's evaluation window.

    ``inside``: the autopilot of an account that is switched on: every object goes in as soon as it may move, may leave
    from the next day on, and does not go back.
    ``owed_at_end``: what early deletion would charge if all were deleted at the window's end is part of the cost, as
    ``Account.owed_usd`` counts it. ``progress`` is told how many objects are done, and of how many. Raises
    ``SettingsError`` for an autopilot's class with minimum days: no provider has one.
    """
    for code, autopilot in enumerate(tariff.autopilots):
        if autopilot is not None and tariff.min_days[code] > 0 and bool(tariff.owes[code].any()):
            raise SettingsError(
                f"the optimum cannot be found: {tariff.class_names[code]} of price book {tariff.book.name} is an "
                "autopilot with minimum days"
            )
    start = trace.eval_from
    order = np.argsort(trace.created, kind="stable")  # a chunk of late objects has few days
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    first = int(trace.starts[start])
    day_of = np.repeat(np.arange(trace.days), np.diff(trace.starts))[first:]
    column = place[trace.read_rows[first:]]
    by_column = np.argsort(column, kind="stable")
    column, day_of, counts = column[by_column], day_of[by_column], trace.read_counts[first:][by_column]
    found: list[tuple[NDArray[np.intp], Codes, Codes]] = []
    usd = np.zeros(trace.objects)
    for begin in range(0, trace.objects, CHUNK_OBJECTS):
        rows = order[begin : begin + CHUNK_OBJECTS]
        created = np.maximum(trace.created[rows], start)
        here = slice(*np.searchsorted(column, [begin, begin + len(rows)]))
        reads = np.zeros((trace.days - int(created.min()), len(rows)))
        reads[day_of[here] - created.min(), column[here] - begin] = counts[here]
        chunk = _Chunk(tariff, rows, reads, owed_at_end=owed_at_end, inside=inside)
        chunk.look_back()
        days, places, targets, usd[rows] = chunk.schedule(
            created - created.min(), movable=trace.created[rows] < start, settled=trace.created[rows] <= start
        )
        found.append((days + created.min(), rows[places], targets))
        if progress is not None:
            progress(begin + len(rows), trace.objects)
    days, rows, targets = (np.concatenate(parts) for parts in zip(*found, strict=True))
    by_day = np.argsort(days, kind="stable")
    return Schedule(days[by_day], rows[by_day], targets[by_day], usd)


class _Chunk:
    """Some objects over the last T days of a window. Arrays have shape (n,) or (C, n) unless they say otherwise."""

    def __init__(
        self, tariff: Tariff, rows: Codes, reads: Floats, *, owed_at_end: bool, inside: int | None = None
    ) -> None:
        self.reads = reads
        """Shape (T, n)."""
        self.days, self.count = reads.shape
        self.classes = len(tariff.class_names)
        self.standard = tariff.standard_code
        gib = tariff.size_gib[rows]
        self.storage = np.ascontiguousarray(tariff.storage_usd_day[rows].T)
        self.read = tariff.request_usd[:, None] + tariff.retrieval_usd_gib[:, None] * gib
        # the optimum never pays more for one day's reads than for staying where it is all the time; cutting such days
        # changes no schedule, and keeps sums of reads in a class that nobody would use from drowning small differences
        self.stay = self.days * self.storage[self.standard] + reads.sum(axis=0) * self.read[self.standard]
        move = tariff.move_usd[:, :, None] + tariff.move_usd_gib[:, :, None] * gib
        move[np.arange(self.classes), np.arange(self.classes)] = np.inf  # staying is no move
        self.inside = inside
        if inside is not None:
            self.going_in = move[self.standard, inside].copy()
            """What the one move into the autopilot costs."""
            move[:, inside] = np.inf
        self.owed_at_end = owed_at_end
        self.min_days = np.where(tariff.owes.any(axis=1) | owed_at_end, tariff.min_days, 0)
        owing = (tariff.owes & (self.min_days > 0)[:, None])[:, :, None]
        self.move_owing: Floats = np.where(owing, move, np.inf)
        """By source and target, shape (C, C, n): the moves that pay for missing days."""
        self.move_free: Floats = np.where(owing, np.inf, move)
        self.clocks = [
            None if autopilot is None else _Clock(autopilot, rows, gib, self.storage[code])
            for code, autopilot in enumerate(tariff.autopilots)
        ]
        if inside is not None and (clock := self.clocks[inside]) is not None:
            # then it is the autopilot that one can stay in, once the first day is over
            dearest_day = clock.day.max(axis=1) + clock.promotion.max(axis=1)
            self.stay = self.stay + self.days * dearest_day + reads.sum(axis=0) * self.read[inside]
        self.dearest = 2 * self.stay
        shape = (self.days, self.classes, self.count)
        self.entry: Floats = np.empty(shape)
        """The least cost from each day on of being brought into each class on that day, without the move."""
        self.onward_owing: Floats = np.empty(shape)
        """The least cost from each day on of leaving each class on that day by a move that owes, the owed aside."""
        self.onward_free: Floats = np.empty(shape)

    def look_back(self) -> None:
        """Fill in the values of all days, from the last to the first."""
        places: list[_Rented | _Autopiloted] = [
            _Rented(self.days, self.storage[code], int(self.min_days[code]), owed_at_end=self.owed_at_end)
            if clock is None
            else _Autopiloted(self.days, clock)
            for code, clock in enumerate(self.clocks)
        ]
        for day in range(self.days - 1, -1, -1):
            read = np.flatnonzero(self.reads[day])
            for code, place in enumerate(places):
                reading = np.minimum(self.reads[day] * self.read[code], self.dearest)
                self.entry[day, code] = place.enter(day, reading, read)
            for code, place in enumerate(places):
                owing, free = self.onward_owing[day, code], self.onward_free[day, code]
                (self.move_owing[code] + self.entry[day]).min(axis=0, out=owing)
                (self.move_free[code] + self.entry[day]).min(axis=0, out=free)
                place.leave(day, owing, free)
        standard = cast(_Rented, places[self.standard])
        self.start_settled, self.start_held = standard.settled, standard.staying
        """The value of the first day for an object that has been in the standard class for long: movable, and not."""

    def schedule(
        self, first_days: NDArray[np.intp], movable: NDArray[np.bool_], settled: NDArray[np.bool_]
    ) -> tuple[NDArray[np.intp], Codes, Codes, Floats]:
        """Follow the values from the first day on: days, objects and targets of all moves, and each object's cost.

        ``first_days``: each object's first day; ``movable``: whether it may move on that day; ``settled``: whether it
        has been in the standard class for so long that it owes nothing.
        """
        everything = np.arange(self.count)
        left = np.where(movable, self.start_settled, self.start_held)
        left = np.where(settled, left, self.entry[first_days, self.standard, everything])
        free_from = np.where(movable, first_days, first_days + 1)
        if self.inside is not None:
            left = self._going_in(self.inside, first_days, free_from)
            free_from = free_from + 1
        usd = left.copy()
        tie = _TIE * self.stay
        codes = np.full(self.count, self.standard, dtype=np.intp)
        held = np.where(settled, self.min_days[self.standard], 0)
        idle = np.zeros(self.count, dtype=np.int64)
        moves: list[tuple[NDArray[np.intp], Codes, Codes]] = []
        for day in range(self.days):
            there = first_days <= day
            missing = np.maximum(self.min_days[codes] - held, 0) * self.storage[codes, everything]
            owing = self.onward_owing[day, codes, everything] + missing
            free = self.onward_free[day, codes, everything]
            if self.inside is not None and len(rows := np.flatnonzero(free_from == day + 1)):
                moves.append((np.full(len(rows), day), rows, np.full(len(rows), self.inside)))
                codes[rows], held[rows], idle[rows] = self.inside, 0, 0
                left[rows] = self.entry[day, self.inside, rows]
            leaving = free_from <= day
            rows = np.flatnonzero(leaving & (np.minimum(owing, free) <= left + tie))
            if len(rows):
                sources = codes[rows]
                move = np.where(
                    (owing < free)[rows, None], self.move_owing[sources, :, rows], self.move_free[sources, :, rows]
                )
                targets = (move + self.entry[day][:, rows].T).argmin(axis=1)
                moves.append((np.full(len(rows), day), rows, targets))
                codes[rows], held[rows], idle[rows] = targets, 0, 0
                left[rows] = self.entry[day, targets, rows]
            spent = self.storage[codes, everything]
            read = self.reads[day] > 0
            for code, clock in enumerate(self.clocks):
                if clock is not None:
                    inside = np.flatnonzero(codes == code)
                    spent[inside] = clock.day_usd(inside, idle[inside], read[inside])
            spent += np.minimum(self.reads[day] * self.read[codes, everything], self.dearest)
            left -= np.where(there, spent, 0.0)
            held += there
            idle = np.where(read, 0, idle + 1)
        nothing = np.zeros(0, dtype=np.intp)
        days, rows, targets = (
            (np.concatenate(parts) for parts in zip(*moves, strict=True)) if moves else (nothing, nothing, nothing)
        )
        return days, rows, targets, usd

    def _going_in(self, inside: int, first_days: NDArray[np.intp], enter_on: NDArray[np.intp]) -> Floats:
        """Give the value of the first day where an object goes into the autopilot as soon as it may move."""
        everything, late = np.arange(self.count), first_days < enter_on
        read = np.minimum(self.reads[first_days, everything] * self.read[self.standard], self.dearest)
        waiting = np.where(late, self.storage[self.standard] + read, 0.0)
        never = enter_on >= self.days
        days = np.minimum(enter_on, self.days - 1)
        value: Floats = waiting + np.where(never, 0.0, self.going_in + self.entry[days, inside, everything])
        return value


class _Rented:
    """The values of a class with one storage price, day by day backwards."""

    def __init__(self, days: int, storage: Floats, min_days: int, *, owed_at_end: bool) -> None:
        self._storage = storage
        self._min_days = min_days
        self._reads: Floats = np.zeros_like(storage)
        """The cost of all reads from the present day on."""
        self.settled: Floats = np.zeros_like(storage)
        """The value of an object that has its minimum days behind it."""
        self.staying: Floats = np.zeros_like(storage)
        """The same if it does not move today."""
        self._free: Floats = np.zeros_like(storage)
        """The value if it never leaves by a move that owes."""
        self._free_staying: Floats = np.zeros_like(storage)
        self._exits = _SlidingMinimum(min_days - 1, len(storage))
        if owed_at_end and min_days:
            # the window's end is then one more way out that owes the missing days, and no way out that does not
            self._free = np.full_like(storage, np.inf)
            self._free_staying = np.full_like(storage, np.inf)
            self._exits.push(np.zeros_like(storage))
        self._settled_from: Floats = np.full((max(min_days, 1), len(storage)), np.inf)
        """``settled`` less the reads from then on, of the next ``min_days`` days, by day modulo their number."""
        self._settled_from[days % max(min_days, 1)] = 0.0

    def enter(self, day: int, reading: Floats, read: Codes) -> Floats:
        """Give the value of coming in on ``day``, on which the objects ``read`` are read for ``reading``."""
        self._reads = self._reads + reading
        today = self._storage + reading
        self.staying = today + self.settled
        if not self._min_days:
            return self.staying
        self._free_staying = today + self._free
        through = np.minimum(self._exits.value(), self._settled_from[day % self._min_days])
        value: Floats = np.minimum(self._min_days * self._storage + self._reads + through, self._free_staying)
        return value

    def leave(self, day: int, owing: Floats, free: Floats) -> None:
        """Take note of what leaving on ``day`` costs from then on."""
        self.settled = np.minimum(self.staying, np.minimum(owing, free))
        if self._min_days:
            self._free = np.minimum(self._free_staying, free)
            self._exits.push(owing - self._reads)
            self._settled_from[day % self._min_days] = self.settled - self._reads


class _SlidingMinimum:
    """The minimum of the last ``length`` rows pushed, in constant time a row."""

    def __init__(self, length: int, count: int) -> None:
        self._length = length
        self._block: Floats = np.full((max(length, 1), count), np.inf)
        """The rows of the present block, and behind them the suffix minima of the block before."""
        self._filled = 0
        self._minimum: Floats = np.full(count, np.inf)

    def push(self, row: Floats) -> None:
        """Take a row; the oldest falls out."""
        if self._length <= 0:
            return
        if self._filled == self._length:
            self._filled = 0
            self._minimum = np.full_like(self._minimum, np.inf)
        self._block[self._filled] = row
        np.minimum(self._minimum, row, out=self._minimum)
        self._filled += 1
        if self._filled == self._length:
            self._block = np.minimum.accumulate(self._block[::-1], axis=0)[::-1]

    def value(self) -> Floats:
        """Give the minimum; ``inf`` before the first row."""
        minimum: Floats = self._minimum
        if 0 < self._filled < self._length:
            minimum = np.minimum(minimum, self._block[self._filled])
        return minimum


class _Clock:
    """What an autopilot's class charges some objects by days idle: K of them, then the same for ever."""

    def __init__(self, autopilot: AutopilotTariff, rows: Codes, gib: Floats, storage: Floats) -> None:
        watched = autopilot.watched[rows][:, None]
        self.day: Floats = np.where(
            watched,
            autopilot.usd_gib_day * gib[:, None]
            + autopilot.usd_object_day
            + autopilot.monitoring_usd_day[rows][:, None],
            storage[:, None],
        )
        """Storage and monitoring of a day, shape (n, K + 1)."""
        idle = np.arange(self.day.shape[1])
        self.promotion: Floats = np.where(
            watched & (idle >= autopilot.promotion_from_idle_days), autopilot.promotion_usd, 0.0
        )
        """What a read costs on top after so many idle days, shape (n, K + 1)."""

    def day_usd(self, rows: Codes, idle: NDArray[np.int64], read: NDArray[np.bool_]) -> Floats:
        """Give a day's storage, monitoring and promotion of some objects."""
        steps = np.minimum(idle, self.day.shape[1] - 1)
        usd: Floats = self.day[rows, steps] + np.where(read, self.promotion[rows, steps], 0.0)
        return usd


class _Autopiloted:
    """The values of an autopilot's class, day by day backwards."""

    def __init__(self, days: int, clock: _Clock) -> None:
        count, self._steps = clock.day.shape[0], clock.day.shape[1] - 1
        self._clock = clock
        paid = np.concatenate([np.zeros((count, 1)), clock.day.cumsum(axis=1)], axis=1)
        back = -np.arange(2 * self._steps) % self._steps
        self._paid: Floats = np.ascontiguousarray(paid[:, back])
        """Paid by days idle so far, turned so that K columns from anywhere belong to K days of entry in a row."""
        self._paid_when_read: Floats = np.ascontiguousarray((paid[:, 1:] + clock.promotion)[:, back])
        self._paid_at_last: Floats = paid[:, self._steps].copy()
        self._since: Floats = self._paid[:, self._turned(days)].copy()
        """Value and paid so far of who came, or was read last, on each of K days; by day modulo K, shape (n, K)."""
        self._longer: Floats = np.zeros(count)
        """The value of who has been idle for K days or longer."""
        self._sum: Floats = np.empty_like(self._since)

    def enter(self, day: int, reading: Floats, read: Codes) -> Floats:
        """Give the value of coming in on ``day``, on which the objects ``read`` are read for ``reading``."""
        next_day = (day + 1) % self._steps
        read_today = self._since[:, next_day].copy()
        self._since[:, next_day] = self._longer + self._paid_at_last
        longer = self._clock.day[:, -1] + self._longer
        if len(read):
            again = reading[read] + read_today[read]
            self._since[read] = self._paid_when_read[read, self._turned(day)] + again[:, None]
            longer[read] = self._clock.day[read, -1] + self._clock.promotion[read, -1] + again
        self._longer = longer
        return self._since[:, day % self._steps].copy()

    def leave(self, day: int, owing: Floats, free: Floats) -> None:
        """Take note of what leaving on ``day`` costs from then on; nothing is owed."""
        np.add(free[:, None], self._paid[:, self._turned(day)], out=self._sum)
        np.minimum(self._since, self._sum, out=self._since)
        np.minimum(self._longer, free, out=self._longer)

    def _turned(self, day: int) -> slice:
        start = -day % self._steps
        return slice(start, start + self._steps)
