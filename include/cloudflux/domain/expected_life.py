"""What one object is expected to be charged over the horizon, part by part, if it is placed by solved tables.

The tables say what a choice is expected to cost; this says of what: an object's chances of being in each state of use,
class and clock are carried forward day by day, and each day's charges are added up by part of the bill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.accounting import (
    EARLY_DELETION,
    MONITORING,
    MOVES,
    PARTS,
    REQUESTS,
    RETRIEVAL,
    STORAGE,
    Tariff,
    tariff_of,
)
from cloudflux.domain.costs import YEAR_DAYS, Codes, Floats
from cloudflux.domain.placement import PlacementTables
from cloudflux.domain.usage import UsageChain


@dataclass(frozen=True, slots=True)
class ExpectedLife:
    """One object's expected charges over the horizon."""

    parts_usd: Floats
    """By ``accounting.PARTS``; the move made today is among ``moves``, what it owes among ``early_deletion``."""
    daily_usd: Floats
    """By day, shape (horizon,)."""
    later_moves: float
    """How often the object is expected to be moved again."""
    class_share: Floats
    """Which share of the days it is expected to be in each class, shape (C,)."""

    @property
    def total_usd(self) -> float:
        """All parts together: what the tables say."""
        return float(self.parts_usd.sum())


def expected_life(
    chain: UsageChain,
    tables: PlacementTables,
    *,
    size_bytes: float,
    state: int,
    class_code: int,
    days_in_class: int,
    idle_days: int,
    target: int | None = None,
    stay: bool = False,
) -> ExpectedLife:
    """Follow one object over the horizon.

    target : the class that it is moved to today; left out, what the tables say is best.
    stay : it is never moved after that.
    """
    tariff = tariff_of(tables.book, size_bytes, tables.class_names, by_client=tables.by_client)
    starts, states = tables.clock_starts, len(chain)
    interval = int(tables.sizes_of(np.array([size_bytes]))[0])
    chances = np.zeros((int(starts[-1]), states))
    clock = int(tables.clocks_of(np.array([class_code]), np.array([days_in_class]), np.array([idle_days]))[0])
    chances[clock, state] = 1.0
    targets = tables.targets[:, interval, :].astype(np.intp)
    first = targets.copy()
    first[clock, state] = targets[clock, state] if target is None else target
    class_of_clock = np.repeat(np.arange(len(tables.class_names)), np.diff(starts))
    held = np.arange(int(starts[-1])) - starts[class_of_clock]
    staying = np.broadcast_to(class_of_clock[:, None], targets.shape)
    bill = _Bill.of(tariff, chain, tables, class_of_clock, held)
    parts, daily = np.zeros(len(PARTS)), np.zeros(tables.horizon_days)
    moved, shares = 0.0, np.zeros(len(tables.class_names))
    survives = 1.0 - bill.lost
    for day in range(tables.horizon_days):
        wanted = first if day == 0 else staying if stay else targets
        charged = np.zeros(len(PARTS))
        chances, moves = _moved(chances, wanted, class_of_clock, bill, charged)
        moved += moves if day else 0.0
        by_clock = chances.sum(axis=1)
        np.add.at(shares, class_of_clock, by_clock)
        charged[STORAGE] += float(by_clock @ bill.storage)
        charged[MONITORING] += float(by_clock @ bill.monitoring)
        # one object has a chance of few clocks only
        live = np.flatnonzero(by_clock > 0)
        few, classes = chances[live], class_of_clock[live]
        reads = few @ chain.reads
        charged[REQUESTS] += float(reads @ bill.request[classes])
        charged[RETRIEVAL] += float(reads @ bill.retrieval[classes])
        charged[MOVES] += float((few @ bill.chance_read) @ bill.promotion[live])
        following = np.zeros_like(chances)
        _add_rows(following, bill.next_unread[live], few @ chain.unread)
        _add_rows(following, bill.next_read[live], few @ chain.read)
        charged[EARLY_DELETION] += bill.lost * float(following.sum(axis=1) @ bill.owed)
        chances = following * survives
        parts += charged
        daily[day] = charged.sum()
    return ExpectedLife(parts, daily, moved, shares / max(shares.sum(), 1e-300))


@dataclass(frozen=True, slots=True)
class _Bill:
    """What a day charges by clock (L,), class (C,), or pair of classes (C, C)."""

    storage: Floats
    monitoring: Floats
    request: Floats
    retrieval: Floats
    promotion: Floats
    owed: Floats
    move: Floats
    owes: NDArray[np.bool_]
    chance_read: Floats
    next_unread: Codes
    next_read: Codes
    lost: float
    starts: Codes

    @classmethod
    def of(
        cls,
        tariff: Tariff,
        chain: UsageChain,
        tables: PlacementTables,
        class_of_clock: Codes,
        held: Codes,
    ) -> _Bill:
        starts = tables.clock_starts
        one = np.zeros(len(held), dtype=np.intp)
        storage, monitoring = tariff.holding_usd(one, class_of_clock, held.astype(np.int64))
        automatic = np.array([found is not None for found in tariff.autopilots])[class_of_clock]
        missing = np.where(automatic, 0, np.maximum(tariff.min_days[class_of_clock] - held, 0))
        promotion = np.zeros(len(held))
        for code, found in enumerate(tariff.autopilots):
            if found is not None and bool(found.watched[0]):
                due = (class_of_clock == code) & (held >= found.promotion_from_idle_days)
                promotion[due] = found.promotion_usd
        last = starts[class_of_clock + 1] - 1
        following = np.minimum(np.arange(len(held)) + 1, last)
        gib = float(tariff.size_gib[0])
        share = tables.deleted_share_year
        return cls(
            storage=storage,
            monitoring=monitoring,
            request=tariff.request_usd,
            retrieval=tariff.retrieval_usd_gib * gib * tables.read_share,
            promotion=promotion,
            owed=missing * tariff.storage_usd_day[0, class_of_clock],
            move=tariff.move_usd + gib * tariff.move_usd_gib,
            owes=tariff.owes,
            chance_read=chain.read.sum(axis=1),
            next_unread=following.astype(np.intp),
            next_read=np.where(automatic, starts[class_of_clock], following).astype(np.intp),
            starts=starts,
            lost=0.0 if share <= 0 else -float(np.expm1(np.log1p(-share) / YEAR_DAYS)),
        )


def _add_rows(total: Floats, places: Codes, rows: Floats) -> None:
    """Add each row to that of ``total`` at its place; places never fall from one row to the next."""
    if len(places):
        firsts = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
        total[places[firsts]] += np.add.reduceat(rows, firsts, axis=0)


def _moved(
    chances: Floats,
    wanted: Codes,
    class_of_clock: Codes,
    bill: _Bill,
    charged: Floats,
) -> tuple[Floats, float]:
    """Move what is to be moved, charge it, and give the chances afterwards and how much was moved."""
    clocks, states = np.nonzero((wanted != class_of_clock[:, None]) & (chances > 0))
    if not len(clocks):
        return chances, 0.0
    weights, sources, goals = chances[clocks, states], class_of_clock[clocks], wanted[clocks, states]
    charged[MOVES] += float(weights @ bill.move[sources, goals])
    charged[EARLY_DELETION] += float(weights @ np.where(bill.owes[sources, goals], bill.owed[clocks], 0.0))
    after = chances.copy()
    after[clocks, states] = 0.0
    arrived = bill.starts[goals] * chances.shape[1] + states
    after += np.bincount(arrived, weights=weights, minlength=after.size).reshape(after.shape)
    return after, float(weights.sum())
