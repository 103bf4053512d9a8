"""Yardsticks, no policies: they are told of the window what nobody can know, and show what knowing it is worth."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloudflux.domain.accounting import Account, Tariff
from cloudflux.domain.costs import Codes
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.placement import PlacementTables, solve_placement
from cloudflux.domain.usage import UsageChain
from cloudflux_ml.backtest.learned import HORIZON_DAYS, History
from cloudflux_ml.backtest.replay import Moves
from cloudflux_ml.backtest.trace import Trace
from cloudflux_ml.usage import (
    CrawlWatch,
    Transitions,
    UsageStates,
    UsageTracker,
    fit_usage_states,
    sample_transitions,
)

_FOLDS: Final = 2


class ToldRates:
    """A yardstick, not a policy: it is told how often each object will be read in the window, but not on which days.

    Each object is placed as if it were read with its true future rate, evenly likely on every day: what no forecast of
    rates, however good, improves on. A policy that reacts to silence and to reads may: it is no bound for those.
    """

    name = "told-rates"
    _RATES = np.concatenate([[0.0], np.exp2(np.arange(-12.0, 0.01, 0.5)), [2.0, 4.0, 16.0, 64.0, 256.0, 1024.0]])

    def __init__(self, trace: Trace, tariff: Tariff, *, horizon_days: int = HORIZON_DAYS) -> None:
        """``trace`` must be told whole."""
        self._sizes = trace.size_bytes.astype(np.float64)
        first = np.maximum(trace.created, trace.eval_from)
        read_days = np.zeros(trace.objects)
        reads = np.zeros(trace.objects)
        for day in range(trace.eval_from, trace.days):
            rows, counts = trace.on(day)
            later = trace.created[rows] < day  # the read that creates an object is before any decision
            read_days[rows[later]] += 1
            reads[rows[later]] += counts[later]
        lived = np.maximum(trace.days - first - (trace.created >= trace.eval_from), 1)
        rate = read_days / lived
        self._states = np.where(rate > 0, np.abs(rate[:, None] - self._RATES[None, 1:]).argmin(axis=1) + 1, 0)
        # days are read or not, so rates above one a day cannot be: the reads of a read day say the rest
        chance = np.minimum(self._RATES, 1.0)
        per_read_day = np.divide(reads.sum(), max(read_days.sum(), 1.0))
        chain = UsageChain(
            unread=np.diag(1.0 - chance), read=np.diag(chance), reads=chance * per_read_day, seen=np.ones_like(chance)
        )
        self._tables = solve_placement(
            chain, tariff.book, tariff.class_names, horizon_days=horizon_days, with_costs=False
        )

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Learn nothing: all is told."""

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Move each object to the class that is expected to cost least at its true rate."""
        rows = np.flatnonzero(movable)
        best = self._tables.best_classes(
            self._states[rows],
            self._sizes[rows],
            account.class_codes[rows],
            account.days_in_class[rows],
            account.idle_days[rows],
        )
        return rows, best


class LearntBound:
    """A yardstick, not a policy: it knows how objects of each kind are used in the window, but no object's own future.

    The objects are dealt into two halves. Each half is placed as CloudFlux places it, over states of use and a chain
    that were learnt from what the *other* half does in the window. What it does not reach, no better knowledge of how
    the world will change would reach either, with these features; only features that say more of the single object
    could. It is no strict bound: the states are as coarse as CloudFlux's, and half of the objects teach less than all.
    """

    name = "learnt-bound"

    def __init__(self, trace: Trace, tariff: Tariff, *, seed: int = 20, horizon_days: int = HORIZON_DAYS) -> None:
        """Learn; ``trace`` must be told whole.

        Raises ``SettingsError`` when a half's days in the window are too few to learn from.
        """
        self._sizes = trace.size_bytes.astype(np.float64)
        self._tracker = UsageTracker(trace.created)
        self._noticed = _without_crawls(trace)
        self._fold = np.random.default_rng(seed).permutation(trace.objects) % _FOLDS
        self._learnt: list[tuple[UsageStates, PlacementTables]] = []
        for fold in range(_FOLDS):
            states = fit_usage_states(_transitions_of(trace, self._noticed, self._fold != fold, seed))
            tables = solve_placement(
                states.chain, tariff.book, tariff.class_names, horizon_days=horizon_days, with_costs=False
            )
            self._learnt.append((states, tables))

    def observe(self, day: int, rows: Codes, reads: NDArray[np.int64]) -> None:
        """Take in a day's reads, without those of crawls."""
        self._tracker.observe(day, *self._noticed.on(day))

    def decide(self, day: int, account: Account, movable: NDArray[np.bool_]) -> Moves | None:
        """Move each object to the class that is expected to cost least."""
        targets = account.class_codes.copy()
        for fold, (states, tables) in enumerate(self._learnt):
            rows = np.flatnonzero(movable & (self._fold == fold))
            targets[rows] = tables.best_classes(
                states.predict(self._tracker.features(rows, day)),
                self._sizes[rows],
                account.class_codes[rows],
                account.days_in_class[rows],
                account.idle_days[rows],
            )
        moving = np.flatnonzero(targets != account.class_codes)
        return moving, targets[moving]


def _without_crawls(trace: Trace) -> History:
    """Give the reads of all days but one on which somebody read everything, and nobody again."""
    watch, noticed = CrawlWatch(), History(trace.created)
    created = np.sort(trace.created)
    for day in range(trace.days):
        rows, reads = trace.on(day)
        crawl = watch.is_crawl(day, len(rows), int(np.searchsorted(created, day, side="right")))
        noticed.add(*((rows[:0], reads[:0]) if crawl else (rows, reads)))
    if watch.first is not None and watch.recurs:
        noticed.replace(watch.first, *trace.on(watch.first))
    return noticed


def _transitions_of(trace: Trace, noticed: History, chosen: NDArray[np.bool_], seed: int) -> Transitions:
    """Draw the window's days of some objects."""
    place = np.cumsum(chosen) - 1
    history = History(trace.created[chosen])
    for day in range(trace.days):
        rows, reads = noticed.on(day)
        here = chosen[rows]
        history.add(place[rows[here]], reads[here].astype(np.int64))
    transitions = sample_transitions(history, end=trace.days, begin=trace.eval_from, seed=seed)
    if not np.isfinite(transitions.labels).all(axis=1).any():
        raise SettingsError(
            f"the yardstick {LearntBound.name} needs more days or objects than {int(chosen.sum())} objects on "
            f"{trace.days - trace.eval_from} days: nothing can be learnt from them"
        )
    return transitions
